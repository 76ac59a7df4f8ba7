"""Scaling of signals `(..., samples)` and of features `(..., frames, bins)`, and resizing of images.

A clip never changes the scale of another clip.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.console import UserError


def as_float(y: Any) -> jax.Array:
    """Convert a waveform `(..., samples)` to float32; float64 stays float64. Lists and tuples become arrays.

    Raises `UserError` if `y` has no sample, or is not real floating point: the full scale of integers is not known here.
    """
    y = _array(y)
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise UserError(
            f"a front end needs a real waveform of floats in [-1, 1], and was given {y.dtype} "
            "(divide int16 by 32768, take the real part of complex numbers)"
        )
    if y.ndim < 1:
        raise UserError("the signal must have the shape (..., samples), and is a single number")
    if not y.shape[-1]:
        raise UserError("the signal must have at least 1 sample, and has 0")
    return jnp.asarray(y.astype(jnp.float64 if y.dtype == jnp.float64 else jnp.float32))


def as_features(x: Any, axes: tuple[str, ...] = ("frames", "bins")) -> jax.Array:
    """Convert features `(..., *axes)` to float32; float64 stays float64. Integers keep their values, lists become arrays.

    Raises `UserError` if `x` is not real, or lacks one of the `axes` or has no element along it.
    """
    x = _array(x)
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool):
        raise UserError(f"features must be real numbers, and were given as {x.dtype} (take the magnitude of complex numbers)")
    _check_axes(x, axes)
    return jnp.asarray(x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32))


def as_spectrum(z: Any, axes: tuple[str, ...] = ("frames", "bins")) -> jax.Array:
    """Convert a spectrum `(..., *axes)` to complex64, or to complex128 from complex128 and float64. Lists become arrays.

    Raises `UserError` if `z` does not hold numbers, or lacks one of the `axes` or has no element along it.
    """
    z = _array(z)
    if not (jnp.issubdtype(z.dtype, jnp.number) or z.dtype == bool):
        raise UserError(f"a spectrum must be complex numbers, and was given as {z.dtype}")
    _check_axes(z, axes)
    return jnp.asarray(z.astype(jnp.complex128 if z.dtype in (jnp.float64, jnp.complex128) else jnp.complex64))


def _array(x: Any) -> Any:
    """Return a JAX array as it is, and anything else as a NumPy array, because JAX would cut int64 down to int32."""
    if isinstance(x, jax.Array):
        return x
    try:
        return np.asarray(x)
    except (TypeError, ValueError):
        raise UserError(f"an array of numbers is needed, and was given a {type(x).__name__} that makes no array") from None


def _check_axes(x: Any, axes: tuple[str, ...]) -> None:
    """Raise `UserError` if `x` lacks one of the last `axes`, or has no element along one of them."""
    if x.ndim < len(axes) or 0 in x.shape[x.ndim - len(axes) :]:
        shape, each = ", ".join(("...", *axes)), " and ".join(f"one {axis.removesuffix('s')}" for axis in axes)
        raise UserError(f"features must have the shape ({shape}) with at least {each}, and have the shape {x.shape}")


def positive_power(x: jax.Array, exponent: float) -> jax.Array:
    """Return x^exponent for x ≥ 0, with gradient 0 at x = 0."""
    if exponent == 1:
        return x
    zero = x == 0
    return jnp.where(zero, 0, jnp.where(zero, 1, x) ** exponent)


def peak_normalise(y: jax.Array) -> jax.Array:
    """Subtract the mean of each signal `(..., samples)`, then divide by its largest magnitude. Silence stays zero."""
    y = as_float(y)
    y = y - y.mean(-1, keepdims=True)
    return _divide(y, jnp.abs(y).max(-1, keepdims=True))


def min_max(x: jax.Array) -> jax.Array:
    """Scale each clip to [0, 1]: subtract its minimum, divide by its range. A constant clip becomes 0."""
    x = as_features(x)
    x = x - x.min((-2, -1), keepdims=True)
    return _divide(x, x.max((-2, -1), keepdims=True))


def mean_max(x: jax.Array) -> jax.Array:
    """Scale each clip to [-1, 1]: subtract its mean, divide by its largest magnitude (document 000, MFCC)."""
    x = as_features(x)
    x = x - x.mean((-2, -1), keepdims=True)
    return _divide(x, jnp.abs(x).max((-2, -1), keepdims=True))


def z_score(x: jax.Array) -> jax.Array:
    """Subtract the mean of each clip, divide by its population standard deviation. A constant clip becomes 0."""
    x = as_features(x)
    x = x - x.mean((-2, -1), keepdims=True)
    return _divide(x, positive_power((x**2).mean((-2, -1), keepdims=True), 0.5))


def standardise(x: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Subtract the `mean` (bins,) of a training set from each bin and divide by its `std` (bins,).

    Equals scikit-learn's StandardScaler: a bin that was constant (std 0) is divided by 1.
    """
    x, mean, std = (as_features(values, ("bins",)) for values in (x, mean, std))
    return _divide(x - mean, std)


def pooled_statistics(mean: np.ndarray, var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean and standard deviation of each bin over all frames of all clips.

    Args:
      mean, var: arrays (clips, bins), mean and population variance of each clip. All clips have the same number of frames.

    Returns (mean, standard deviation), float64 arrays (bins,).
    """
    mean, var = np.asarray(mean, np.float64), np.asarray(var, np.float64)
    return mean.mean(0), np.sqrt(var.mean(0) + mean.var(0))


def _divide(x: jax.Array, by: jax.Array) -> jax.Array:
    """Return x / by, and x where by is 0."""
    return x / jnp.where(by == 0, 1, by)


@functools.lru_cache
def _interpolation(size: int, out: int, align_corners: bool) -> np.ndarray:
    """Return the matrix (out, size) of a linear interpolation from `size` to `out` points."""
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
    """Resize images `(..., rows, columns)` → `(..., height, width)` by bilinear interpolation.

    Equals `torch.nn.functional.interpolate(mode="bilinear")` without antialiasing. `align_corners` maps the centres of the
    corner pixels onto each other; the default maps the outer edges of the images onto each other.
    """
    image = as_features(image, ("rows", "columns"))
    rows = _interpolation(image.shape[-2], height, align_corners).astype(image.dtype)
    columns = _interpolation(image.shape[-1], width, align_corners).astype(image.dtype)
    return jnp.einsum("hr,...rc,wc->...hw", rows, image, columns, precision=jax.lax.Precision.HIGHEST)
