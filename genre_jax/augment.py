"""Augmentation of waveforms on the device, inside the compiled step; each example draws from a key of its own."""

import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

LOBES = 4  # of the Lanczos kernel that resamples, each side
OCTAVES = 8  # below Nyquist in which the random equaliser draws a gain


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

    if config.speed:
        y = jax.vmap(lambda key, row: _speed(key, row, config.speed))(own("speed"), y)
    if config.equalise_db:
        y = jax.vmap(lambda key, row: _equalise(key, row, config.equalise_db))(own("equalise"), y)
    if config.gain_db:
        decibels = jax.vmap(lambda key: jax.random.uniform(key, (), y.dtype, -1, 1))(own("gain")) * config.gain_db
        y = y * 10 ** (decibels / 20)[:, None]
    if config.polarity:
        flip = jax.vmap(lambda key: jax.random.bernoulli(key, config.polarity))(own("polarity"))
        y = jnp.where(flip[:, None], -y, y)
    if config.shift:
        y = jax.vmap(lambda key, row: _shift(key, row, config.shift))(own("shift"), y)
    return y


def _speed(key: jax.Array, y: jax.Array, most: float) -> jax.Array:
    """Play `y` (samples,) faster or slower, pitch and tempo together, by a factor between 1 / (1 + most) and 1 + most.

    Uniform in log; the cut is read on from its start where it is too short. (Ko et al., "Audio augmentation for speech
    recognition", Interspeech 2015.)
    """
    factor = jnp.exp(jax.random.uniform(key, (), y.dtype, -1, 1) * jnp.log1p(most))
    whole, part = _multiples(factor, y.shape[0])
    cutoff = jnp.minimum(1.0, 1.0 / factor)  # of the input's Nyquist frequency: what the faster signal can still carry
    reach = math.ceil(LOBES * (1 + most))
    offset = jnp.arange(1 - reach, reach + 1)
    distance = (part[:, None].astype(y.dtype) - offset) * cutoff
    kernel = jnp.where(jnp.abs(distance) < LOBES, jnp.sinc(distance) * jnp.sinc(distance / LOBES), 0.0)
    return (y[(whole[:, None] + offset) % y.shape[0]] * kernel).sum(-1) / kernel.sum(-1)


def _multiples(factor: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Whole and fractional part of 0, 1, … count - 1 times `factor` < 4, to 2⁻¹⁶ a factor; float32 would jitter by 0.01.

    In 32-bit integers: factor = (256 · high + low) / 2¹⁶, for count < 2²⁰.
    """
    fixed = jnp.round(factor * 2**16).astype(jnp.int32)
    index = jnp.arange(count, dtype=jnp.int32)
    low = index * (fixed & 255)
    coarse = index * (fixed >> 8) + (low >> 8)  # in units of 2⁻⁸
    return coarse >> 8, ((coarse & 255) * 256 + (low & 255)) / 2**16


def _equalise(key: jax.Array, y: jax.Array, most: float) -> jax.Array:
    """Filter `y` (samples,) with a random curve: a gain within ± `most` dB an octave, straight lines in log frequency."""
    spectrum = jnp.fft.rfft(y)
    octave = np.log2(np.maximum(np.arange(len(spectrum)) / len(spectrum), 2.0 ** -(OCTAVES - 1)))  # 0 at Nyquist
    decibels = jax.random.uniform(key, (OCTAVES,), y.dtype, -most, most)
    gain = 10 ** (jnp.interp(octave.astype(y.dtype), np.arange(1 - OCTAVES, 1).astype(y.dtype), decibels) / 20)
    return jnp.fft.irfft(spectrum * gain, n=y.shape[0])


def _shift(key: jax.Array, y: jax.Array, probability: float) -> jax.Array:
    whether, amount = jax.random.split(key)
    by = jax.random.randint(amount, (), 0, y.shape[0])
    return jnp.roll(y, jnp.where(jax.random.bernoulli(whether, probability), by, 0))
