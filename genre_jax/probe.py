"""A linear probe: the classifier starts as a logistic regression on the embeddings of the training split.

A random classifier would first send wrong gradients through a network that starts from good weights, and distort its features
(Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", arXiv 2202.10054). The
probe is fitted once, on the mean embedding of each track, which takes one pass over the windows instead of many epochs.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from genre_jax import evaluate, metrics
from genre_jax.console import UserError, say
from genre_jax.data.batches import EvalBatches, label_matrix
from genre_jax.data.shards import Index
from genre_jax.forward import Forward
from genre_jax.parallel import Devices

WINDOWS, FEWEST = 20_000, 2  # about this many windows in all, and at least this many of each track
ABSENT = -10.0  # logit of a class without a training track


def fit(
    indices: Sequence[Index], variables: Any, network: Forward, devices: Devices, config: ConfigDict
) -> dict[str, np.ndarray]:
    """Returns the classifier {"kernel" (dimensions, classes), "bias" (classes,)} for the clips of all `indices`.

    It reads the network's "embedding" of up to `data.segments_per_track` windows of each track.
    Raises `UserError` if scikit-learn is not installed, or if the network has no classifier "fc" that reads its embedding.
    """
    fc = variables["params"].get("fc", {})
    refusal = f"head.start 'logistic' needs a classifier that reads the embedding, and {config.model.name!r} has none"
    if "kernel" not in fc:
        raise UserError(refusal)
    tracks = sum(len(np.unique(index.track)) for index in indices)
    windows = config.copy_and_resolve_references()
    windows.evaluate.windows = "fixed"
    windows.data.segments_per_track = min(config.data.segments_per_track, max(FEWEST, WINDOWS // tracks))
    say(f"fitting the classifier: embeddings of {tracks:,} tracks, up to {windows.data.segments_per_track} windows of each")

    def embed(variables, constants, batch):
        del constants
        return {"embedding": network(variables, batch)[1]["embedding"]}

    step = devices.eval_step(embed)
    features, labels = [], []
    for index in indices:
        means = evaluate.TrackMeans(len(index.tracks))
        batches = EvalBatches(index, windows, jax.process_index(), jax.process_count())
        evaluate.predict(step, variables, {}, batches, devices, windows, means)
        its, counts = metrics.group_sums(label_matrix(index, config.data.labels).astype(np.int64), index.track)
        embedding = means.means()[its].astype(np.float64)
        whole = np.isfinite(embedding).all(1)  # a track whose clips are all damaged has no embedding
        features.append(embedding[whole])
        labels.append(counts[whole] > 0)
    kernel, bias = logistic(np.concatenate(features), np.concatenate(labels), evaluate.task(config), config.head.c)
    if fc["kernel"].shape != kernel.shape:
        raise UserError(refusal)
    say(f"the classifier is a logistic regression on {kernel.shape[0]:,} features")
    return {"kernel": kernel.astype(fc["kernel"].dtype), "bias": bias.astype(fc["bias"].dtype)}


def logistic(features: np.ndarray, labels: np.ndarray, task: str, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit scikit-learn's logistic regression on standardised features.

    Args:
      features: (tracks, dimensions).
      labels: bool (tracks, classes).
      task: "single": multinomial, each class with the same weight; "multi": a regression for each class.
      c: inverse strength of the L2 penalty, > 0.

    Returns kernel (dimensions, classes) and bias (classes,) for features that are not standardised. The logits are natural:
    softmax ("single") or sigmoid ("multi") gives the probabilities of the regression.
    """
    try:
        from sklearn.linear_model import LogisticRegression as Regression
    except ImportError as error:
        raise UserError("head.start 'logistic' needs scikit-learn: pip install scikit-learn") from error
    mean, std = features.mean(0), features.std(0)
    std = np.where(std > 0, std, 1)
    x = (features - mean) / std
    classes = labels.shape[1]
    kernel, bias = np.zeros((x.shape[1], classes)), np.full(classes, ABSENT)

    def fitted(target: np.ndarray, **options: Any) -> Any:
        with warnings.catch_warnings():  # scikit-learn warns if there are many classes of one track
            warnings.filterwarnings("ignore", "The number of unique classes")
            return Regression(C=c, max_iter=1000, **options).fit(x, target)

    if task == "single":
        target = labels.argmax(1)
        present = np.unique(target)
        bias[present] = 0
        if len(present) > 1:
            model = fitted(target, class_weight="balanced")
            weights, offsets = model.coef_, model.intercept_
            if len(present) == 2:  # scikit-learn has a single logit, that of the second class
                weights, offsets = np.concatenate([-weights, weights]) / 2, np.concatenate([-offsets, offsets]) / 2
            kernel[:, present], bias[present] = weights.T, offsets
    else:
        for number in np.flatnonzero(labels.any(0)):
            if labels[:, number].all():
                bias[number] = -ABSENT
                continue
            model = fitted(labels[:, number])
            kernel[:, number], bias[number] = model.coef_[0], model.intercept_[0]
    kernel = kernel / std[:, None]
    return kernel, bias - mean @ kernel
