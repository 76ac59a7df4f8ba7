"""How well a run tells songs of its genres from songs of other genres: `python -m genre_jax.open_set --workdir=RUN`.

    python -m genre_jax.open_set --workdir=RUN --unknown=DATASET[:SPLIT]

The known songs are those of the run's predictions.npz. The unknown songs are a split (by default "test") of another prepared
data set of the same sample rate, whose labels are ignored; without --unknown they are the clips of the run's test split whose
classes `data.classes` leaves out. The windows and the checkpoint are those of the run's evaluation.

Three scores of a track are compared; each is larger for a song that the network knows:

    probability  largest class probability, after the mean over the windows (Hendrycks & Gimpel 2017)
    entropy      minus the entropy of the same mean probabilities, in nats
    energy       mean over the windows of logsumexp(logits), minus the energy of Liu et al. 2020

For a run with several labels per clip, the probabilities are sigmoids, the entropy is the sum over the classes, and the energy
is the sum of log(1 + exp(logit)) (JointEnergy, Wang et al. 2021). AUROC is the probability that a known song scores higher than
an unknown one; FPR95 is the share of unknown songs above the threshold that keeps 95 % of the known ones. RUN then holds
open_set.json and, if Matplotlib is installed, open_set.png.
"""

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from genre_jax import console, metrics
from genre_jax.atomic import write_json
from genre_jax.console import UserError, say
from genre_jax.report import predictions

SCORES = ("probability", "entropy", "energy")
KEPT = 0.95  # share of the known songs above the threshold of `false_positive_rate`


def track_scores(logits: np.ndarray, track: np.ndarray, task: str) -> dict[str, np.ndarray]:
    """Score → value of each track, float64 `(tracks,)`, in ascending order of track number.

    Args:
      logits: `(windows, classes)`.
      track: track number of each window, `(windows,)`.
      task: "single" or "multi".
    """
    logits = np.asarray(logits, np.float64)
    p = np.clip(metrics.group_probabilities(logits, track, task), 1e-300, 1)
    rest = np.clip(1 - p, 1e-300, 1)
    if task == "single":
        largest = logits.max(1)
        energy = largest + np.log(np.exp(logits - largest[:, None]).sum(1))
        entropy = -(p * np.log(p)).sum(1)
    else:
        energy = np.logaddexp(0, logits).sum(1)
        entropy = -(p * np.log(p) + rest * np.log(rest)).sum(1)
    windows = metrics.group_sums(np.ones(len(track)), track)[1]
    return {"probability": p.max(1), "entropy": -entropy, "energy": metrics.group_sums(energy, track)[1] / windows}


def false_positive_rate(known: np.ndarray, unknown: np.ndarray, kept: float = KEPT) -> float:
    """The share of `unknown` scores at or above the largest threshold that `kept` of the `known` scores reach."""
    threshold = np.sort(known)[::-1][math.ceil(kept * len(known) - 1e-9) - 1]
    return float(np.mean(unknown >= threshold))


