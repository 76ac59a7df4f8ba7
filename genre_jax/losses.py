"""Losses by name: each gives one value and one weight an example, so that any grouping of examples sums to the same mean."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class Loss(NamedTuple):
    """`values(logits, labels, class_weights)` and `weights(labels, class_weights)`, both (batch,); `smooth(labels, amount)`.

    `logits` and `labels` are (batch, classes), `class_weights` (classes,); the mean is sum(value · weight) / sum(weight).
    """

    values: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    weights: Callable[[jax.Array, jax.Array], jax.Array]
    smooth: Callable[[jax.Array, float], jax.Array]


def _softmax_values(logits: jax.Array, labels: jax.Array, class_weights: jax.Array) -> jax.Array:
    del class_weights
    return optax.softmax_cross_entropy(logits, labels.astype(logits.dtype))


def _softmax_weights(labels: jax.Array, class_weights: jax.Array) -> jax.Array:
    return labels.astype(class_weights.dtype) @ class_weights


def _sigmoid_values(logits: jax.Array, labels: jax.Array, class_weights: jax.Array) -> jax.Array:
    terms = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
    return (terms * class_weights.astype(logits.dtype)).mean(-1)


def _sigmoid_weights(labels: jax.Array, class_weights: jax.Array) -> jax.Array:
    return jnp.ones(labels.shape[0], class_weights.dtype)


def _softmax_smooth(labels: jax.Array, amount: float) -> jax.Array:
    return (1 - amount) * labels + amount / labels.shape[-1]


def _sigmoid_smooth(labels: jax.Array, amount: float) -> jax.Array:
    return (1 - amount) * labels + amount / 2


LOSSES = {
    # Cross-entropy of one label a clip (one-hot), as `torch.nn.CrossEntropyLoss(weight=…)`; smoothed labels
    # are a share of all classes (Szegedy et al. 2016), as its `label_smoothing`.
    "softmax": Loss(_softmax_values, _softmax_weights, _softmax_smooth),
    # Binary cross-entropy of every class, averaged over classes, as `torch.nn.BCEWithLogitsLoss(weight=…)`; labels
    # are smoothed towards 1/2.
    "sigmoid": Loss(_sigmoid_values, _sigmoid_weights, _sigmoid_smooth),
}


def hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share (batch,) of each example's labels among its k largest logits, k = number of its labels.

    With one label this is plain accuracy; with many it is the thesis's validation metric (document 000).
    """
    rank = jnp.argsort(jnp.argsort(-logits, axis=-1, stable=True), axis=-1)
    count = labels.sum(-1, dtype=jnp.int32)
    inside = (rank < count[:, None]) & (labels > 0)
    return inside.sum(-1) / jnp.maximum(count, 1)
