"""Forms of the networks' convolutions that XLA's CPU backend computes fast. `layers.Conv` calls `convolve`.

This module alone asks for which platform a program is compiled. On other platforms convolutions are XLA's own.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import parallel
from genre_jax.models.pooling import seen_by_taps

Pairs = tuple[tuple[int, int], ...]

_LARGE = 5_000  # pixels of an image from which strips pay for few channels too
_MANY = 32, 64  # channels in and out from which strips pay for all images
_STRIP = 1 << 20  # numbers of an unfolded strip; they fit a core's cache
_WHOLE = 1 << 22  # numbers of an unfolded batch up to which it is one strip
CHUNK = {"cpu": 1 << 19, "export": None}  # numbers of a chunk of time; in float32 they fit a core's cache


def chunk_length(time: int, width: int) -> int:
    """Returns how many of `time` steps, of `width` numbers each, `over_chunks` computes at a time."""
    size = CHUNK.get(parallel.platform(), 1 << 27)  # except on CPUs, this only saves memory
    return time if size is None else min(time, max(1, size // width))


def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """Computes `jax.lax.conv_general_dilated` as `nn.Conv` calls it, in the fastest form. All forms but one are for CPUs."""
    strides, taps, features = tuple(strides), kernel.shape[:-2], kernel.shape[-1]
    groups, precision = options.get("feature_group_count", 1), options.get("precision")
    pads = jax.lax.padtype_to_pads(x.shape[1:-1], taps, strides, padding) if isinstance(padding, str) else padding
    pads = tuple(map(tuple, pads))
    dilated = {*options.get("lhs_dilation", ()), *options.get("rhs_dilation", ())} - {1}
    unpadded = groups == 1 and not dilated and not any(map(any, pads))
    if unpadded and x.ndim == 3 and taps == strides:
        windows = x[:, : x.shape[1] // strides[0] * strides[0]].reshape(x.shape[0], -1, strides[0] * x.shape[-1])
        return jnp.matmul(windows, kernel.reshape(-1, features), precision=precision)
    if parallel.platform() != "cpu" or dilated or groups not in (1, features) or x.shape[-1] not in (groups, kernel.shape[-2]):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if unpadded and (math.prod(taps) == 1 or math.prod(taps) * features < x.shape[-1]):
        return _product_then_shifts(x, kernel, strides, precision)
    if x.shape[-1] == 1 and features < 32 and strides == (1, 1) and math.prod(taps) > 32:
        return _four_columns(x, kernel, pads, precision)
    return _convolve(x, kernel, strides, pads, precision)


def _product_then_shifts(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], precision: Any) -> jax.Array:
    """One matrix product for all taps, and the sum of its shifted results: for one tap, or few outputs of many channels."""
    taps, (channels, features) = kernel.shape[:-2], kernel.shape[-2:]
    if math.prod(taps) == 1:
        x, strides = next(seen_by_taps(x, taps, strides)), taps
    factor = jnp.moveaxis(kernel, -2, 0).reshape(channels, -1)
    products = jnp.dot(x.reshape(-1, channels), factor, precision=precision).reshape(*x.shape[:-1], -1)
    shifted = enumerate(seen_by_taps(products, taps, strides))
    return functools.reduce(jnp.add, (tap[..., k * features : (k + 1) * features] for k, tap in shifted))


def _four_columns(x: jax.Array, kernel: jax.Array, padding: Pairs, precision: Any) -> jax.Array:
    """Convolves few maps at stride 4 with a wider kernel that computes four columns; all that its taps see is unfolded once."""
    columns = x.shape[2] + sum(padding[1]) - kernel.shape[1] + 1
    shifted = [jnp.pad(kernel, ((0, 0), (k, 3 - k), (0, 0), (0, 0))) for k in range(4)]
    padding = padding[0], (padding[1][0], padding[1][1] + -columns % 4)
    y = _convolve(x, jnp.concatenate(shifted, -1), (1, 4), padding, precision)
    return y.reshape(*y.shape[:2], -1, kernel.shape[-1])[:, :, :columns]


def _xla(x, kernel, strides, padding, **options):
    sizes = "HW"[: x.ndim - 2]
    numbers = f"N{sizes}C", f"{sizes}IO", f"N{sizes}C"
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, **options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Pairs, precision: Any) -> jax.Array:
    """XLA's convolution, or one with a filter a channel, with gradients that are fast in loops too.

    XLA's fast convolution has one order of dimensions, into which XLA turns the others outside of loops only. In a loop, such
    as that over micro-batches, XLA's own gradient by a kernel takes 30 times as long. The barriers stop XLA from turning back.
    """
    if kernel.shape[-2] == x.shape[-1]:
        return _xla(x, kernel, strides, padding, precision=precision)
    return _depthwise(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel, strides)


def _depthwise(padded: jax.Array, kernel: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    """Returns the sum of shifted products. XLA's own form takes 8 to 30 times as long."""
    padded, wide = jax.lax.optimization_barrier(padded), jnp.promote_types(padded.dtype, jnp.float32)
    taps = zip(seen_by_taps(padded, kernel.shape[:-2], strides), kernel.reshape(-1, padded.shape[-1]), strict=True)
    return functools.reduce(jnp.add, (tap.astype(wide) * weight for tap, weight in taps)).astype(padded.dtype)


