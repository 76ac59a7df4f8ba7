"""Exact evaluation: a table with the scores of every window, and the numbers that are computed from it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from genre_jax import console, hosts, metrics
from genre_jax.atomic import write_whole
from genre_jax.console import UserError
from genre_jax.data.batches import EvalBatches, prefetch
from genre_jax.data.shards import Index
from genre_jax.losses import LOSSES
from genre_jax.parallel import Devices

Table = dict[str, np.ndarray]


class TrackMeans:
    """The mean of an output of the network over the windows of each track.

    Args:
      tracks: number of tracks of the split.
    """

    def __init__(self, tracks: int):
        self._counts = np.zeros(tracks, np.int64)
        self._sums: np.ndarray | None = None

    def add(self, values: np.ndarray, track: np.ndarray) -> None:
        """Add the outputs (windows, dimensions) of windows of the tracks (windows,)."""
        if self._sums is None:
            self._sums = np.zeros((len(self._counts), values.shape[1]))
        np.add.at(self._sums, track, values)
        np.add.at(self._counts, track, 1)

    def means(self) -> np.ndarray:
        """The means float32 (tracks, dimensions); NaN for tracks without a window."""
        assert self._sums is not None, "a split has windows"
        with np.errstate(invalid="ignore"):
            return (self._sums / self._counts[:, None]).astype(np.float32)


def predict(
    eval_step: Any,
    variables: Any,
    constants: Any,
    batches: EvalBatches,
    devices: Devices,
    config: ConfigDict,
    embeddings: TrackMeans | None = None,
) -> Table:
    """Run `eval_step` on every window, and return its outputs in the order of (clip, start).

    With `train.eval_step` the table is {"logits" (rows, classes), "labels" (rows, classes), "target", "loss", "weight", "clip",
    "track", "start" (rows,)}. The labels are all labels of the clip, the target is the number of its first label (-1 without
    label). Rows that pad the last batch are dropped, therefore the table is the same for every batch size and number of
    devices. The output "embedding" (rows, dimensions) is no column: it is added to `embeddings`.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for batch in prefetch(batches, 0, len(batches), config.data.reader, config.data.prefetch):
        outputs = devices.gather(eval_step(variables, constants, devices.shard(batch)))
        rows = devices.gather_rows({key: batch[key] for key in ("clip", "track", "start", "mask")})
        hosts.check()
        valid = rows.pop("mask") > 0
        embedding = outputs.pop("embedding", None)
        if embeddings is not None and embedding is not None:
            embeddings.add(embedding[valid], rows["track"][valid])
        for key, values in (outputs | rows).items():
            columns.setdefault(key, []).append(values[valid])
    table = {key: np.concatenate(values) for key, values in columns.items()}
    order = np.lexsort((table["start"], table["clip"]))  # the rows of several hosts are interleaved
    table = {key: values[order] for key, values in table.items()}
    index = batches.index
    return table | {"labels": index.labels[table["clip"]], "target": index.first_label[table["clip"]]}


def task(config: ConfigDict) -> str:
    """The task of the config's loss: "single" if each clip has one label, "multi" if it may have several."""
    return LOSSES[config.loss.name].task


def scores(table: Table, config: ConfigDict, classes: Sequence[str]) -> dict[str, Any]:
    """The loss of a table, and its scores by window, clip, track and class, as in results.json."""
    summary = metrics.summarise(table | {"classes": np.array(classes)}, task(config))
    return summary | {"loss": float(np.average(table["loss"].astype(np.float64), weights=table["weight"]))}


SELECTED = {"single": "max track/max_probability/accuracy", "multi": "max clip/mean_average_precision"}


def selectable(task: str) -> list[str]:
    """The scores that `evaluate.select` may name: paths in results.json, with "/" between keys."""
    levels = (
        [f"{level}/{rule}" for level in ("clip", "track") for rule in metrics.VOTES] if task == "single" else ["clip", "track"]
    )
    return ["loss", *(f"{level}/{name}" for level in ["raw", *levels] for name in metrics.METRICS[task])]


def check_select(config: ConfigDict) -> None:
    """Raise `UserError` unless `evaluate.select` is "auto", or max or min and a score of the task."""
    direction, _, path = config.evaluate.select.partition(" ")
    if config.evaluate.select != "auto" and direction not in ("max", "min"):
        raise UserError(
            "config key 'evaluate.select' must be auto, or max or min and a score, as in 'min loss', and was given "
            f"{config.evaluate.select!r}"
        )
    tasks = ("single", "multi") if config.loss.name == "auto" else (task(config),)
    legal = {score: None for task in tasks for score in selectable(task)}
    if path and path not in legal:
        raise console.unknown("score in evaluate.select", path, legal)


def at(summary: Mapping[str, Any], path: str) -> float | None:
    """The score of `scores` at a path such as "track/majority/accuracy"; None if it is not defined."""
    value: Any = summary
    for key in path.split("/"):
        value = value[key]
    return value


def headline(summary: dict[str, Any], config: ConfigDict) -> dict[str, float]:
    """The numbers of a validation line. The best checkpoint has the largest "score", which `evaluate.select` chooses.

    Single label: accuracy of windows, and of tracks by summed probability. Several labels: mean average precision over clips.
    Where clips have several labels, also the micro top-k accuracy of document 000 over windows.
    """
    raw = summary["raw"]
    shown: dict[str, float | None] = {"loss": summary["loss"]}
    if task(config) == "single":
        shown |= {"accuracy": raw["accuracy"], "track_accuracy": summary["track"]["max_probability"]["accuracy"]}
        if raw["top_k_accuracy"] != raw["accuracy"]:
            shown["top_k_accuracy"] = raw["top_k_accuracy"]
    else:
        precision = summary["clip"]["mean_average_precision"]
        shown |= {"top_k_accuracy": raw["top_k_accuracy"], "mean_average_precision": precision}
    select = SELECTED[task(config)] if config.evaluate.select == "auto" else config.evaluate.select
    direction, path = select.split()
    shown["score"] = at(summary, path)
    numbers = {key: value or 0.0 for key, value in shown.items()}  # None if a score is not defined, as without any label
    return numbers | {"score": -numbers["score"] if direction == "min" else numbers["score"]}


def save_predictions(path: Path, table: Table, embedding: np.ndarray, index: Index, config: ConfigDict) -> None:
    """Write the table, the names of classes, clips and tracks, and the `embedding` of each track, as `predictions.npz`."""
    with write_whole(path) as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            **{key: table[key] for key in ("logits", "labels", "target", "loss", "clip", "track", "start")},
            classes=np.array(index.classes),
            clip_names=np.array(index.names),
            track_names=np.array(index.tracks),
            embedding=embedding,
            sample_rate=index.sample_rate,
            samples=config.data.samples,
        )
