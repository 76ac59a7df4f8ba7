"""Augmentation of examples and features on the device: mixup of examples with their labels, masks of features."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.special import betaincinv

from genre_jax.augment.waveform import own_keys

NAMES = ("mixup", "mask")  # applied in this order, after those of `waveform.AUGMENTATIONS`


def mixup(
    keys: jax.Array, mine: tuple[Any, jax.Array], *, other: tuple[Any, jax.Array], valid: jax.Array, alpha: float
) -> tuple[Any, jax.Array]:
    """Mix examples and their labels: share · mine + (1 - share) · other (Zhang et al., ICLR 2018).

    Args:
      keys: (batch,).
      mine, other: (x, labels (batch, classes)), floats; x is an array (batch, …) or a tree of them.
      valid: (batch,), 0 if there is no other example; then an example stays as it is.
      alpha: of Beta(alpha, alpha). `share` is the larger part of the draw, therefore every example stays the main part of
        its own mixture.
    """
    place = np.linspace(0, 1, 4097)
    quantiles = betaincinv(alpha, alpha, 0.5 + place / 2)  # of the larger part; `jax.random.beta` takes seconds to compile
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (), mine[1].dtype))(own_keys(keys, "mixup"))
    share = jnp.interp(uniform, place.astype(uniform.dtype), quantiles.astype(uniform.dtype))
    share = jnp.where(valid > 0, share, 1)

    def mix(a, b):
        weight = share.reshape(-1, *[1] * (a.ndim - 1)).astype(a.dtype)
        return weight * a + (1 - weight) * b

    return jax.tree.map(mix, mine, other)


def mask(x: jax.Array, keys: jax.Array, config: ConfigDict, upright: bool = False) -> jax.Array:
    """Set bands and time spans of features to the minimum of each clip (SpecAugment: Park et al., Interspeech 2019).

    Args:
      x: features `(batch, frames, bins)`, or images `(batch, bins, frames, 1)`, with `upright` `(batch, frames, bins, 1)`.
      keys: (batch,).
      config: the config's `augment.mask`. Widths are uniform between 0 and its shares of the axis, rounded down; places are
        uniform. The paper counts widths in bins and frames, and masks by the mean.
    """
    frames, bins = (0, 1) if x.ndim == 3 or upright else (1, 0)

    def inside(key, size, count, most):
        wide, where = jax.random.uniform(key, (2, count, 1))
        width = jnp.floor(wide * (1 + int(most * size)))
        first = jnp.floor(where * (1 + size - width))
        place = jnp.arange(size)
        return ((place >= first) & (place < first + width)).any(0)

    def one(key, row):
        hidden = jnp.zeros(row.shape, bool)
        for axis, count, most, number in (
            (bins, config.frequency, config.frequency_width, 0),
            (frames, config.time, config.time_width, 1),
        ):
            if count:
                part = inside(jax.random.fold_in(key, number), row.shape[axis], count, most)
                hidden |= jnp.expand_dims(part, [other for other in range(row.ndim) if other != axis])
        return jnp.where(hidden, row.min(), row)

    return jax.vmap(one)(own_keys(keys, "mask"), x)
