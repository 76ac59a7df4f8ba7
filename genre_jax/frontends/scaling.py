"""Scaling of signals and features, and resizing of images. Features are `(..., frames, bins)`, each clip by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.console import UserError


def as_float(y: jax.Array) -> jax.Array:
    """`y` in float32, or in float64 when given float64. Raises UserError for any other kind of signal."""
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise UserError(
            f"a front end needs a real waveform of floats in [-1, 1], and was given {y.dtype}: divide int16 by 32768, "
            "take the real part of a complex one"
        )
    return y.astype(jnp.promote_types(y.dtype, jnp.float32))


def positive_power(x: jax.Array, exponent: float) -> jax.Array:
    """x^exponent for x ≥ 0, with gradient 0 at 0."""
    if exponent == 1:
        return x
    zero = x == 0
    return jnp.where(zero, 0, jnp.where(zero, 1, x) ** exponent)


def peak_normalise(y: jax.Array) -> jax.Array:
    """Each signal `(..., samples)` minus its mean, divided by its largest magnitude; silence stays zero."""
    y = as_float(y)
    y = y - y.mean(-1, keepdims=True)
    return _divide(y, jnp.abs(y).max(-1, keepdims=True))


def min_max(x: jax.Array) -> jax.Array:
    """Each clip to [0, 1]: minus its minimum, divided by its range; a constant clip becomes 0."""
    x = x - x.min((-2, -1), keepdims=True)
    return _divide(x, x.max((-2, -1), keepdims=True))


def mean_max(x: jax.Array) -> jax.Array:
    """Each clip minus its mean, divided by its largest magnitude then: within [-1, 1] (document 000's MFCC)."""
    x = x - x.mean((-2, -1), keepdims=True)
    return _divide(x, jnp.abs(x).max((-2, -1), keepdims=True))


def z_score(x: jax.Array) -> jax.Array:
    """Each clip minus its mean, divided by its standard deviation (population); a constant clip becomes 0."""
    x = x - x.mean((-2, -1), keepdims=True)
    return _divide(x, positive_power((x**2).mean((-2, -1), keepdims=True), 0.5))


def standardise(x: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Each bin minus the `mean` (bins,) of a training set, divided by its `std` (bins,): scikit-learn's StandardScaler.

    Bins that were constant (std 0) are divided by 1.
    """
    return _divide(x - mean, std)


def pooled_statistics(mean: np.ndarray, var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (bins,) in float64 over all frames of clips with `mean` and `var` (clips, bins).

    The clips have equally many frames each.
    """
    mean, var = np.asarray(mean, np.float64), np.asarray(var, np.float64)
    return mean.mean(0), np.sqrt(var.mean(0) + mean.var(0))


def _divide(x: jax.Array, by: jax.Array) -> jax.Array:
    """x / by, and x where by is 0."""
    return x / jnp.where(by == 0, 1, by)


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
