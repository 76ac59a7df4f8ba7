"""The tables of document 003 as one: networks that tell speech, music and noise apart, by clip length, size and latency."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genre_jax import metrics
from genre_jax.console import UserError
from genre_jax.report import formats
from genre_jax.report.runs import Run, finite
from genre_jax.report.systems import by_seed, title
from genre_jax.report.tables import Column, Table

CLASSES = ("speech", "music", "noise")
LEGAL = ({"speech", "music"}, set(CLASSES))  # classes of MUSAN, and of GTZAN music/speech
FRAME, HOP = 0.025, 0.01  # seconds of a frame and from frame to frame, in the document and in `bench latency`
SPREAD = ("mean", "s.d.")
BYTES = 4  # of a float32 weight


def read_latency(path: str | Path) -> dict[tuple[str, int], float]:
    """Read the file that `bench latency --json` writes: (network, frames of the clip) → milliseconds.

    Raises `UserError` if the file cannot be read, or is another one.
    """
    try:
        rows = json.loads(Path(path).read_bytes())["rows"]
        return {
            (str(row["network"]), int(frames)): float(milliseconds)
            for row in rows
            for frames, milliseconds in zip(row["frames"], row["milliseconds"], strict=True)
        }
    except OSError as error:
        raise UserError(f"--latency={path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"--latency={path} is not a record of latencies: make it with `python -m genre_jax.bench latency --json=FILE`"
        ) from error


def table(runs: Sequence[Run], links: Sequence[str], latency: Mapping[tuple[str, int], float]) -> Table | None:
    """The table of the runs whose classes are speech, music and noise, or speech and music; None if there are none.

    Scores are those of windows, which the document calls clips. Runs that differ only in their seed are one row, with the mean
    and the standard deviation. `latency` is the result of `read_latency`, or empty.
    """
    systems = by_seed([run for run in runs if run.predictions and _classes(run) in map(sorted, LEGAL)])
    scores = [[_scores(run) for run in system] for system in systems]
    shown = [name for name in CLASSES if any(name in of[0] for of in scores)]
    rows = []
    for system, of in zip(systems, scores, strict=True):
        run = system[0]
        spread = [_spread([each.get(key, np.nan) for each in of]) for key in ("overall", "binary", *shown, "f1")]
        parameters = (run.results or {}).get("parameters")
        kilobytes = finite(parameters) * BYTES / 1000
        name = _value(run, "model", "name")
        facts = (name, "yes" if _value(run, "distill", "teacher") else "no", _seconds(run))
        rows.append((title(system), *facts, *spread, parameters, kilobytes, latency.get((str(name), _frames(run)))))
    columns = (
        *(Column("Run"), Column("Network"), Column("Distilled"), Column("Clip, s", lambda value: formats.number(value, 1))),
        *(Column(text, formats.spread, SPREAD) for text in ("Overall", "Speech/non-speech")),
        *(Column(f"Recall, {name}", formats.spread, SPREAD) for name in shown),
        *(Column("Macro F1", formats.spread, SPREAD), Column("Parameters", formats.number)),
        Column("Weights, kB", formats.number),
        Column("Latency, ms", lambda value: formats.number(value, 2)),
    )
    if not latency:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    link_of = {id(run): link for run, link in zip(runs, links, strict=True)}
    chosen = [link_of[id(system[0])] for system in systems]
    return Table("speech", "Speech, music, noise", columns, rows, chosen) if rows else None


def _classes(run: Run) -> list[str]:
    return sorted(str(name).casefold() for name in (run.predictions or {})["classes"])


def _scores(run: Run) -> dict[str, float]:
    """Scores of the windows of a run: "overall", "binary" (speech or not), "f1", and the recall by the name of each class."""
    predicted = run.predictions or {}
    confusion = metrics.Examples(predicted["target"], predicted["labels"], predicted["logits"]).confusion
    names = [str(name).casefold() for name in predicted["classes"]]
    speech = np.array(names) == "speech"
    agree = speech[:, None] == speech[None, :]
    total = confusion.sum()
    if not total:
        return {}
    recalls = metrics.precision_recall_f1(confusion)["recall"]
    return {
        "overall": confusion.trace() / total,
        "binary": confusion[agree].sum() / total,
        "f1": metrics.macro_precision_recall_f1(confusion)["f1"],
        **dict(zip(names, recalls.tolist(), strict=True)),
    }


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean of the seeds, and their standard deviation (with n - 1) if there are several."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _value(run: Run, section: str, key: str) -> object:
    """A key of the config; None if it is not there: the configs of earlier versions lack some."""
    values = run.config.get(section)
    return values.get(key) if isinstance(values, dict) else None


def _seconds(run: Run) -> float:
    predicted = run.predictions or {}
    rate = int(predicted["sample_rate"])
    return int(predicted["samples"]) / rate if rate else np.nan


def _frames(run: Run) -> int:
    """Number of frames of a window, at 100 frames a second."""
    seconds = _seconds(run)
    return round((seconds - FRAME) / HOP) + 1 if seconds >= FRAME else 0
