"""Linear prediction by the autocorrelation method, `(..., samples)` → `(..., frames, order + 1)`, and its cepstrum."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.console import UserError
from genre_jax.frontends.scaling import as_float
from genre_jax.frontends.stft import fft_window, frame, in_chunks, pad_center


def linear_prediction(frames: jax.Array, *, order: int) -> tuple[jax.Array, jax.Array]:
    """Compute the prediction error filter and the mean squared prediction error of windowed frames.

    The filter a solves the normal equations of the autocorrelation r, sum_j a_j r_|i-j| = 0 for i = 1 … order, with the
    recursion of Levinson and Durbin. The reflection coefficients are not computed from r, but from the forward and backward
    prediction errors of the zero-padded frame (lattice of Itakura and Saito). In exact arithmetic the results are equal. In
    float32, r loses everything 70 dB below r_0; the prediction errors keep it. The filter has an error of 1e-6 for a frame of
    speech, and of 1e-3 for a frame with a prediction error of -100 dB. No reflection coefficient exceeds 1 in magnitude,
    therefore the model 1 / A is stable up to rounding.

    `librosa.lpc` uses Burg's method, which omits the ends of the frame instead of adding zeros. Both agree for a Hann window,
    and differ for frames without a window (by half of a coefficient at sharp resonances).

    Args:
      frames: real array (..., samples), frames times their window.
      order: int in [1, samples - 1].

    Returns (a, error): a (..., order + 1) starts with 1; error has the shape (...). A silent frame has a = [1, 0, …]. In
    float32 signals below about 1e-20 are silent, because their squares are 0. Raises `UserError` if `order` is out of range.
    """
    frames = as_float(frames)
    samples = frames.shape[-1]
    if not 1 <= order < samples:
        raise UserError(f"order must lie in [1, {samples - 1}] for frames of {samples} samples, and was given {order}")
    lead = [(0, 0)] * (frames.ndim - 1)
    error = jnp.pad(frames, [*lead, (0, order)])
    filters = jnp.broadcast_to(jnp.asarray(np.eye(1, order + 1)[0], frames.dtype), (*frames.shape[:-1], order + 1))

    def delayed(x):
        return jnp.pad(x[..., :-1], [*lead, (1, 0)])

    def step(state, _):
        forward, backward, a, b = state
        backward, b = delayed(backward), delayed(b)
        # Both errors have the same power. The mean of both as divisor keeps the coefficient within [-1, 1].
        power = (forward**2 + backward**2).sum(-1, keepdims=True) / 2
        reflection = -(forward * backward).sum(-1, keepdims=True) / jnp.where(power == 0, 1, power)
        return (forward + reflection * backward, backward + reflection * forward, a + reflection * b, b + reflection * a), None

    (error, _, a, _), _ = jax.lax.scan(step, (error, error, filters, filters), None, length=order)
    return a, (error**2).sum(-1) / samples


def prediction_cepstrum(a: jax.Array, error: jax.Array, *, n_lpcc: int) -> jax.Array:
    """Compute the cepstrum `(..., n_lpcc)` of the model error / |A|²: the Fourier coefficients of its log power spectrum.

    Coefficient 0 is ln(max(error, 1e-10)); 1e-10 is -100 dB. The other coefficients are the c_n of log(1 / A) = sum_n c_n z^-n,
    from the recursion n c_n = -n a_n - sum_j a_j (n - j) c_(n-j) (Atal 1974).

    Args:
      a: array (..., order + 1), the filter of `linear_prediction`.
      error: array (...), the mean squared error of `linear_prediction`.
      n_lpcc: int ≥ 1, number of coefficients, including coefficient 0.
    """
    if n_lpcc < 1:
        raise UserError(f"n_lpcc must be at least 1, and was given {n_lpcc}")
    order = a.shape[-1] - 1
    taps = jnp.moveaxis(a[..., 1:], -1, 0)
    count = np.arange(1, n_lpcc)
    drive = jnp.pad(taps, [(0, max(0, n_lpcc - 1 - order))] + [(0, 0)] * (a.ndim - 1))[: n_lpcc - 1]
    drive = drive * count.reshape(-1, *[1] * (a.ndim - 1)).astype(a.dtype)

    def step(past, driven):
        weighted = -driven - (taps * past).sum(0)
        return jnp.concatenate([weighted[None], past[:-1]]), weighted

    _, weighted = jax.lax.scan(step, jnp.zeros_like(taps), drive)
    logarithm = jnp.log(jnp.maximum(error, jnp.asarray(1e-10, a.dtype)))
    return jnp.concatenate([logarithm[..., None], jnp.moveaxis(weighted, 0, -1) / count.astype(a.dtype)], -1)


def _over_frames(y, frame_length, hop_length, window, function) -> jax.Array:
    """Apply `function` to the windowed frames `(..., frames, frame_length)` of `y` (..., samples)."""
    if frame_length < 2:
        raise UserError(f"frame_length must be at least 2, and was given {frame_length}")
    if hop_length < 1:
        raise UserError(f"hop_length must be at least 1, and was given {hop_length}")
    taper = fft_window(window, frame_length, frame_length)

    def compute(y):
        framed = frame(pad_center(y, frame_length, False, "constant"), frame_length, hop_length)
        return function(framed * taper.astype(y.dtype))

    return in_chunks(compute, y)


def lpc(y: jax.Array, *, order: int, frame_length: int = 2048, hop_length: int = 512, window: Any = "hann") -> jax.Array:
    """Compute the prediction error filters of the windowed frames, `(..., samples)` → `(..., frames, order + 1)`.

    Uses the autocorrelation method (`linear_prediction`); `librosa.lpc` uses Burg's method. The first coefficient is 1.

    Args:
      y: real array (..., samples), at least one frame.
      order: int in [1, frame_length - 1]. A usual value for speech at 16 kHz is 16.
      frame_length: int ≥ 2, in samples. Frame t starts at sample t · hop_length; an incomplete last frame is omitted.
      hop_length: int ≥ 1, samples from frame to frame.
      window: as in `stft`; "boxcar" means no window.

    Raises `UserError` if an argument is out of range.
    """
    return _over_frames(y, frame_length, hop_length, window, lambda frames: linear_prediction(frames, order=order)[0])


def lpcc(
    y: jax.Array,
    *,
    order: int,
    n_lpcc: int | None = None,
    frame_length: int = 2048,
    hop_length: int = 512,
    window: Any = "hann",
) -> jax.Array:
    """Compute linear prediction cepstral coefficients, `(..., samples)` → `(..., frames, n_lpcc)`.

    This is `prediction_cepstrum` of the filters of `lpc`.

    Args:
      y, order, frame_length, hop_length, window: as in `lpc`.
      n_lpcc: int ≥ 1, number of coefficients, including coefficient 0. Default: order + 1.

    Raises `UserError` if an argument is out of range.
    """
    count = order + 1 if n_lpcc is None else n_lpcc
    return _over_frames(
        y, frame_length, hop_length, window,
        lambda frames: prediction_cepstrum(*linear_prediction(frames, order=order), n_lpcc=count),
    )  # fmt: skip
