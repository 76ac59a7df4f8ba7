"""Convolutions in the forms that XLA's CPU backend is fast at; on other devices they are XLA's own.

`convolve` chooses by shape and is what the networks' `Conv` calls; the functions below it are for single layers.
"""

import contextlib
import contextvars
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import parallel

_DIMENSIONS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}
Pairs = tuple[tuple[int, int], ...]

_LARGE = 5_000  # positions of an image from which strips pay for few channels too
_MANY = 32, 64  # channels in and out from which they pay for all images
_STRIP = 1 << 20  # numbers of an unfolded strip, which a core's cache holds; half and twice that take 1.0 to 1.4 times as long
_WHOLE = 1 << 22  # numbers of an unfolded batch up to which it is one strip, for that is no slower, and compiles sooner
_FEW_TAPS = 32  # up to which an image of one channel is unfolded
_TILE = 4  # outputs along each axis of a tile
_FOLDS = 4  # into which the rows of an image are folded before they are summed

_IN_LOOP = contextvars.ContextVar("in_loop", default=False)


@contextlib.contextmanager
def in_loop() -> Iterator[None]:
    """What is traced within is the body of a loop, for which `convolve` has to know."""
    token = _IN_LOOP.set(True)
    try:
        yield
    finally:
        _IN_LOOP.reset(token)


