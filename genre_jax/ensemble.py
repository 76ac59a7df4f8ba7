"""Average the probabilities of several runs on the same clips: `python -m genre_jax.ensemble --output=DIR RUN…`.

    python -m genre_jax.ensemble --output=DIR [--weights=2,1,1] RUN RUN…

RUN is the workdir of a finished run. The probability of a class for a clip is the weighted mean over the runs; that of a run
is the mean over the windows of the clip, so that the runs may have windows of other lengths, other front ends and other sample
rates. Clips are matched by their names. DIR then holds config.json, predictions.npz and results.json as a workdir does, with
one row for each clip, and `python -m genre_jax.report` shows it beside the runs. It holds no weights of a network.

The ensemble of the windows of a song by one run is the vote of `metrics.vote_scores`, which every results.json has.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from genre_jax import console, metrics
from genre_jax.atomic import read_json, write_json, write_whole
from genre_jax.console import UserError, say
from genre_jax.report import predictions

SMALLEST = 1e-12  # probabilities are kept at this distance from 0 and 1, so that their logarithms are finite
KEPT = ("data_set", "split", "sample_rate", "directory")  # entries of results.json that say where the audio is
Table = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Member:
    """What an ensemble reads from a run. Arrays have one row for each clip, in the order of `names`.

    Attributes:
      workdir: of the run.
      results: content of its results.json.
      classes: in the order of the columns.
      names: of the clips, sorted.
      tracks: track of each clip.
      probabilities: mean over the windows, float64 `(clips, classes)`.
      labels: all labels, uint8 `(clips, classes)`.
      target: class that softmax trains on, int32 `(clips,)`.
      sample_rate, samples: of the windows.
    """

    workdir: Path
    results: dict[str, Any]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    tracks: tuple[str, ...]
    probabilities: np.ndarray
    labels: np.ndarray
    target: np.ndarray
    sample_rate: int
    samples: int

    @property
    def task(self) -> str:
        """The task of the run, "single" or "multi"."""
        return self.results["task"]


def read(workdir: Path) -> Member:
    """Read the predictions of a finished run. Raises `UserError`."""
    results = read_json(workdir / "results.json", dict)
    if results.get("task") not in ("single", "multi"):
        raise UserError(f"{workdir / 'results.json'} names no task: run the training command again")
    path = workdir / "predictions.npz"
    if not path.exists():
        raise UserError(f"{path} is missing: it holds the predictions of a run, which an ensemble averages")
    try:
        table = predictions.read(path)
    except predictions.Damaged as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    if not len(table["clip"]):
        raise UserError(f"{path} holds no clips")
    clips, first = np.unique(table["clip"], return_index=True)
    names = table["clip_names"][clips]
    order = np.argsort(names, kind="stable")
    rows = first[order]
    labels = table["labels"][rows].astype(np.uint8)
    return Member(
        workdir=workdir,
        results=results,
        classes=tuple(table["classes"].tolist()),
        names=tuple(names[order].tolist()),
        tracks=tuple(table["track_names"][table["track"][rows]].tolist()),
        probabilities=metrics.group_probabilities(table["logits"], table["clip"], results["task"])[order],
        labels=labels,
        target=table["target"][rows].astype(np.int32),
        sample_rate=int(table["sample_rate"]),
        samples=int(table["samples"]),
    )


def check(members: Sequence[Member]) -> None:
    """Raise `UserError` unless all runs have the task, the classes, the clips and the labels of the first."""
    first = members[0]
    for other in members[1:]:
        pair = f"{first.workdir} and {other.workdir}"
        if other.task != first.task:
            raise UserError(f"{pair} have different tasks ({first.task!r} and {other.task!r}): choose runs of one task")
        if other.classes != first.classes:
            differing = sorted(set(first.classes) ^ set(other.classes))
            what = f"{differing[0]!r} is in only one of them" if differing else "their order differs"
            raise UserError(f"{pair} have different classes ({what}): choose runs on the same data set")
        if differing := sorted(set(first.names) ^ set(other.names)):
            raise UserError(
                f"{pair} were not tested on the same clips ({len(differing)} clips are in only one of them, such as "
                f"{differing[0]!r}): choose runs with the same test split"
            )
        if not np.array_equal(other.labels, first.labels) or other.tracks != first.tracks:
            raise UserError(f"{pair} have other labels or tracks for the same clips: choose runs on the same data set")


def combine(members: Sequence[Member], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean of the probabilities of the runs, `(clips, classes)`."""
    return np.average([member.probabilities for member in members], axis=0, weights=weights)


