"""Max pooling of images, and what undoes it."""

import functools

import jax
import jax.numpy as jnp

from genre_jax.console import UserError
from genre_jax.models.cpu import from_windows, seen_by_taps

Window = tuple[int, int]


def max_pool(x: jax.Array, window: Window, strides: Window | None = None, padding: int = 0) -> jax.Array:
    """The largest number of each window of `x` (batch, rows, columns, channels), as PyTorch's: its gradient, too.

    Windows lie `strides` apart, side by side unless given; `padding` rows and columns on all sides never win; rows and
    columns left over do not count. The gradient goes to the first of equals. XLA's own pooling has a backward pass that is
    slow on CPUs; that of a plain maximum asks which numbers equal it, and where XLA has rounded them in two ways finds none,
    and divides by 0. Raises `UserError` where the window does not fit.
    """
    return _max_pool(window, strides or window, padding, x.shape[1:3], x)


def switches(x: jax.Array, window: Window) -> jax.Array:
    """Where in its window each maximum stands, the first of equals: row-major number, uint8, in the shape of `max_pool`."""
    return _pool(x, window, window, 0)[1]


def _pool(x: jax.Array, window: Window, strides: Window, padding: int) -> tuple[jax.Array, jax.Array]:
    """Maxima and switches, tap by tap of the window, so that XLA makes one loop of it and of what gave `x`."""
    if padding:
        around = (padding, padding)
        x = jnp.pad(x, ((0, 0), around, around, (0, 0)), constant_values=-jnp.inf)
    (high, wide), (rows, columns) = window, x.shape[1:3]
    if rows < high or columns < wide:
        raise UserError(f"the input is too small: a pooling in windows of {high} × {wide} is left with {rows} × {columns}")
    taps = seen_by_taps(x, window, strides)
    best = next(taps)
    at = jnp.zeros(best.shape, jnp.uint8)
    for number, tap in enumerate(taps, 1):
        at = jnp.where(tap > best, jnp.uint8(number), at)
        best = jnp.maximum(best, tap)
    return best, at


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _max_pool(window: Window, strides: Window, padding: int, size: tuple[int, int], x: jax.Array) -> jax.Array:
    del size
    return _pool(x, window, strides, padding)[0]


def _max_pool_forward(window, strides, padding, size, x):
    del size
    return _pool(x, window, strides, padding)


def _max_pool_backward(window, strides, padding, size, at, d_pooled):
    return (unpool(d_pooled, at, window, size, strides, padding),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def unpool(
    pooled: jax.Array, at: jax.Array, window: Window, size: tuple[int, int], strides: Window | None = None, padding: int = 0
) -> jax.Array:
    """Each number of `pooled` back in its place `at` of an otherwise zero image of `size` (rows, columns), added up there."""

    def spread(move, number):
        return jnp.where(move(at) == number.astype(at.dtype), move(pooled), 0)

    return from_windows(spread, window, strides or window, size, (padding, padding))
