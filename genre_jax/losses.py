"""Losses by name: each gives one value and one weight an example, so that any grouping of examples sums to the same mean."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def softmax(logits: jax.Array, labels: jax.Array, class_weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of one label a clip.

    Args:
      logits: (batch, classes).
      labels: (batch, classes), one-hot.
      class_weights: (classes,).

    Returns:
      Losses (batch,) and weights (batch,): the mean is sum(loss · weight) / sum(weight), as in
      `torch.nn.CrossEntropyLoss(weight=…)`.
    """
    targets = labels.astype(logits.dtype)
    return optax.softmax_cross_entropy(logits, targets), targets @ class_weights.astype(logits.dtype)


def sigmoid(logits: jax.Array, labels: jax.Array, class_weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Binary cross-entropy of every class, averaged over classes (`torch.nn.BCEWithLogitsLoss(weight=…)`).

    Shapes as in `softmax`; class weights multiply each class's term, every example weighs 1.
    """
    terms = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
    return (terms * class_weights.astype(logits.dtype)).mean(-1), jnp.ones(logits.shape[0], logits.dtype)


def hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share (batch,) of each example's labels among its k largest logits, k = number of its labels.

    With one label this is plain accuracy; with many it is the thesis's validation metric (document 000).
    """
    rank = jnp.argsort(jnp.argsort(-logits, axis=-1, stable=True), axis=-1)
    count = labels.sum(-1, dtype=jnp.int32)
    inside = (rank < count[:, None]) & (labels > 0)
    return inside.sum(-1) / jnp.maximum(count, 1)


LOSSES: dict[str, Callable[..., tuple[jax.Array, jax.Array]]] = {"softmax": softmax, "sigmoid": sigmoid}