def compare(known: Mapping[str, np.ndarray], unknown: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Score → {"auroc", "fpr95", "known_mean", "unknown_mean"} of the scores of known and unknown tracks."""
    out = {}
    for name in SCORES:
        targets = np.repeat([1, 0], [len(known[name]), len(unknown[name])])
        values = np.concatenate([known[name], unknown[name]])
        out[name] = {
            "auroc": float(metrics.roc_auc(targets[:, None], values[:, None])[0]),
            "fpr95": false_positive_rate(known[name], unknown[name]),
            "known_mean": float(known[name].mean()),
            "unknown_mean": float(unknown[name].mean()),
        }
    return out


def known_table(workdir: Path) -> dict[str, np.ndarray]:
    """The predictions of a run for its own test split. Raises `UserError`."""
    path = workdir / "predictions.npz"
    if not path.exists():
        raise UserError(f"{path} is missing: the run must be finished, run the training command again")
    try:
        return predictions.read(path)
    except predictions.Damaged as error:
        raise UserError(f"{path} cannot be used: {error}") from error


def unknown_index(config: ConfigDict, unknown: str) -> Any:
    """The index of the unknown clips: of "DATASET[:SPLIT]", or of the classes that the run left out if `unknown` is ""."""
    from genre_jax.data import locate, select

    if not unknown:
        return left_out(select.load(locate.find(config), config.data.test), config.data.classes)
    name, _, split = unknown.partition(":")
    other = config.copy_and_resolve_references()
    other.data.name = name
    locate.check_name(name, config.data.data_dir)
    return select.load(locate.find(other), split or "test")


def left_out(index: Any, classes: list[str]) -> Any:
    """The clips of an index that have labels, but none of `classes`. Raises `UserError` if there are none."""
    if not classes:
        raise UserError("the run learned all classes of its data set: name other songs by --unknown=DATASET[:SPLIT]")
    learned = np.isin(index.classes, classes)
    others = index.labels.any(1) & ~index.labels[:, learned].any(1)
    if not others.any():
        raise UserError(f"split {index.split!r} of data set {index.data_set!r} has only clips of the classes of the run")
    return index.without({name for name, other in zip(index.names, others, strict=True) if not other})


def predict(workdir: Path, config: ConfigDict, index: Any) -> dict[str, np.ndarray]:
    """The logits of the run for all windows of an index, with the columns of `evaluate.predict`."""
    from genre_jax import evaluate, forward, parallel
    from genre_jax.data.batches import EvalBatches
    from genre_jax.run import devices_of
    from genre_jax.weights import pretrained

    devices = devices_of(config)
    devices.check_batch("evaluate.batch_size", config.evaluate.batch_size)
    _, labels, variables, _ = pretrained.load_trained(workdir)
    network = forward.build(config, len(labels), parallel.AXIS)

    def step(variables, constants, batch):
        del constants
        return {"logits": network(variables, batch)[0]}

    batches = EvalBatches(index, config)
    return evaluate.predict(devices.eval_step(step), devices.replicate(variables), {}, batches, devices, config)


def draw(path: Path, known: Mapping[str, np.ndarray], unknown: Mapping[str, np.ndarray], result: Mapping[str, Any]) -> None:
    """Draw the histograms of the three scores for known and unknown tracks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(SCORES)), SCORES, strict=True):
        edges = np.histogram_bin_edges(np.concatenate([known[name], unknown[name]]), 20)
        for values, label, style in ((known[name], "known", "stepfilled"), (unknown[name], "unknown", "step")):
            shares = np.full(len(values), 1 / len(values))
            axes.hist(values, edges, weights=shares, histtype=style, label=label, alpha=0.6 if style == "stepfilled" else 1)
        axes.set(title=f"{name}: AUROC {result[name]['auroc']:.3f}", ylabel="share of tracks")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    figure.savefig(path, dpi=120)


def define_flags() -> None:
    """Define the flags of this command. Not at import, because the tests import it beside other commands."""
    flags.DEFINE_string("workdir", None, "Workdir of a finished run.")
    flags.DEFINE_string("unknown", "", "Prepared data set with songs of other genres, DATASET[:SPLIT].")


def main(argv: list[str]) -> None:
    """Score the songs, print the table, and write open_set.json and open_set.png."""
    args = flags.FLAGS
    if args.workdir is None or argv[1:]:
        raise UserError(
            "--workdir=RUN is needed, and nothing beside flags: python -m genre_jax.open_set --workdir=RUN "
            "--unknown=DATASET:SPLIT"
        )
    open_set(Path(args.workdir), args.unknown)


def open_set(workdir: Path, unknown: str) -> dict[str, Any]:
    """Do what this command does; return the content of open_set.json. Raises `UserError`."""
    import jax

    from genre_jax import config as configs
    from genre_jax import evaluate

    known = known_table(workdir)
    config = configs.read_json(workdir / "config.json")
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    index = unknown_index(config, unknown)
    if shared := sorted(set(index.classes) & set(known["classes"].tolist())) if unknown else []:
        say(f"warning: {index.data_set!r} also has the class {shared[0]!r} of the run; all of its clips count as unknown")
    table = predict(workdir, config, index)
    if not np.isfinite(table["logits"]).all():
        raise UserError(f"{workdir} computes scores that are not finite for {index.data_set!r}: its weights cannot be used")
    task = evaluate.task(config)
    scores = {
        "known": track_scores(known["logits"], known["track"], task),
        "unknown": track_scores(table["logits"], table["track"], task),
    }
    comparison = compare(scores["known"], scores["unknown"])
    counts = {part: len(values["energy"]) for part, values in scores.items()}
    result: dict[str, Any] = {"schema": 1, "known_tracks": counts["known"], "unknown_tracks": counts["unknown"]}
    result |= {"unknown": f"{index.data_set}:{index.split}", "scores": comparison}
    write_json(workdir / "open_set.json", result)
    say(f"{counts['known']} known tracks, {counts['unknown']} unknown tracks of {result['unknown']}")
    say(f"{'score':<12} {'AUROC':>7} {'FPR95':>7} {'known':>9} {'unknown':>9}")
    for name, row in comparison.items():
        numbers = f"{row['auroc']:7.4f} {row['fpr95']:7.4f} {row['known_mean']:9.4f} {row['unknown_mean']:9.4f}"
        say(f"{name:<12} {numbers}")
    if importlib.util.find_spec("matplotlib") is None:
        console.complain("no open_set.png: Matplotlib is not installed")
    else:
        draw(workdir / "open_set.png", scores["known"], scores["unknown"], comparison)
    return result


if __name__ == "__main__":
    define_flags()
    console.run(main)
