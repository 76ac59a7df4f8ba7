"""Changes of pitch and tempo on the device by traced amounts: phase vocoder and band-limited resampling.

`stretch_and_shift` does in one pass, with static shapes, what `librosa.effects.time_stretch` and `pitch_shift` do. Signals are
`(samples,)`; use `jax.vmap` for batches.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.frontends.stft import fft_window, magphase, overlap_add, stft

LOBES = 4  # lobes of the Lanczos resampling kernel on each side


def stretch_and_shift(
    y: jax.Array, rate: jax.Array, semitones: jax.Array, *, n_fft: int = 2048, most: float = 12.0
) -> tuple[jax.Array, jax.Array]:
    """Play `y` (samples,) `rate` times as fast and `semitones` higher; the result is cut off or zero-padded to (samples,).

    Args:
      rate: traced scalar > 0.
      semitones: traced scalar with |semitones| ≤ `most`.
      n_fft: length of the Hann windows of the vocoder in samples; the hop length is a quarter of it, as in librosa.
      most: largest magnitude of `semitones`, at most 24.

    Returns the signal, and the number of its samples (int32) that the stretched signal fills.
    """
    samples, ratio = y.shape[0], 2.0 ** (semitones / 12)
    count = math.ceil(samples * 2 ** (most / 12)) + math.ceil(LOBES * 2 ** (most / 12)) + 1
    longer = phase_vocoder(y, rate / ratio, count, n_fft=n_fft)
    out = resample(longer, ratio, samples, most=2 ** (most / 12)) if most else longer[:samples]
    filled = jnp.minimum(jnp.round(samples / rate), samples).astype(jnp.int32)
    return jnp.where(jnp.arange(samples) < filled, out, 0), filled


def phase_vocoder(y: jax.Array, rate: jax.Array, count: int, *, n_fft: int = 2048) -> jax.Array:
    """The first `count` samples of `librosa.effects.time_stretch(y, rate=rate)`, with zeros after its end.

    librosa adds up phases, which advance by the unwrapped angle between neighbouring frames. Only the phasors of these phases
    matter, and whole turns do not change a phasor; therefore this function multiplies phasors.
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
    """Interpolate `y` at 0, factor, 2 · factor, … (count,) with a Lanczos kernel that also prevents aliasing.

    `factor` lies between 1 / most and most < 4. Beyond its ends `y` is zero, or periodic if `wrap` is true.
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
    """Integer and fractional parts of 0, 1, … count - 1 times `factor` < 4, with `factor` rounded to 2⁻¹⁶.

    The computation is in 32-bit integers, factor = (256 · high + low) / 2¹⁶, for count < 2²⁰; float32 would jitter by 0.01.
    """
    fixed = jnp.round(factor * 2**16).astype(jnp.int32)
    index = jnp.arange(count, dtype=jnp.int32)
    low = index * (fixed & 255)
    coarse = index * (fixed >> 8) + (low >> 8)  # in units of 2⁻⁸
    return coarse >> 8, ((coarse & 255) * 256 + (low & 255)) / 2**16