def table_of(member: Member, probabilities: np.ndarray) -> Table:
    """The columns of predictions.npz with one row for each clip of a member.

    The logits are the logarithms of the probabilities (task "single"), or their log odds ("multi"); softmax and sigmoid give
    the probabilities back. The loss is the cross-entropy without class weights, 0 for a clip without a target.
    """
    p = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
    positive, negative = np.log(p), np.log1p(-p)
    labels = member.labels.astype(bool)
    rows = np.arange(len(p))
    single = member.task == "single"
    if single:
        loss = np.where(member.target >= 0, -positive[rows, member.target], 0.0)
    else:
        loss = -np.where(labels, positive, negative).mean(1)
    track_names, track = np.unique(np.array(member.tracks), return_inverse=True)
    return {
        "logits": positive if single else positive - negative,
        "labels": member.labels,
        "target": member.target,
        "loss": loss,
        "clip": rows.astype(np.int32),
        "track": track.astype(np.int32),
        "start": np.zeros(len(p), np.int32),
        "classes": np.array(member.classes),
        "clip_names": np.array(member.names),
        "track_names": track_names,
    }


def write(output: Path, members: Sequence[Member], weights: Sequence[float], table: Table, summary: dict[str, Any]) -> None:
    """Write config.json, predictions.npz and results.json of an ensemble."""
    first = members[0]
    output.mkdir(parents=True, exist_ok=True)
    runs = {"runs": [str(member.workdir) for member in members], "weights": list(weights)}
    name = f"ensemble of {len(members)}"
    write_json(output / "config.json", {"name": name, "ensemble": runs})
    with write_whole(output / "predictions.npz") as file:
        window = {"sample_rate": first.sample_rate, "samples": first.samples}
        np.savez_compressed(file, allow_pickle=False, **table, **window)
    counts = {"windows": len(table["clip"]), "clips": len(table["clip"]), "tracks": len(table["track_names"])}
    where = {key: first.results[key] for key in KEPT if key in first.results}
    parameters = [member.results["parameters"] for member in members if "parameters" in member.results]
    known = {"parameters": sum(parameters)} if len(parameters) == len(members) else {}
    whole = {"schema": 1, "run": name, "ensemble": runs} | where | counts | {"task": first.task} | known | summary
    write_json(output / "results.json", whole)


def headline(summary: dict[str, Any], task: str) -> dict[str, float | None]:
    """The scores that are printed: of clips and of tracks, by the mean probability."""
    name = "accuracy" if task == "single" else "mean_average_precision"
    levels = {level: summary[level]["max_probability"] if task == "single" else summary[level] for level in ("clip", "track")}
    return {"loss": summary["loss"]} | {f"{level} {name.replace('_', ' ')}": scores[name] for level, scores in levels.items()}


def parse_weights(text: str, count: int) -> list[float]:
    """The weights of `count` runs, with sum 1; "" = equal weights. Raises `UserError`."""
    try:
        weights = [float(part) for part in text.split(",")] if text else [1.0] * count
    except ValueError:
        weights = []
    if len(weights) != count or not all(0 <= weight < float("inf") for weight in weights) or not sum(weights):
        raise UserError(f"--weights needs {count} numbers, at least 0 and not all 0, as in 2,1, and was given {text!r}")
    return [weight / sum(weights) for weight in weights]


def define_flags() -> None:
    """Define the flags of this command. Not at import, because the tests import it beside other commands."""
    flags.DEFINE_string("output", None, "Folder for config.json, predictions.npz and results.json.")
    flags.DEFINE_string("weights", "", "Weights of the runs, such as 2,1,1; equal weights by default.")


def main(argv: list[str]) -> None:
    """Write the ensemble of the runs, and print its scores beside theirs."""
    args, runs = flags.FLAGS, argv[1:]
    if args.output is None or len(runs) < 2:
        raise UserError("--output=DIR and two or more runs are needed: python -m genre_jax.ensemble --output=DIR RUN RUN…")
    output = Path(args.output)
    if (output / "checkpoints").exists():
        raise UserError(f"{output} is the workdir of a run: choose another --output")
    weights = parse_weights(args.weights, len(runs))
    members = [read(Path(run)) for run in runs]
    check(members)
    table = table_of(members[0], combine(members, weights))
    summary = metrics.summarise(table, members[0].task)
    write(output, members, weights, table, summary)
    tables = {run: table_of(member, member.probabilities) for run, member in zip(runs, members, strict=True)}
    alone = {run: metrics.summarise(table, members[0].task) for run, table in tables.items()}
    for name, scores in (*alone.items(), (str(output), summary)):
        shown = headline(scores, members[0].task)
        say(f"{name}: " + "  ".join(f"{key} {'–' if value is None else f'{value:.4f}'}" for key, value in shown.items()))


if __name__ == "__main__":
    define_flags()
    console.run(main)
