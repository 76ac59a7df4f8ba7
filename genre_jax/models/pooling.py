"""Max pooling of images, and what undoes it."""

import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.console import UserError

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


def seen_by_taps(x: jax.Array, window: tuple[int, ...], strides: tuple[int, ...]) -> Iterator[jax.Array]:
    """What each tap of a window, row-major, sees of `x` (batch, *sizes, channels), a number a window, which lie within `x`."""
    for place in itertools.product(*map(range, window)):
        spans = zip(x.shape[1:-1], window, place, strides, strict=True)
        yield x[(slice(None), *(slice(first, size - reach + first + 1, stride) for size, reach, first, stride in spans))]


def from_windows(
    spread: Callable[[Callable, np.ndarray], jax.Array],
    window: tuple[int, int],
    strides: tuple[int, int],
    size: tuple[int, int],
    before: tuple[int, int],
) -> jax.Array:
    """The image (batch, *size, channels) that windows, `strides` apart, add up to; the first starts `before` its corner.

    The image is made in blocks as large as the strides: window (y, x) covers the blocks from (y, x) on, one of them where
    windows lie side by side.

    Args:
      spread: of `move` and `number` the share in every block, (batch, y, rows, x, columns, channels), of one of the windows
        over it. `move` brings what windows have, (batch, y, x, channels), to their blocks; `number` (rows, 1, columns, 1)
        says which tap of the window the places of a block are, row-major, and one beyond the last where they are none.
    """
    (high, wide), (down, across) = window, strides
    tall, broad = -(-high // down), -(-wide // across)  # blocks that a window reaches into
    shares = []
    for i, j in itertools.product(range(tall), range(broad)):
        row, column = i * down + np.arange(down)[:, None], j * across + np.arange(across)
        number = np.where((row < high) & (column < wide), row * wide + column, high * wide)
        around = ((0, 0), (i, tall - 1 - i), (j, broad - 1 - j), (0, 0))

        def move(array, around=around):
            return jnp.pad(array, around)[:, :, None, :, None]

        shares.append(spread(move, number[:, None, :, None]))
    blocks = functools.reduce(jnp.add, shares)
    image = blocks.reshape(len(blocks), blocks.shape[1] * down, -1, blocks.shape[-1])
    image = image[:, before[0] : before[0] + size[0], before[1] : before[1] + size[1]]
    return jnp.pad(image, ((0, 0), (0, size[0] - image.shape[1]), (0, size[1] - image.shape[2]), (0, 0)))
