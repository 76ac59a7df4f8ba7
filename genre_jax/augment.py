"""Augmentation of waveforms on the device, inside the compiled step; each example draws from a key of its own."""

import zlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict


def example_keys(base: jax.Array, visit: jax.Array, clip: jax.Array, variant: jax.Array) -> jax.Array:
    """One key an example from (run, visit, clip, variant) `(batch,)`: no device, step or place in the batch enters."""

    def key(visit, clip, variant):
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(base, visit), clip), variant)

    return jax.vmap(key)(visit, clip, variant)


def cap_gain(y: jax.Array, maximum: jax.Array, cap: float) -> jax.Array:
    """Scale clips whose largest sample (of the whole clip, signed, as document 000's code has it) exceeds `cap` down to it.

    `y` (batch, samples), `maximum` (batch,).
    """
    gain = jnp.where(maximum > cap, cap / jnp.maximum(maximum, cap), 1.0)
    return y * gain.astype(y.dtype)[:, None]


def augment(y: jax.Array, keys: jax.Array, config: ConfigDict) -> jax.Array:
    """Apply the random augmentations that `config.augment` switches on to waveforms `(batch, samples)`."""

    def own(name: str) -> jax.Array:
        return jax.vmap(lambda key: jax.random.fold_in(key, zlib.crc32(name.encode())))(keys)

    if config.gain_db:
        decibels = jax.vmap(lambda key: jax.random.uniform(key, (), y.dtype, -1, 1))(own("gain")) * config.gain_db
        y = y * 10 ** (decibels / 20)[:, None]
    if config.polarity:
        flip = jax.vmap(lambda key: jax.random.bernoulli(key, config.polarity))(own("polarity"))
        y = jnp.where(flip[:, None], -y, y)
    if config.shift:
        y = jax.vmap(lambda key, row: _shift(key, row, config.shift))(own("shift"), y)
    return y


def _shift(key: jax.Array, y: jax.Array, probability: float) -> jax.Array:
    whether, amount = jax.random.split(key)
    by = jax.random.randint(amount, (), 0, y.shape[0])
    return jnp.roll(y, jnp.where(jax.random.bernoulli(whether, probability), by, 0))
