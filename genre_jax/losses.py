"""Losses by name. Each gives one value and one weight per example, so that any grouping of examples has the same mean."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class Loss(NamedTuple):
    """A loss, and the task that it trains for. The mean over examples is sum(value · weight) / sum(weight).

    Attributes:
      task: "single" (one label per clip) or "multi" (several); it decides the scores, and how `tag` turns logits into
        probabilities.
      values: (logits (batch, classes), labels (batch, classes), class_weights (classes,)) → (batch,).
      weights: (labels (batch, classes), class_weights (classes,)) → (batch,).
      smooth: (labels (batch, classes), amount) → smoothed labels.
    """

    task: str
    values: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    weights: Callable[[jax.Array, jax.Array], jax.Array]
    smooth: Callable[[jax.Array, float], jax.Array]


def _softmax_values(logits: jax.Array, labels: jax.Array, class_weights: jax.Array) -> jax.Array:
    del class_weights
    return optax.softmax_cross_entropy(logits, labels.astype(logits.dtype))


def _softmax_weights(labels: jax.Array, class_weights: jax.Array) -> jax.Array:
    return labels.astype(class_weights.dtype) @ class_weights


def _softmax_smooth(labels: jax.Array, amount: float) -> jax.Array:
    return (1 - amount) * labels + amount / labels.shape[-1]


def _sigmoid_values(logits: jax.Array, labels: jax.Array, class_weights: jax.Array) -> jax.Array:
    terms = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
    return (terms * class_weights.astype(logits.dtype)).mean(-1)


def _sigmoid_weights(labels: jax.Array, class_weights: jax.Array) -> jax.Array:
    return jnp.ones(labels.shape[0], class_weights.dtype)


def _sigmoid_smooth(labels: jax.Array, amount: float) -> jax.Array:
    return (1 - amount) * labels + amount / 2


LOSSES = {
    # Cross-entropy of one label per clip (one-hot), equal to `torch.nn.CrossEntropyLoss(weight=…)`. Smoothing spreads a share
    # of the label over all classes (Szegedy et al. 2016), as its `label_smoothing` does.
    "softmax": Loss("single", _softmax_values, _softmax_weights, _softmax_smooth),
    # Binary cross-entropy of every class, averaged over the classes, equal to `torch.nn.BCEWithLogitsLoss(weight=…)`.
    # Smoothing moves the labels towards 1/2.
    "sigmoid": Loss("multi", _sigmoid_values, _sigmoid_weights, _sigmoid_smooth),
}


def hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share (batch,) of the labels of each example that are among its k largest logits; k is the number of its labels.

    With one label this is accuracy; with several it is the validation metric of document 000.
    """
    rank = jnp.argsort(jnp.argsort(-logits, axis=-1, stable=True), axis=-1)
    count = labels.sum(-1, dtype=jnp.int32)
    inside = (rank < count[:, None]) & (labels > 0)
    return inside.sum(-1) / jnp.maximum(count, 1)
