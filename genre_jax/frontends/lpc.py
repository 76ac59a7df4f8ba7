"""Linear prediction by the autocorrelation method, and the cepstrum of its model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.console import UserError
from genre_jax.frontends.scaling import as_float
from genre_jax.frontends.stft import fft_window, frame, in_chunks, pad_center


def linear_prediction(frames: jax.Array, *, order: int) -> tuple[jax.Array, jax.Array]:
    """Prediction error filter `(..., order + 1)`, from a leading 1 on, and mean squared prediction error `(...)` of frames.

    The filter a solves the normal equations of the autocorrelation r, sum_j a_j r_|i-j| = 0 for i = 1 … order, by Levinson's
    and Durbin's recursion. Its reflection coefficients are taken from the forward and backward prediction errors of the
    frame amid zeros (Itakura and Saito's lattice), on paper the same numbers. In float32 they are not: what lies 70 dB
    under r_0 is lost in r, and is there in the errors. A frame of speech comes out to 1e-6, one that can be predicted to
    -100 dB to 1e-3. No reflection coefficient exceeds 1 in magnitude: up to rounding, the model 1 / A is stable.

    Args:
      frames: (..., samples), windowed already.
      order: in [1, samples - 1].

    A silent frame has the filter [1, 0, …]; in float32 the squares of signals below about 1e-20 are silence.
    `librosa.lpc` is Burg's method, which leaves the frame's ends out instead of adding zeros: the two agree under a Hann
    window, and differ on unwindowed frames (by half of a coefficient where resonances are sharp).
    Raises UserError where an argument is out of range.
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
        # Both errors have the same power; divided by the mean of the two, the coefficient cannot exceed 1.
        power = (forward**2 + backward**2).sum(-1, keepdims=True) / 2
        reflection = -(forward * backward).sum(-1, keepdims=True) / jnp.where(power == 0, 1, power)
        return (forward + reflection * backward, backward + reflection * forward, a + reflection * b, b + reflection * a), None

    (error, _, a, _), _ = jax.lax.scan(step, (error, error, filters, filters), None, length=order)
    return a, (error**2).sum(-1) / samples


def prediction_cepstrum(a: jax.Array, error: jax.Array, *, n_lpcc: int) -> jax.Array:
    """Cepstrum `(..., n_lpcc)` of the model error / |A|²: the Fourier coefficients of its log power spectrum.

    Coefficient 0 is the natural logarithm of `error`, at least 1e-10 (-100 dB); those above are c_n of log(1 / A) =
    sum_n c_n z^-n, by n c_n = -n a_n - sum_j a_j (n - j) c_(n-j) (Atal 1974).

    Args:
      a: (..., order + 1), `linear_prediction`'s filter.
      error: (...), its mean squared error.
      n_lpcc: number of coefficients, ≥ 1, coefficient 0 among them.
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
    if frame_length < 2:
        raise UserError(f"frame_length must be at least 2, and was given {frame_length}")
    if hop_length < 1:
        raise UserError(f"hop_length must be at least 1, and was given {hop_length}")
    taper = fft_window(window, frame_length, frame_length)

    def of(y):
        framed = frame(pad_center(y, frame_length, False, "constant"), frame_length, hop_length)
        return function(framed * taper.astype(y.dtype))

    return in_chunks(of, as_float(y))


def lpc(y: jax.Array, *, order: int, frame_length: int = 2048, hop_length: int = 512, window: Any = "hann") -> jax.Array:
    """Prediction error filters `(..., frames, order + 1)` of a signal's windowed frames, from a leading 1 on.

    The autocorrelation method of `linear_prediction`; `librosa.lpc` is Burg's.

    Args:
      y: (..., samples), at least one frame.
      order: in [1, frame_length - 1]; 16 or so for speech at 16 kHz.
      frame_length: in samples; frame t starts at sample t · hop_length, and samples that fill no frame are left out.
      hop_length: samples between frames, ≥ 1.
      window: what `stft` takes; "boxcar" for none.

    Raises UserError where an argument is out of range.
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
    """Linear prediction cepstral coefficients `(..., frames, n_lpcc)` of a signal's windowed frames.

    `prediction_cepstrum` of the filters of `lpc`; `n_lpcc` ≥ 1 counts coefficient 0, and defaults to order + 1.
    Raises UserError where an argument is out of range.
    """
    count = order + 1 if n_lpcc is None else n_lpcc
    return _over_frames(
        y, frame_length, hop_length, window,
        lambda frames: prediction_cepstrum(*linear_prediction(frames, order=order), n_lpcc=count),
    )  # fmt: skip
