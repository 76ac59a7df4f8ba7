"""Max pooling of images in windows that do not overlap, and what undoes it."""

import functools

import jax
import jax.numpy as jnp

from genre_jax.console import UserError

Window = tuple[int, int]


def _windows(x: jax.Array, window: Window) -> jax.Array:
    """`x` (batch, rows, columns, channels) as (batch, rows', window rows, columns', window columns, channels)."""
    (high, wide), (batch, rows, columns, channels) = window, x.shape
    if rows < high or columns < wide:
        raise UserError(f"the input is too small: a pooling in windows of {high} × {wide} is left with {rows} × {columns}")
    x = x[:, : rows // high * high, : columns // wide * wide]
    return x.reshape(batch, rows // high, high, columns // wide, wide, channels)


def max_pool(x: jax.Array, window: Window) -> jax.Array:
    """The largest number of each window of `x` (batch, rows, columns, channels); rows and columns left over do not count.

    The gradient goes to the first of equals, as in PyTorch. XLA's own pooling has a backward pass that is slow on CPUs; that
    of a plain maximum asks which numbers equal it, and where XLA has rounded them in two ways finds none, and divides by 0.
    Raises `UserError` where the window does not fit.
    """
    return _max_pool(window, x.shape[1:3], x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _max_pool(window: Window, size: tuple[int, int], x: jax.Array) -> jax.Array:
    del size
    return _windows(x, window).max((2, 4))


def _max_pool_forward(window, size, x):
    return _max_pool(window, size, x), switches(x, window)


def _max_pool_backward(window, size, at, d_pooled):
    return (unpool(d_pooled, at, window, size),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def switches(x: jax.Array, window: Window) -> jax.Array:
    """Where in its window each maximum stands, the first of equals: row-major number, uint8, in the shape of `max_pool`."""
    cut = _windows(x, window).swapaxes(2, 3)
    return cut.reshape(*cut.shape[:3], -1, cut.shape[-1]).argmax(3).astype(jnp.uint8)


def unpool(pooled: jax.Array, at: jax.Array, window: Window, size: tuple[int, int]) -> jax.Array:
    """Each number of `pooled` back in its place `at` of an otherwise zero image of `size` (rows, columns)."""
    batch, rows, columns, channels = pooled.shape
    chosen = at[:, :, :, None] == jnp.arange(window[0] * window[1], dtype=at.dtype)[:, None]
    cut = jnp.where(chosen, pooled[:, :, :, None], 0).reshape(batch, rows, columns, *window, channels).swapaxes(2, 3)
    image = cut.reshape(batch, rows * window[0], columns * window[1], channels)
    return jnp.pad(image, ((0, 0), (0, size[0] - image.shape[1]), (0, size[1] - image.shape[2]), (0, 0)))
