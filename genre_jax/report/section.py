"""The part of the page about one run: its figures and audio files are written to its folder, and its tables are collected."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax.report import clips, formats, run_map, scores, tracks
from genre_jax.report.classes import calibrated, class_scores
from genre_jax.report.comparison import CURVES, median
from genre_jax.report.runs import Run, finite
from genre_jax.report.tables import Column, Table
from genre_jax.weights import musicnn

OPTIMISER = {"learning_rate": "Learning rate", "gradient_norm": "Gradient norm"}


def section(run: Run, output: Path, prefix: str, runs: int) -> tuple[dict, list[Table]]:
    """Return the template's values for one run, and its tables; write its figures and audio to `output/prefix`.

    The names of the tables begin with the prefix, which is "" or "run-NUMBER/". The more `runs` the page has, the fewer clips
    and tracks of each are shown.
    """
    folder = output / prefix
    folder.mkdir(parents=True, exist_ok=True)
    audio = clips.Audio(run, (run.results or {}).get("split", "test"))
    sounds = {"test": audio} | ({"train": clips.Audio(run, run.train_split)} if run.trained else {})
    accuracy, kinds, without_baselines = scores.accuracy_table(run)
    values: dict[str, Any] = {
        "name": run.name,
        "start": start(run.config),
        "prefix": prefix,
        "faults": run.faults,
        "results": run.results,
        "multi": run.task == "multi",
        "last_step": max((int(line["step"]) for line in run.metrics), default=None),
        "classes": len(run.predictions["classes"]) if run.predictions else None,
        "kinds": kinds,
        "without_baselines": without_baselines,
        "curves": _draw_curves(run, folder),
        "throughput": _draw_throughput(run, folder),
        "without_audio": audio.missing,
        "config": _printable_json(run.config),
    }
    values |= _worst(run, sounds, folder, runs)
    worst = {"test": values["mistakes"], "train": values["trained"]}
    values |= run_map.section(run, sounds, worst, folder, _share(run_map.MOST_SOUNDS, runs))
    values["tracks"] = tracks.pages(run, audio, folder / "tracks", _share(tracks.MOST, runs))
    tables = {
        "accuracy": accuracy,
        "scores": scores.metric_table(run),
        "nearest": values["map"] and values["map"]["nearest"],
        "analogies": values["map"] and values["map"]["analogies"],
        "tracks_table": tracks.as_table(values["tracks"]) if values["tracks"] else None,
        "environment": _environment(run),
    }
    tables |= {f"{key}_table": _clip_table(key, values[key]) for key in ("mistakes", "trained")}
    values |= class_scores(run, folder) | calibrated(run, folder)
    return _collect(values | tables, prefix)


def start(config: dict) -> str:
    """A sentence that says where the weights of a run come from; "" if they are random."""
    source, head = config.get("init_from"), config.get("head")
    if not isinstance(source, str) or not source:
        return ""
    music = {"MSD": "tags of the Million Song Dataset", "MTT": "tags of MagnaTagATune"}
    tags = music.get(musicnn.NAMES.get(source, "")[:3])
    text = f"The network starts from {formats.text(source)}{f' (published weights, {tags})' if tags else ''}."
    if isinstance(head, dict) and head.get("start") == "logistic":
        text += " Its classifier starts as a linear probe: a logistic regression on the embeddings of the training tracks."
    return text


def _collect(values: dict, prefix: str) -> tuple[dict, list[Table]]:
    """Put the prefix before the names of the tables in `values` and before their links; return both."""
    named = {
        key: dataclasses.replace(
            table,
            name=prefix.replace("/", "-") + table.name,
            links=[f"{prefix}{link}" for link in table.links],
        )
        for key, table in values.items()
        if isinstance(table, Table)
    }
    return values | named, list(named.values())


def _share(most: int, runs: int) -> int:
    """How many of at most `most` clips or tracks a page of several runs shows of each: drawing them takes minutes."""
    return min(most, max(4, 2 * most // runs))


def _worst(run: Run, audio: dict[str, clips.Audio], folder: Path, runs: int) -> dict:
    """The worst test clips, and the training clips with the highest loss, with their files."""
    found: dict = {"mistakes": [], "trained": [], "without_training_audio": ""}
    if run.predictions:
        found["mistakes"] = clips.worst_clips(run.predictions, run.task, most=_share(clips.WORST, runs))
    clips.with_players(found["mistakes"], audio["test"], folder / "mistakes")
    if run.trained:
        found["trained"] = clips.worst_clips(run.trained, run.task, only_wrong=False, most=_share(clips.WORST_TRAINING, runs))
        found["without_training_audio"] = audio["train"].missing
    clips.with_players(found["trained"], audio.get("train", audio["test"]), folder / "training")
    return found


def _clip_table(key: str, worst: list[dict]) -> Table | None:
    if not worst:
        return None
    if key == "trained":
        return clips.as_table("worst-training-clips", "Training clips with the highest loss", worst)
    return clips.as_table("worst-clips", "Clips with the worst predictions", worst)


def _environment(run: Run) -> Table | None:
    columns = (Column("Item"), Column("Value"))
    return Table("environment", "Environment", columns, list(run.environment.items())) if run.environment else None


def _printable_json(config: dict) -> str:
    """The config as JSON, with escapes for control characters and for marks that reorder text; "" if it is empty."""
    lines = json.dumps(config, indent=2, ensure_ascii=False).splitlines() if config else []
    return "\n".join(line[: len(line) - len(line.lstrip())] + formats.text(line) for line in lines)


def _draw_curves(run: Run, folder: Path) -> list[tuple[dict, str]]:
    from genre_jax.report import figures

    logged = {key for line in run.metrics if line.get("split") in ("train", "validation") for key in line}
    shown = {key: title for key, title in CURVES.items() if key in logged}
    pictures = []
    if shown:
        picture = figures.save(folder / "curves.png", figures.curves({run.name: run.metrics}, shown), narrow=True)
        pictures.append((picture, f"{' and '.join(shown.values())} against the step, training and validation"))
    columns = {title: figures.series(run.metrics, "train", key) for key, title in OPTIMISER.items() if key in logged}
    if columns:
        picture = figures.save(folder / "optimiser.png", figures.panels(columns, "step"), narrow=True)
        pictures.append((picture, f"{' and '.join(columns)} against the step"))
    return pictures


def _draw_throughput(run: Run, folder: Path) -> dict | None:
    """Draw the throughput and the waiting time against time; return the figure and the medians."""
    from genre_jax.report import figures

    keys = ("seconds", "clips_per_second", "waiting")
    if not run.timings:
        return None
    table = np.array([[finite(line.get(key)) for key in keys] for line in run.timings])
    minutes = table[:, 0] / 60
    columns = {"Clips per second": (minutes, table[:, 1]), "Time waiting for data": (minutes, table[:, 2])}
    draw = figures.panels(columns, "minutes", percent=("Time waiting for data",))
    medians = {key: median(run.timings, key) for key in keys[1:]}
    return {"picture": figures.save(folder / "throughput.png", draw, narrow=True)} | medians