def _convolve_backward(strides, padding, precision, kept, dy):
    (x, kernel), ones = kept, (1,) * len(strides)
    sizes = [*zip(x.shape[1:], kernel.shape, dy.shape[1:], strides, padding, strict=False)]
    around = [(taps - 1 - before, steps - (n - 1) * stride - 1 + before) for steps, taps, n, stride, (before, _) in sizes]
    filters, channels, features = jnp.flip(kernel, range(len(strides))), x.shape[-1], dy.shape[-1]
    if kernel.shape[-2] < channels:
        padded, dy = jax.lax.optimization_barrier((jnp.pad(x, ((0, 0), *padding, (0, 0))), dy))
        wide, taps = jnp.promote_types(dy.dtype, jnp.float32), seen_by_taps(padded, kernel.shape[:-2], strides)
        d_taps = [(tap.astype(wide) * dy).sum(tuple(range(x.ndim - 1))) for tap in taps]
        spread = [(*pair, stride - 1) for pair, stride in zip(around, strides, strict=True)]
        spread_dy = jax.lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
        return _depthwise(spread_dy, filters, ones), jnp.stack(d_taps).reshape(kernel.shape).astype(kernel.dtype)
    filters = jax.lax.optimization_barrier(filters.swapaxes(-1, -2))
    dx = _xla(dy, filters, ones, around, precision=precision, lhs_dilation=strides)
    large = math.prod(x.shape[1:-1]) >= _LARGE and channels > 1 and features >= 32
    if large or (channels >= _MANY[0] and features >= _MANY[1]):
        return dx, _strip_by_strip(x, dy, kernel, strides, padding, precision)
    images, filters = jax.lax.optimization_barrier((x.swapaxes(0, -1), jnp.moveaxis(dy, 0, -2)))
    around = [(before, taps + (n - 1) * stride - steps - before) for steps, taps, n, stride, (before, _) in sizes]
    d_kernel = jax.lax.optimization_barrier(_xla(images, filters, ones, around, precision=precision, rhs_dilation=strides))
    return dx, jnp.moveaxis(d_kernel, 0, -2)


_convolve.defvjp(lambda x, kernel, *how: (_convolve(x, kernel, *how), (x, kernel)), _convolve_backward)


def _strip_by_strip(x, dy, kernel, strides, padding, precision):
    """Returns the gradient by the kernel: a sum of products of a strip's gradients with all that the taps see in the strip.

    A strip is some rows of an image, or several small images. All that the taps see in it stays in the cache.
    """
    batch, rows = dy.shape[:2]
    a_row = math.prod(kernel.shape[:-1]) * math.prod(dy.shape[2:-1])  # numbers unfolded
    wanted = _STRIP / a_row if a_row * rows * batch > _WHOLE else batch * rows
    many, high = _divisor(batch, wanted / rows), _divisor(rows, wanted)
    reach, wide = (high - 1) * strides[0] + kernel.shape[0], jnp.promote_types(kernel.dtype, jnp.float32)
    padded = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))

    def add_strip(total, first):
        def cut(images, row, rows):
            return jax.lax.dynamic_slice(images, (first[0], row, *[0] * len(strides)), (many, rows, *images.shape[2:]))

        taps = seen_by_taps(cut(padded, first[1] * strides[0], reach), kernel.shape[:-2], strides)
        unfolded = jax.lax.optimization_barrier(jnp.concatenate([tap.reshape(-1, x.shape[-1]) for tap in taps], -1))
        gradients = cut(dy, first[1], high).reshape(-1, dy.shape[-1])
        return total + jnp.dot(gradients.T, unfolded, precision=precision).astype(wide), None

    zeros = jnp.zeros((dy.shape[-1], math.prod(kernel.shape[:-1])), wide)
    firsts = np.mgrid[0:batch:many, 0:rows:high].reshape(2, -1).T
    return jax.lax.scan(add_strip, zeros, firsts)[0].T.reshape(kernel.shape).astype(kernel.dtype)


def _divisor(number: int, near: float) -> int:
    """Returns the divisor of `number` whose ratio to `near` is the closest to 1."""
    return min((n for n in range(1, number + 1) if number % n == 0), key=lambda n: abs(math.log(n / near)))
