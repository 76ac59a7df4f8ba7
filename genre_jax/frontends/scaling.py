"""Scaling of signals and images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.frontends.stft import as_float


def peak_normalise(y: jax.Array) -> jax.Array:
    """Each signal `(..., samples)` minus its mean, divided by its largest magnitude; silence stays zero."""
    y = as_float(y)
    y = y - y.mean(-1, keepdims=True)
    peak = jnp.abs(y).max(-1, keepdims=True)
    return y / jnp.where(peak > 0, peak, 1)


@functools.lru_cache
def _interpolation(size: int, out: int, align_corners: bool) -> np.ndarray:
    """Matrix (out, size) of one-dimensional linear interpolation."""
    if align_corners:
        at = np.linspace(0, size - 1, out) if out > 1 else np.zeros(1)
    else:
        at = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
    left = np.minimum(np.floor(at).astype(int), max(size - 2, 0))
    matrix = np.zeros((out, size))
    matrix[np.arange(out), left] += 1 - (at - left)
    matrix[np.arange(out), np.minimum(left + 1, size - 1)] += at - left
    return matrix


def resize(image: jax.Array, height: int, width: int, *, align_corners: bool = False) -> jax.Array:
    """Bilinear resize of `(..., rows, columns)` to `(..., height, width)`: `torch.nn.functional.interpolate`, no antialias."""
    rows = _interpolation(image.shape[-2], height, align_corners).astype(image.dtype)
    columns = _interpolation(image.shape[-1], width, align_corners).astype(image.dtype)
    return jnp.einsum("hr,...rc,wc->...hw", rows, image, columns, precision=jax.lax.Precision.HIGHEST)
