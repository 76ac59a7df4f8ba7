"""Amplitude compression of spectrograms `(..., frames, bins)`: decibels, logarithm, per-channel energy normalisation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.frontends.scaling import as_features
from genre_jax.frontends.stft import at_least

COMPRESSIONS = ("none", "db", "db_below_max", "ln", "log10", "pcen")


def compress(x: jax.Array, how: str, *, power: float, top_db: float | None, sr: float, hop_length: int) -> jax.Array:
    """Compress a spectrogram by the method that a config names, `(..., frames, bins)` → same shape.

    Args:
      x: array (..., frames, bins), |STFT|^power.
      how: str. "none"; "db" (decibels relative to 1); "db_below_max" (decibels relative to the maximum of the clip);
        "ln" (natural logarithm of x + 1e-6); "log10" (log10(1 + 10,000 x), as in musicnn); "pcen".
      power: float > 0, exponent of the magnitude in x.
      top_db: float ≥ 0, range of "db" and "db_below_max" below the maximum of the clip in dB. None means no limit.
      sr, hop_length: sample rate in Hz and samples from frame to frame, for "pcen".
    """
    if how not in COMPRESSIONS:
        raise console.unknown("compression", how, COMPRESSIONS)
    if how.startswith("db"):
        s = x if power == 2 else x ** (2 / power)
        return power_to_db(s, ref="max" if how == "db_below_max" else 1.0, top_db=top_db)
    if how == "ln":
        return log_offset(x)
    if how == "log10":
        return jnp.log10(1 + 10_000 * x)
    # librosa's PCEN expects waveforms in [-2³¹, 2³¹].
    return x if how == "none" else pcen(x * 2.0 ** (31 * power), sr=sr, hop_length=hop_length)


def power_to_db(s: jax.Array, *, ref: float | str = 1.0, amin: float = 1e-10, top_db: float | None = 80.0) -> jax.Array:
    """Convert power to decibels, 10 log10(s / ref), `(..., frames, bins)` → same shape.

    Equals `librosa.power_to_db`, except that librosa 0.11 computes `top_db` from the maximum of the batch.

    Args:
      s: array (..., frames, bins), power ≥ 0.
      ref: float, the power of 0 dB; or "max" for the maximum of each clip over frames and bins.
      amin: float > 0, lower limit of s and ref.
      top_db: float ≥ 0, lower limit in dB below the maximum of each clip. None means no limit.

    Raises `UserError` if an argument is out of range.
    """
    if not amin > 0:
        raise UserError(f"amin must be positive, and was given {amin}")
    if top_db is not None and top_db < 0:
        raise UserError(f"top_db must be None or at least 0 dB, and was given {top_db}")
    _check_ref(ref)
    s = as_features(s)
    reference = s.max((-2, -1), keepdims=True) if ref == "max" else jnp.abs(jnp.asarray(ref, s.dtype))
    decibels = 10.0 * (jnp.log10(at_least(s, amin)) - jnp.log10(at_least(reference, amin)))
    return decibels if top_db is None else at_least(decibels, decibels.max((-2, -1), keepdims=True) - top_db)


def _check_ref(ref: Any) -> None:
    if ref is None or callable(ref) or (isinstance(ref, str) and ref != "max"):
        raise UserError(f"ref must be a number or 'max', and was given {ref!r}")


def amplitude_to_db(s: jax.Array, *, ref: float | str = 1.0, amin: float = 1e-5, top_db: float | None = 80.0) -> jax.Array:
    """Convert amplitude to decibels, 20 log10(s / ref), as `librosa.amplitude_to_db`.

    The arguments are those of `power_to_db`; s, ref and amin are amplitudes.
    """
    _check_ref(ref)
    return power_to_db(as_features(s) ** 2, ref=ref if isinstance(ref, str) else ref**2, amin=amin**2, top_db=top_db)


def log_offset(s: jax.Array, *, offset: float = 1e-6) -> jax.Array:
    """Return ln(s + offset), offset > 0, the compression of the Schindler and SwishNet systems."""
    if not offset > 0:
        raise UserError(f"offset must be positive, and was given {offset}")
    return jnp.log(as_features(s, ()) + offset)


def pcen(
    s: jax.Array,
    *,
    sr: float = 22050,
    hop_length: int = 512,
    gain: float = 0.98,
    bias: float = 2.0,
    power: float = 0.5,
    time_constant: float = 0.4,
    eps: float = 1e-6,
    b: float | None = None,
    max_size: int = 1,
) -> jax.Array:
    """Apply per-channel energy normalisation, `(..., frames, bins)` → same shape: `librosa.pcen` with bins last.

    Returns (s / (eps + m)^gain + bias)^power − bias^power. A first-order filter over time smooths s to m (Wang et al., ICASSP
    2017).

    Args:
      s: array (..., frames, bins), magnitude ≥ 0. librosa expects waveforms in [-2³¹, 2³¹] before the spectrogram.
      sr: float > 0, sample rate in Hz.
      hop_length: int ≥ 1, samples from frame to frame.
      gain, bias, power: float ≥ 0.
      time_constant: float > 0, time constant of the smoothing in seconds.
      eps: float > 0, offset of m.
      b: float in [0, 1], coefficient of the smoothing; 1 disables it. Default: computed from `time_constant`.
      max_size: int ≥ 1, width in bins of a maximum filter before the smoothing. 1 disables the filter.

    Raises `UserError` if an argument is out of range.
    """
    for name, value in {"gain": gain, "bias": bias, "power": power}.items():
        if value < 0:
            raise UserError(f"{name} must be at least 0, and was given {value}")
    for name, value in {"eps": eps, "time_constant": time_constant, "max_size": max_size}.items():
        if not value > 0:
            raise UserError(f"{name} must be positive, and was given {value}")
    if b is None:
        frames = time_constant * sr / hop_length
        b = float((np.sqrt(1 + 4 * frames**2) - 1) / (2 * frames**2))
    if not 0 <= b <= 1:
        raise UserError(f"b must lie in [0, 1], and was given {b}")
    s = as_features(s)
    smooth = _smooth(_maximum_over_bins(s, max_size), b)
    normalised = s * jnp.exp(-gain * (float(np.log(eps)) + jnp.log1p(smooth / eps)))
    if power == 0:
        return jnp.log1p(normalised)
    if bias == 0:
        zero = normalised == 0
        return jnp.where(zero, 0, jnp.where(zero, 1, normalised) ** power)
    return bias**power * jnp.expm1(power * jnp.log1p(normalised / bias))


def _maximum_over_bins(s: jax.Array, size: int) -> jax.Array:
    """Return the maximum over `size` neighbouring bins; the window is that of `scipy.ndimage.maximum_filter1d`."""
    window = (1,) * (s.ndim - 1) + (size,)
    padding = [(0, 0)] * (s.ndim - 1) + [(size // 2, (size - 1) // 2)]
    return s if size == 1 else jax.lax.reduce_window(s, -np.inf, jax.lax.max, window, (1,) * s.ndim, padding)


def _smooth(s: jax.Array, b: float) -> jax.Array:
    """Return m[t] = b s[t] + (1 − b) m[t − 1] over frames, with m[−1] = 1: the initial state of librosa."""

    def combine(early, late):
        return early[0] * late[0], early[1] * late[0] + late[1]

    decay, driven = jax.lax.associative_scan(combine, (jnp.full_like(s, 1 - b), b * s), axis=-2)
    return driven + decay
