"""Max pooling of images and its inverse, and the vote of frames."""

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.console import UserError

Window = tuple[int, int]


def max_pool(x: jax.Array, window: Window, strides: Window | None = None, padding: int = 0) -> jax.Array:
    """Returns the largest number of each window of `x` (batch, rows, columns, channels), with PyTorch's gradient.

    The gradient goes to the first of equals. XLA's own pooling has a backward pass that is slow on CPUs. The gradient of
    `jnp.max` divides by 0 if XLA rounds the maximum in two ways. Raises `UserError` if the window does not fit.

    Args:
      strides: distance of the windows; the default puts them side by side. Rows and columns left over do not count.
      padding: rows and columns on all sides, which are never the largest.
    """
    return _max_pool(window, strides or window, padding, x.shape[1:3], x)


def switches(x: jax.Array, window: Window) -> jax.Array:
    """Returns the place of each maximum (the first of equals) in its window: row-major, uint8, shaped as `max_pool`."""
    return _pool(x, window, window, 0)[1]


def _pool(x: jax.Array, window: Window, strides: Window, padding: int) -> tuple[jax.Array, jax.Array]:
    """Returns maxima and switches, tap by tap of the window. XLA fuses this loop with the operation that gave `x`."""
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


def _max_pool_backward(window, strides, padding, size, at, d_pooled):
    return (unpool(d_pooled, at, window, size, strides, padding),)


_max_pool.defvjp(lambda window, strides, padding, size, x: _pool(x, window, strides, padding), _max_pool_backward)


def unpool(
    pooled: jax.Array, at: jax.Array, window: Window, size: tuple[int, int], strides: Window | None = None, padding: int = 0
) -> jax.Array:
    """Returns an image of `size` (rows, columns) with each number of `pooled` added at its place `at`, zero elsewhere.

    The image is made in blocks as large as the strides: window (y, x) covers the blocks from (y, x) on, a single block if
    windows lie side by side.
    """
    (high, wide), (down, across) = window, strides or window
    tall, broad = -(-high // down), -(-wide // across)  # blocks that a window reaches into
    shares = []
    for i, j in itertools.product(range(tall), range(broad)):
        row, column = i * down + np.arange(down)[:, None], j * across + np.arange(across)
        number = np.where((row < high) & (column < wide), row * wide + column, high * wide)  # of a tap; none has the last
        around = ((0, 0), (i, tall - 1 - i), (j, broad - 1 - j), (0, 0))
        places, values = (jnp.pad(array, around)[:, :, None, :, None] for array in (at, pooled))
        shares.append(jnp.where(places == number[:, None, :, None].astype(at.dtype), values, 0))
    blocks = functools.reduce(jnp.add, shares)
    image = blocks.reshape(len(blocks), blocks.shape[1] * down, -1, blocks.shape[-1])
    image = image[:, padding : padding + size[0], padding : padding + size[1]]
    return jnp.pad(image, ((0, 0), (0, size[0] - image.shape[1]), (0, size[1] - image.shape[2]), (0, 0)))


def seen_by_taps(x: jax.Array, window: tuple[int, ...], strides: tuple[int, ...]) -> Iterator[jax.Array]:
    """Yields the numbers of `x` (batch, *sizes, channels) that each tap of a window sees, row-major; windows lie within `x`."""
    for place in itertools.product(*map(range, window)):
        spans = zip(x.shape[1:-1], window, place, strides, strict=True)
        yield x[(slice(None), *(slice(first, size - reach + first + 1, stride) for size, reach, first, stride in spans))]


FRAME_VOTES = ("majority", "mean")


def frame_vote(frame_logits: jax.Array, vote: str) -> jax.Array:
    """Returns the logits (batch, classes) of clips from those of their frames (batch, frames, classes).

    "mean": the mean over the frames. "majority": the logarithm of the share of frames in which the class has the largest logit,
    the first of equals; a share of no frames counts as 1 / classes of a frame.
    """
    if vote == "mean":
        return frame_logits.mean(1)
    frames, classes = frame_logits.shape[1:]
    votes = jax.nn.one_hot(frame_logits.argmax(-1), classes, dtype=frame_logits.dtype).sum(1)
    return jnp.log((votes + 1 / classes) / (frames + 1))
