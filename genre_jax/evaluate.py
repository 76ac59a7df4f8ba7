"""Exact evaluation: a table with the scores of every window, and the numbers that are computed from it."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from genre_jax import metrics
from genre_jax.atomic import write_whole
from genre_jax.data.batches import EvalBatches, prefetch
from genre_jax.data.shards import Index
from genre_jax.losses import LOSSES
from genre_jax.parallel import Devices

Table = dict[str, np.ndarray]


def predict(
    eval_step: Any, variables: Any, constants: Any, batches: EvalBatches, devices: Devices, config: ConfigDict
) -> Table:
    """Run `eval_step` on every window, and return its outputs in the order of (clip, start).

    With `train.eval_step` the table is {"logits" (rows, classes), "labels" (rows, classes), "loss", "weight", "clip", "track",
    "start" (rows,)}. Rows that pad the last batch are dropped, therefore the table is the same for every batch size and
    number of devices.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for batch in prefetch(batches, 0, len(batches), config.data.reader, config.data.prefetch):
        outputs = devices.gather(eval_step(variables, constants, devices.shard(batch)))
        rows = devices.gather({key: batch[key][None] for key in ("labels", "clip", "track", "start", "mask")})
        valid = rows.pop("mask") > 0
        for key, values in (outputs | rows).items():
            columns.setdefault(key, []).append(values[valid])
    table = {key: np.concatenate(values) for key, values in columns.items()}
    order = np.lexsort((table["start"], table["clip"]))  # the rows of several hosts are interleaved
    return {key: values[order] for key, values in table.items()}


def task(config: ConfigDict) -> str:
    """The task of the config's loss: "single" if each clip has one label, "multi" if it may have several."""
    return LOSSES[config.loss.name].task


def scores(table: Table, config: ConfigDict) -> dict[str, Any]:
    """The loss of a table, and its scores by window, clip and track, as in results.json; `table` may have `classes`, names."""
    summary = metrics.summarise(table | {"target": metrics.first_labels(table["labels"])}, task(config))
    return summary | {"loss": float(np.average(table["loss"].astype(np.float64), weights=table["weight"]))}


def headline(summary: dict[str, Any]) -> dict[str, float]:
    """The numbers of a validation line; "score" chooses the best checkpoint.

    Single label: accuracy of windows, and of tracks by summed probability (the score). Several labels: the top-k accuracy of
    document 000 over windows, and the mean average precision over clips (the score).
    """
    if "accuracy" in summary["raw"]:
        track = summary["track"]["max_probability"]["accuracy"]
        return {"loss": summary["loss"], "accuracy": summary["raw"]["accuracy"], "track_accuracy": track, "score": track}
    precision = summary["clip"]["mean_average_precision"] or 0.0  # None if no class has a positive
    accuracy = summary["raw"]["top_k_accuracy"]
    return {"loss": summary["loss"], "accuracy": accuracy, "mean_average_precision": precision, "score": precision}


def save_predictions(path: Path, table: Table, index: Index, config: ConfigDict) -> None:
    """Write the table with the names of classes, clips and tracks as `predictions.npz`."""
    with write_whole(path) as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            **{key: table[key] for key in ("logits", "labels", "loss", "clip", "track", "start")},
            classes=np.array(index.classes),
            clip_names=np.array(index.names),
            track_names=np.array(index.tracks),
            sample_rate=index.sample_rate,
            samples=config.data.samples,
        )