def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated` as `nn.Conv` calls it, with the same result; grouped, dilated or not on CPUs it is that.

    On CPUs (two cores, JAX 0.12):

    - One tap is a matrix product: its gradient by the kernel takes half to a fifth of the time.
    - One channel and few taps: unfolded, a matrix product too; 0.6 to 0.8 of the time, gradient included.
    - Gradients by other kernels of large images or many channels: strip by strip, products again (0.1 to 0.6 of the time).
    - XLA's fast convolution knows one order of dimensions alone, and outside of loops XLA turns the others. In a loop, as the
      scan over micro-batches (`train.accumulate`), a gradient by the kernel took 100 times as long: there all are taken strip
      by strip, and those by the input are written in that order. Elsewhere XLA's own are as fast, and compile sooner.
    """
    dilations = (*options.get("lhs_dilation", ()), *options.get("rhs_dilation", ()))
    if parallel.platform() != "cpu" or options.get("feature_group_count", 1) > 1 or set(dilations) - {1}:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    strides, taps, precision = tuple(strides), kernel.shape[:-2], options.get("precision")
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:-1], taps, strides, padding)
    padding = tuple(map(tuple, padding))
    if set(taps) == {1} and not any(map(any, padding)):
        x = x[(slice(None), *(slice(None, None, stride) for stride in strides))]
        return product(x, kernel.reshape(kernel.shape[-2:]), precision=precision)
    if x.shape[-1] == 1 and set(strides) == {1} and math.prod(taps) <= _FEW_TAPS:
        return _unfolded(x, kernel, padding, precision)
    if _IN_LOOP.get() or _by_strips(x, kernel):
        return _by_parts(x, kernel, strides, padding, precision, _IN_LOOP.get())
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


Conv: Any = functools.partial(nn.Conv, conv_general_dilated=convolve)


def product(x: jax.Array, kernel: jax.Array, dimensions: Any = None, precision: Any = None) -> jax.Array:
    """`x` (…, in) times `kernel` (in, out), one product of two matrices: of more axes XLA turns the gradient's factors on CPUs.

    It computes all that leads to a factor twice then (a step of the SNN: 1.35 times as long). `dimensions` are `nn.Dense`'s.
    """
    del dimensions
    rows = x.reshape(-1, x.shape[-1])
    on_cpu = parallel.platform() == "cpu"
    y = _multiply(rows, kernel, precision) if on_cpu else jnp.dot(rows, kernel, precision=precision)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _multiply(x: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    return jnp.dot(x, kernel, precision=precision)


def _multiply_backward(precision, kept, dy):
    x, kernel = kept
    return jnp.dot(dy, kernel.T, precision=precision), _by_matrix(x, dy, precision)


_multiply.defvjp(lambda x, kernel, precision: (_multiply(x, kernel, precision), (x, kernel)), _multiply_backward)


def _by_matrix(x: jax.Array, dy: jax.Array, precision: Any) -> jax.Array:
    """The gradient (in, out) by the matrix that takes `x` (n, in) to (n, out): `dy` is that by the result.

    With the narrower factor on the left, for else the product takes 1.3 to 1.5 times as long; a barrier, for XLA would turn it.
    """
    if x.shape[1] <= dy.shape[1]:
        return jnp.einsum("ni,no->io", x, dy, precision=precision)
    return once_on_cpus(jnp.einsum("ni,no->oi", x, dy, precision=precision)).T


Dense: Any = functools.partial(nn.Dense, dot_general=product)


def _unfolded(x: jax.Array, kernel: jax.Array, padding: Pairs, precision: Any) -> jax.Array:
    """One channel: what each tap sees, one below the other, as the factor of a matrix product."""
    taps, features = kernel.shape[:-2], kernel.shape[-1]
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    sizes = [steps - reach + 1 for steps, reach in zip(padded.shape[1:-1], taps, strict=True)]
    seen = [tap.ravel() for tap in seen_by_taps(padded, taps, (1,) * len(taps))]
    unfolded = once_on_cpus(jnp.stack(seen))
    y = jnp.einsum("tn,tf->nf", unfolded, kernel.reshape(len(seen), features), precision=precision)
    return y.reshape(len(x), *sizes, features)


def _by_strips(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether the gradient by the kernel is taken strip by strip outside of loops."""
    channels, features = kernel.shape[-2:]
    large = math.prod(x.shape[1:-1]) >= _LARGE and channels > 1 and features >= 32
    return large or (channels >= _MANY[0] and features >= _MANY[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _by_parts(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Pairs, precision: Any, in_loop: bool
) -> jax.Array:
    del in_loop
    return _xla(x, kernel, strides, padding, precision)


def _xla(x, kernel, strides, padding, precision, **dilations):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_DIMENSIONS[x.ndim - 2], precision=precision, **dilations
    )


def _by_parts_forward(x, kernel, strides, padding, precision, in_loop):
    return _by_parts(x, kernel, strides, padding, precision, in_loop), (x, kernel)


def _by_parts_backward(strides, padding, precision, in_loop, kept, dy):
    x, kernel = kept
    if in_loop:
        # A barrier, for XLA would fold what turns the kernel back into the convolution's order of dimensions.
        filters = jax.lax.optimization_barrier(jnp.flip(kernel, range(len(strides))).swapaxes(-1, -2))
        sizes = zip(x.shape[1:-1], kernel.shape, dy.shape[1:-1], strides, padding, strict=False)
        around = [(taps - 1 - before, steps - (n - 1) * stride - 1 + before) for steps, taps, n, stride, (before, _) in sizes]
        dx = _xla(dy, filters, (1,) * len(strides), around, precision, lhs_dilation=strides)
    else:
        (dx,) = jax.linear_transpose(lambda x: _xla(x, kernel, strides, padding, precision), x)(dy)
    return dx, _strip_by_strip(x, dy, kernel, strides, padding, precision)


_by_parts.defvjp(_by_parts_forward, _by_parts_backward)


def _strip_by_strip(
    x: jax.Array, dy: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Pairs, precision: Any
) -> jax.Array:
    """The gradient by the kernel: a sum of products, each of a strip's gradients with what all taps see in it, unfolded.

    A strip is some rows of an image, or several small images; what is unfolded of it stays in the cache.
    """
    batch, rows = dy.shape[:2]
    a_row = math.prod(kernel.shape[:-1]) * math.prod(dy.shape[2:-1])  # numbers unfolded
    wanted = _STRIP / a_row if a_row * rows * batch > _WHOLE else batch * rows
    many, high = _divisor(batch, wanted / rows), _divisor(rows, wanted)
    reach, wide = (high - 1) * strides[0] + kernel.shape[0], jnp.promote_types(kernel.dtype, jnp.float32)

    def add_images(total, images):
        x, dy = images
        padded = once_on_cpus(jnp.pad(x, ((0, 0), *padding, (0, 0))))

        def add_strip(total, row):
            strip = jax.lax.dynamic_slice_in_dim(padded, row * strides[0], reach, 1)
            taps = [tap.reshape(-1, tap.shape[-1]) for tap in seen_by_taps(strip, kernel.shape[:-2], strides)]
            gradients = jax.lax.dynamic_slice_in_dim(dy, row, high, 1).reshape(-1, dy.shape[-1])
            part = _by_matrix(once_on_cpus(jnp.concatenate(taps, -1)), gradients, precision)
            return total + part.astype(wide), None

        return jax.lax.scan(add_strip, total, jnp.arange(0, rows, high))

    zeros = jnp.zeros((math.prod(kernel.shape[:-1]), kernel.shape[-1]), wide)
    total, _ = jax.lax.scan(add_images, zeros, tuple(a.reshape(-1, many, *a.shape[1:]) for a in (x, dy)))
    return total.reshape(kernel.shape).astype(kernel.dtype)


def _divisor(number: int, near: float) -> int:
    """The divisor of `number` whose ratio to `near` is the closest to 1."""
    divisors = (n for n in range(1, number + 1) if number % n == 0)
    return min(divisors, key=lambda n: abs(math.log(n / near)))


def once_on_cpus(x: Any) -> Any:
    """`x`, arrays which XLA's CPU backend would else compute anew in each of the loops that read them."""
    return jax.lax.optimization_barrier(x) if parallel.platform() == "cpu" else x


def sum_by_example(x: jax.Array, fold: bool = True) -> jax.Array:
    """The sums of `x` (batch, rows, …, channels) over all but the first and the last axis.

    XLA's CPU backend makes the summands an array of their own before it sums them. With `fold` a quarter of the rows: a loop
    that makes it adds the four quarters up.
    """
    axes = tuple(range(1, x.ndim - 1))
    if not fold or parallel.platform() != "cpu" or not axes or x.shape[1] < _FOLDS:
        return x.sum(axes)
    size = x.shape[1] // _FOLDS
    quarters = [x[:, k * size : (k + 1) * size] for k in range(_FOLDS)]
    total = once_on_cpus(functools.reduce(jnp.add, quarters)).sum(axes)
    return total + x[:, _FOLDS * size :].sum(axes) if x.shape[1] % _FOLDS else total


def on_cpus(special: Callable) -> Callable:
    """`special` in a program for CPUs, where it was measured to pay; XLA's own convolution elsewhere."""
    return special if parallel.platform() == "cpu" else convolve


def by_tiles(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """What `nn.Conv` computes of images of one channel, at stride 1 and "SAME": for kernels of a hundred taps and more.

    One matrix product gives tiles of 4 × 4 outputs out of all that they see: the matrix holds the kernel once for each place
    in a tile, zeros around it (of 10 × 23 taps half as many again), and what is unfolded is a twelfth of what it were for
    single outputs.
    """
    del strides, padding
    side, taps, size = _TILE, kernel.shape[:2], x.shape[1:3]
    tiles = [-(-steps // side) for steps in size]
    span = [reach + side - 1 for reach in taps]
    before = [(reach - 1) // 2 for reach in taps]
    after = [(n - 1) * side + sees - steps - first for n, sees, steps, first in zip(tiles, span, size, before, strict=True)]
    padded = jnp.pad(x[..., 0], ((0, 0), *zip(before, after, strict=True)))
    columns = once_on_cpus(padded[:, :, side * np.arange(tiles[1])[:, None] + np.arange(span[1])])
    rows = [columns[:, first : first + (tiles[0] - 1) * side + 1 : side] for first in range(span[0])]
    seen = once_on_cpus(jnp.concatenate(rows, -1)).reshape(-1, math.prod(span))
    kernels = _at_each_place(_at_each_place(kernel[:, :, 0], 1), 0)  # place, row, place, column, filter
    kernels = kernels.transpose(1, 3, 0, 2, 4).reshape(seen.shape[1], -1)
    y = jnp.dot(seen, kernels, precision=options["precision"]).reshape(-1, *tiles, side, side, kernel.shape[-1])
    y = y.swapaxes(2, 3).reshape(-1, tiles[0] * side, tiles[1] * side, kernel.shape[-1])
    return y[:, : size[0], : size[1]]


def _at_each_place(kernel: jax.Array, axis: int) -> jax.Array:
    """Taps along `axis` → place in the tile × taps and as many zeros as a tile sees more, shifted by the place."""
    zeros = [(0, _TILE if number == axis else 0) for number in range(kernel.ndim)]
    span = kernel.shape[axis] + _TILE - 1
    # Copies one longer than what a tile sees, end to end, cut into pieces of just that length: each starts a tap later.
    copies = jnp.concatenate([jnp.pad(kernel, zeros)] * _TILE, axis)
    pieces = jax.lax.slice_in_dim(copies, 0, _TILE * span, axis=axis)
    return pieces.reshape(*kernel.shape[:axis], _TILE, span, *kernel.shape[axis + 1 :])


def product_then_shifts(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """What `nn.Conv` computes along the rows of `(batch, rows, 1, channels)`, at stride 1 without padding: for many channels.

    One matrix product serves all taps, and few sums of its shifted results remain (3 times as fast on CPUs from 2,500
    channels to 32, gradient included).
    """
    del strides, padding
    rows = x.shape[1] - len(kernel) + 1
    products = jnp.einsum("btc,kco->btko", x[:, :, 0], kernel[:, 0], precision=options["precision"])
    return sum((products[:, k : k + rows, k] for k in range(1, len(kernel))), products[:, :rows, 0])[:, :, None]


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


def depthwise_by_shifts(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """What `nn.Conv` computes of images with a filter a channel and explicit padding: a sum of shifted products.

    XLA's own is 8 to 30 times as slow on CPUs for 3 × 3 filters, gradient included.
    """
    del options
    return _depthwise(tuple(strides), tuple(map(tuple, padding)), x.shape[1:3], x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _depthwise(strides: tuple[int, int], padding: Pairs, size: tuple[int, int], x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _depthwise_forward(strides, padding, size, x, kernel)[0]


def _depthwise_forward(strides, padding, size, x, kernel):
    del size
    padded = once_on_cpus(jnp.pad(x, ((0, 0), *padding, (0, 0))))
    return _shifted_products(padded, kernel, strides), (padded, kernel)


def _shifted_products(padded: jax.Array, kernel: jax.Array, strides: tuple[int, int]) -> jax.Array:
    wide = jnp.promote_types(padded.dtype, jnp.float32)
    taps = zip(seen_by_taps(padded, kernel.shape[:2], strides), kernel.reshape(-1, padded.shape[-1]), strict=True)
    products = (tap.astype(wide) * own for tap, own in taps)
    return functools.reduce(jnp.add, products).astype(padded.dtype)


def _depthwise_backward(strides, padding, size, kept, dy):
    padded, kernel = kept
    dy = once_on_cpus(dy)
    wide, window = jnp.promote_types(dy.dtype, jnp.float32), kernel.shape[:2]
    d_taps = [sum_by_example(tap.astype(wide) * dy).sum(0) for tap in seen_by_taps(padded, window, strides)]
    d_kernel = jnp.stack(d_taps).reshape(kernel.shape).astype(kernel.dtype)
    around = [(reach - 1 - before, reach - 1 - after) for reach, (before, after) in zip(window, padding, strict=True)]
    if strides == (1, 1) and min(map(min, around)) >= 0:  # it is such a convolution itself
        d_padded = once_on_cpus(jnp.pad(dy, ((0, 0), *around, (0, 0))))
        return _shifted_products(d_padded, kernel[::-1, ::-1], strides), d_kernel
    taps = jnp.pad(kernel.reshape(-1, kernel.shape[-1]), ((0, 1), (0, 0)))

    def spread(move, number):
        return move(dy).astype(wide) * taps[number[..., 0]]

    dx = from_windows(spread, window, strides, size, (padding[0][0], padding[1][0]))
    return dx.astype(dy.dtype), d_kernel


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
