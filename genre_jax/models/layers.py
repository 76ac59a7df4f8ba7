"""Layers that several networks share: the one BatchNorm, instance norm, dropout with a key per example, initialisers."""

import contextlib
import contextvars
import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import parallel

# PyTorch's default for convolutions and linear layers: U(±1 / sqrt(fan in)).
torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# He et al. 2015 for ReLU networks, over outputs, as torchvision's ResNets have it.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# The same over inputs, as its DenseNets have it.
he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for biases: U(±1 / sqrt(fan_in))."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -1, 1) / fan_in**0.5

    return init


def _statistics_dtype(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


class BatchNorm(nn.Module):
    """Batch normalisation over all but the last axis, with PyTorch's conventions.

    Statistics are those of the whole batch over all devices (`axis_name`), the variance in two passes; examples with
    `mask` 0 do not count. The running variance is the unbiased one (Keras 3 takes the biased one: `unbiased=False`);
    running = (1 - momentum) · running + momentum · batch.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    unbiased: bool = True
    axis_name: str | None = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (features,), self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), self.param_dtype)
        wide = x.astype(_statistics_dtype(x))
        if train:
            mean, var, count = self._batch_statistics(wide, mask)
            if not self.is_initializing():
                kept = var * (count / jnp.maximum(count - 1, 1)) if self.unbiased else var
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (kept - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        return ((wide - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias).astype(x.dtype)

    def _batch_statistics(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        axes = tuple(range(x.ndim - 1))
        weight = jnp.ones(x.shape[0], x.dtype) if mask is None else mask.astype(x.dtype)
        weight = weight.reshape(-1, *[1] * (x.ndim - 1))
        count = jnp.sum(jnp.broadcast_to(weight, (*x.shape[:-1], 1)))
        total, count = parallel.sum((jnp.sum(x * weight, axes), count), self.axis_name)
        mean = total / count
        var = parallel.sum(jnp.sum(jnp.square(x - mean) * weight, axes), self.axis_name) / count
        return mean, var, count


def instance_norm(
    x: jax.Array, scale: jax.Array | None = None, bias: jax.Array | None = None, epsilon: float = 1e-5
) -> jax.Array:
    """Each example and channel of `x` (batch, …, channels) normalised over the axes between, then scaled and shifted."""
    axes = tuple(range(1, x.ndim - 1))
    wide = x.astype(_statistics_dtype(x))
    mean = wide.mean(axes, keepdims=True)
    var = jnp.square(wide - mean).mean(axes, keepdims=True)
    y = (wide - mean) * jax.lax.rsqrt(var + epsilon)
    if scale is not None and bias is not None:
        y = y * scale + bias
    return y.astype(x.dtype)


class InstanceNorm(nn.Module):
    """Normalisation of each example and channel over its other axes (biased variance), as `torch.nn.InstanceNorm1d/2d`."""

    affine: bool = True
    epsilon: float = 1e-5
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = bias = None
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
            bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), self.param_dtype)
        return instance_norm(x, scale, bias, self.epsilon)


_DIMENSIONS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}
Pairs = tuple[tuple[int, int], ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _turned(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Pairs, precision: Any) -> jax.Array:
    return _xla(x, kernel, strides, padding, precision)


def _xla(x, kernel, strides, padding, precision, **dilations):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_DIMENSIONS[x.ndim - 2], precision=precision, **dilations
    )


def _turned_forward(x, kernel, strides, padding, precision):
    return _turned(x, kernel, strides, padding, precision), (x, kernel)


def _turned_backward(strides, padding, precision, kept, dy):
    x, kernel = kept
    axes = tuple(range(1, x.ndim - 1))
    sizes = [(steps, taps, (gradients - 1) * stride + 1, before) for steps, taps, gradients, stride, (before, _) in zip(
        x.shape[1:-1], kernel.shape, dy.shape[1:-1], strides, padding, strict=False)]  # fmt: skip
    still = (1,) * len(axes)
    # Barriers, for XLA would fold what turns the arrays back into the convolution's order of dimensions.
    filters = jax.lax.optimization_barrier(jnp.flip(kernel, range(len(axes))).swapaxes(-1, -2))
    around = [(taps - 1 - before, steps - span + before) for steps, taps, span, before in sizes]
    dx = _xla(dy, filters, still, around, precision, lhs_dilation=strides)
    x, dy = jax.lax.optimization_barrier((jnp.transpose(x, (-1, *axes, 0)), jnp.transpose(dy, (*axes, 0, -1))))
    around = [(before, taps - 1 + span - steps - before) for steps, taps, span, before in sizes]
    d_kernel = _xla(x, dy, still, around, precision, rhs_dilation=strides)
    return dx, jnp.transpose(d_kernel, (*axes, 0, -1))


_turned.defvjp(_turned_forward, _turned_backward)


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
    """`jax.lax.conv_general_dilated` as `nn.Conv` calls it, whose gradients are fast on CPUs `in_loop`, too.

    XLA takes its fast convolution there for one order of dimensions alone, and turns others outside of loops only: in the
    scan over micro-batches (`train.accumulate`) a gradient by weights took 100 times as long. In a loop both gradients are
    written in that order. Grouped or dilated convolutions, and other devices, get XLA's own; so does what is in no loop,
    for it is as fast and compiles in three quarters of the time.
    """
    dilations = (*options.get("lhs_dilation", ()), *options.get("rhs_dilation", ()))
    own = not _IN_LOOP.get() or jax.default_backend() != "cpu"
    if own or options.get("feature_group_count", 1) > 1 or set(dilations) - {1}:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:-1], kernel.shape[:-2], strides, padding)
    return _turned(x, kernel, tuple(strides), tuple(map(tuple, padding)), options.get("precision"))


Conv: Any = functools.partial(nn.Conv, conv_general_dilated=convolve)


def on_cpus(special: Callable) -> Callable:
    """`special` in a program for CPUs, where it was measured to pay; XLA's own convolution elsewhere."""
    return special if jax.default_backend() == "cpu" else convolve


def columns_as_channels(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """What `nn.Conv` computes of images of one channel, at stride 1 and "SAME": for kernels of many columns, on CPUs.

    The kernel's columns are unfolded into channels, of which XLA's convolution there wants many (2.2 to 2.6 times as fast for
    10 × 23 and 21 × 20 kernels, gradient included; it does not pay for 3 × 3).
    """
    rows, columns, _, features = kernel.shape
    before = (columns - 1) // 2
    padded = jnp.pad(x[..., 0], ((0, 0), (0, 0), (before, columns - 1 - before)))
    unfolded = jnp.stack([padded[:, :, j : j + x.shape[2]] for j in range(columns)], -1)
    return convolve(unfolded, kernel.reshape(rows, 1, columns, features), strides, padding, **options)


def product_then_shifts(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """What `nn.Conv` computes along the rows of `(batch, rows, 1, channels)`, at stride 1 without padding: for many channels.

    One matrix product serves all taps, and few sums of its shifted results remain (3 times as fast on CPUs from 2,500
    channels to 32, gradient included).
    """
    del strides, padding
    rows = x.shape[1] - len(kernel) + 1
    products = jnp.einsum("btc,kco->btko", x[:, :, 0], kernel[:, 0], precision=options["precision"])
    return sum((products[:, k : k + rows, k] for k in range(1, len(kernel))), products[:, :rows, 0])[:, :, None]


def depthwise_by_shifts(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """What `nn.Conv` computes of images with a filter a channel and explicit padding: a sum of shifted products.

    XLA's own is 8 to 30 times as slow on CPUs for 3 × 3 filters, gradient included.
    """
    del options
    rows, columns, _, _ = kernel.shape
    down, across = strides
    wide = jnp.pad(x.astype(_statistics_dtype(x)), ((0, 0), *padding, (0, 0)))
    height, width = wide.shape[1] - rows + 1, wide.shape[2] - columns + 1
    taps = (
        wide[:, i : i + height : down, j : j + width : across] * kernel[i, j, 0] for i in range(rows) for j in range(columns)
    )
    return functools.reduce(jnp.add, taps).astype(x.dtype)


class ImageStem(nn.Module):
    """One channel to three, for networks made for colour images: a 1×1 convolution that is never trained unless asked.

    It starts as three copies of the image, or (`copies=False`) as document 000's code has it: weight 1 in channel 0, all else
    U(-1, 1); followed by an instance norm that is ± the z-score of the image.
    """

    copies: bool
    trainable: bool
    instance_norm: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def thesis_kernel(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -1, 1).at[..., 0].set(1)

        w = self.param("kernel", nn.initializers.ones if self.copies else thesis_kernel, (1, 3), self.param_dtype)
        b = self.param("bias", nn.initializers.zeros if self.copies else torch_bias(1), (3,), self.param_dtype)
        if not self.trainable:
            w, b = jax.lax.stop_gradient((w, b))
        x = x.astype(jnp.promote_types(x.dtype, self.dtype)) * w[0] + b
        return (InstanceNorm(affine=False)(x) if self.instance_norm else x).astype(self.dtype)


def layer_keys(keys: jax.Array, path: tuple[str, ...]) -> jax.Array:
    """The examples' keys (batch,) for the layer at `path`."""
    layer = zlib.crc32("/".join(path).encode())
    return jax.vmap(lambda key: jax.random.fold_in(key, layer))(keys)


def drop(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """`x` (batch, …) with a share `rate` of its numbers 0 and the rest scaled up, as the example's own key has it."""

    def mask(key):
        return jax.random.bernoulli(key, 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(mask)(keys), x / (1 - rate), 0)


def drop_steps(x: jax.Array, keys: jax.Array, rate: float, first: Any) -> jax.Array:
    """`drop` of a sequence (batch, steps, channels) whose steps, from number `first` on, each have a mask of their own.

    A part of a sequence so loses what it would lose as part of the whole.
    """

    def mask(key, step):
        return jax.random.bernoulli(jax.random.fold_in(key, step), 1 - rate, x.shape[2:])

    masks = jax.vmap(jax.vmap(mask, (None, 0)), (0, None))
    return jnp.where(masks(keys, first + jnp.arange(x.shape[1])), x / (1 - rate), 0)


class Dropout(nn.Module):
    """Dropout whose mask depends on the example's own key alone, so that it knows neither batch nor device."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """`x` (batch, …) and `keys` (batch,); without keys (evaluation) the identity."""
        if keys is None or self.rate == 0:
            return x
        return drop(x, layer_keys(keys, self.path), self.rate)
