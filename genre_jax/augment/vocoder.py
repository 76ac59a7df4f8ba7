"""Pitch and tempo of a waveform on the device, by traced amounts: phase vocoder and band-limited resampling.

`stretch_and_shift` is `librosa.effects.time_stretch` and `pitch_shift` in jnp, both in one pass, its shapes static. Signals
here are `(samples,)`; batches come through `jax.vmap`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.frontends.stft import fft_window, magphase, overlap_add, stft

LOBES = 4  # of the Lanczos kernel that resamples, each side


def stretch_and_shift(
    y: jax.Array, rate: jax.Array, semitones: jax.Array, *, n_fft: int = 2048, most: float = 12.0
) -> tuple[jax.Array, jax.Array]:
    """`y` (samples,) played `rate` times as fast and `semitones` higher, (samples,), cut off or zero-padded at its end.

    Args:
      rate, semitones: traced scalars, rate > 0 and |semitones| ≤ `most` (at most 24).
      n_fft: samples of the vocoder's Hann windows, a quarter of which lie between frames, as librosa has it.

    Returns the signal, and how many of its samples (int32) the stretched signal fills.
    """
    samples, ratio = y.shape[0], 2.0 ** (semitones / 12)
    count = math.ceil(samples * 2 ** (most / 12)) + math.ceil(LOBES * 2 ** (most / 12)) + 1
    longer = phase_vocoder(y, rate / ratio, count, n_fft=n_fft)
    out = resample(longer, ratio, samples, most=2 ** (most / 12)) if most else longer[:samples]
    filled = jnp.minimum(jnp.round(samples / rate), samples).astype(jnp.int32)
    return jnp.where(jnp.arange(samples) < filled, out, 0), filled


def phase_vocoder(y: jax.Array, rate: jax.Array, count: int, *, n_fft: int = 2048) -> jax.Array:
    """The first `count` samples of `librosa.effects.time_stretch(y, rate=rate)`, zeros after its end.

    librosa adds up phases that advance by the angle between neighbouring frames, unwrapped about each bin's own frequency; only
    their phasors count, in which turns do not show, so that here the phasors are multiplied.
    """
    z = stft(y, n_fft=n_fft)
    frames = len(z)
    step = rate * jnp.arange(-(-(count + n_fft // 2) // (n_fft // 4)), dtype=y.dtype)
    whole = jnp.minimum(step.astype(jnp.int32), frames)
    magnitude, phase = magphase(jnp.pad(z, ((0, 2), (0, 0))))
    part, exists = (step - jnp.floor(step))[:, None], (step < frames)[:, None]
    size = jnp.where(exists, (1 - part) * magnitude[whole] + part * magnitude[whole + 1], 0)
    advance = phase[whole + 1] * phase[whole].conj()
    turned = jax.lax.associative_scan(jnp.multiply, jnp.concatenate([phase[:1], advance[:-1]]))
    taper = fft_window("hann", n_fft, n_fft).astype(y.dtype)
    total = overlap_add(jnp.fft.irfft(size * turned, n=n_fft) * taper, n_fft // 4)
    weight = overlap_add(exists * taper**2, n_fft // 4)
    total = total / jnp.where(weight > np.finfo(y.dtype).tiny, weight, 1)
    inside = jnp.arange(count) < jnp.round(y.shape[0] / rate)
    return jnp.where(inside, total[n_fft // 2 : n_fft // 2 + count], 0)


def resample(y: jax.Array, factor: jax.Array, count: int, *, most: float, wrap: bool = False) -> jax.Array:
    """`y` at 0, factor, 2 · factor, …, (count,), by a Lanczos kernel that keeps what a faster signal cannot carry from folding.

    `factor` lies between 1 / most and most < 4; beyond its ends `y` is zero, or goes round where `wrap`.
    """
    whole, part = multiples(factor, count)
    cutoff = jnp.minimum(1.0, 1.0 / factor)  # of the input's Nyquist frequency
    reach = math.ceil(LOBES * most)
    offset = jnp.arange(1 - reach, reach + 1)
    distance = (part[:, None].astype(y.dtype) - offset) * cutoff
    kernel = jnp.where(jnp.abs(distance) < LOBES, jnp.sinc(distance) * jnp.sinc(distance / LOBES), 0.0)
    index = whole[:, None] + offset
    values = y[index % y.shape[0]] if wrap else y.at[jnp.where(index < 0, y.shape[0], index)].get(mode="fill", fill_value=0)
    return (values * kernel).sum(-1) / kernel.sum(-1)


def multiples(factor: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Whole and fractional part of 0, 1, … count - 1 times `factor` < 4, to 2⁻¹⁶ a factor; float32 would jitter by 0.01.

    In 32-bit integers: factor = (256 · high + low) / 2¹⁶, for count < 2²⁰.
    """
    fixed = jnp.round(factor * 2**16).astype(jnp.int32)
    index = jnp.arange(count, dtype=jnp.int32)
    low = index * (fixed & 255)
    coarse = index * (fixed >> 8) + (low >> 8)  # in units of 2⁻⁸
    return coarse >> 8, ((coarse & 255) * 256 + (low & 255)) / 2**16
