"""Short-time Fourier transform with librosa's arguments and numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import console
from genre_jax.console import UserError

PAD_MODES = ("constant", "reflect", "edge")


def as_float(y: jax.Array) -> jax.Array:
    """`y` in float32, or in float64 when given float64. Integer signals are refused: their scale is not known."""
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise UserError(f"a front end needs a waveform of floats in [-1, 1], and was given {y.dtype}: divide int16 by 32768")
    return y.astype(jnp.promote_types(y.dtype, jnp.float32))


@functools.lru_cache
def hann(win_length: int, n_fft: int) -> np.ndarray:
    """Periodic Hann window (float64) of `win_length` samples, centred in `n_fft`."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win_length) / win_length)
    left = (n_fft - win_length) // 2
    return np.pad(window, (left, n_fft - win_length - left))


def frame(y: jax.Array, frame_length: int, hop_length: int) -> jax.Array:
    """Overlapping frames `(..., 1 + (samples - frame_length) // hop_length, frame_length)`."""
    count = 1 + (y.shape[-1] - frame_length) // hop_length
    index = hop_length * np.arange(count)[:, None] + np.arange(frame_length)
    return y[..., index]


def stft(
    y: jax.Array,
    *,
    n_fft: int = 2048,
    hop_length: int | None = None,
    win_length: int | None = None,
    center: bool = True,
    pad_mode: str = "constant",
) -> jax.Array:
    """Complex short-time Fourier transform `(..., frames, 1 + n_fft // 2)`, Hann window.

    Args:
      y: (..., samples), real, at least one window long (with `center`, n_fft // 2 + 1 for `reflect`).
      n_fft: window length in samples after zero-padding, any integer ≥ 1 (2048 is 93 ms at 22,050 Hz).
      hop_length: samples between frames, ≥ 1; default win_length // 4.
      win_length: window length ≤ n_fft; default n_fft.
      center: frame t is centred at sample t · hop_length, the ends padded by n_fft // 2.
      pad_mode: how: constant (zeros), reflect or edge.

    Raises UserError where an argument is out of range. Equal to `librosa.stft`, bins last.
    """
    win_length = n_fft if win_length is None else win_length
    hop_length = win_length // 4 if hop_length is None else hop_length
    if not 1 <= win_length <= n_fft:
        raise UserError(f"win_length must lie in [1, n_fft = {n_fft}], and was given {win_length}")
    if hop_length < 1:
        raise UserError(f"hop_length must be at least 1, and was given {hop_length}")
    if pad_mode not in PAD_MODES:
        raise console.unknown("pad_mode", pad_mode, PAD_MODES)
    y = as_float(y)
    needed = (n_fft // 2 + 1 if pad_mode == "reflect" else 1) if center else n_fft
    if y.shape[-1] < needed:
        raise UserError(f"the signal must have at least {needed} samples for n_fft = {n_fft}, and has {y.shape[-1]}")
    if center:
        y = jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(n_fft // 2, n_fft // 2)], mode=pad_mode)
    return jnp.fft.rfft(frame(y, n_fft, hop_length) * hann(win_length, n_fft).astype(y.dtype), n=n_fft)


def spectrogram(y: jax.Array, *, power: float = 2.0, **options) -> jax.Array:
    """|STFT|^power, `(..., frames, 1 + n_fft // 2)`; `options` are those of `stft`.

    The square is taken as re² + im²: differentiable at zero, and exportable.
    """
    z = stft(y, **options)
    square = z.real**2 + z.imag**2
    return square if power == 2 else square ** (power / 2)
