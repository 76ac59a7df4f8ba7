"""Layers that several networks share: the one BatchNorm, instance norm, dropout with a key per example, initialisers."""

import functools
import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import parallel
from genre_jax.models import cpu

glorot = nn.initializers.glorot_uniform()
# PyTorch's default for convolutions and linear layers: U(±1 / sqrt(fan in)).
torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# He et al. 2015 for ReLU networks, over outputs, as torchvision's ResNets have it.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# The same over inputs, as its DenseNets have it.
he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def product(x: jax.Array, kernel: jax.Array, dimensions: Any = None, precision: Any = None) -> jax.Array:
    """Returns `x` (…, in) times `kernel` (in, out) as a product of two matrices, whose gradients XLA computes faster."""
    del dimensions
    y = jnp.dot(x.reshape(-1, x.shape[-1]), kernel, precision=precision)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


# The convolution and the linear layer of every network: Flax's, with all their arguments.
Conv: Any = functools.partial(nn.Conv, conv_general_dilated=cpu.convolve)
Dense: Any = functools.partial(nn.Dense, dot_general=product)


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for biases: U(±1 / sqrt(fan_in))."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -1, 1) / fan_in**0.5

    return init


def torch_init(fan_in: int) -> dict[str, nn.initializers.Initializer]:
    """Returns PyTorch's default initialisers of a layer with `fan_in` inputs a unit, as keyword arguments."""
    return {"kernel_init": torch_kernel, "bias_init": torch_bias(fan_in)}


def gate(x: jax.Array) -> jax.Array:
    """WaveNet's gated unit: tanh of the first half of the channels times the sigmoid of the second half."""
    first, second = jnp.split(x, 2, -1)
    return jnp.tanh(first) * nn.sigmoid(second)


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
        if not train:
            wide = x.astype(_statistics_dtype(x))
            rate = jax.lax.rsqrt(running_var.value + self.epsilon) * scale
            return ((wide - running_mean.value) * rate + bias).astype(x.dtype)
        weight = jnp.ones(x.shape[:1], jnp.float32) if mask is None else mask
        y, mean, var, count = _batch_norm(self.epsilon, self.axis_name, x, scale, bias, weight.astype(_statistics_dtype(x)))
        if not self.is_initializing():
            kept = var * (count / jnp.maximum(count - 1, 1)) if self.unbiased else var
            running_mean.value += self.momentum * (mean - running_mean.value)
            running_var.value += self.momentum * (kept - running_var.value)
        return y


def _total(x: jax.Array, weight: jax.Array) -> jax.Array:
    """The sum of `x` (batch, …, channels) over all but the channels, each example times its `weight` (batch,)."""
    return (x.sum(tuple(range(1, x.ndim - 1))) * weight[:, None]).sum(0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _batch_norm(
    epsilon: float, axis_name: str | None, x: jax.Array, scale: jax.Array, bias: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """`x` (batch, …, channels) normalised by the statistics of the examples of all devices, each with its `weight` (batch,).

    Returns y, mean and biased variance (channels,), and how many numbers a channel has. The gradient is that of y alone,
    through the statistics too, written out: it reads the images half as often as what autodiff would make of it.
    """
    return _batch_norm_forward(epsilon, axis_name, x, scale, bias, weight)[0]


def _batch_norm_forward(epsilon, axis_name, x, scale, bias, weight):
    wide = x.astype(_statistics_dtype(x))
    count = weight.sum() * (x.size // (x.shape[0] * x.shape[-1]))
    total, count = parallel.sum((_total(wide, weight), count), axis_name)
    mean = total / count
    var = parallel.sum(_total(jnp.square(wide - mean), weight), axis_name) / count
    y = ((wide - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias).astype(x.dtype)
    return (y, mean, var, count), (x, scale, weight, mean, var, count)


def _batch_norm_backward(epsilon, axis_name, kept, gradients):
    x, scale, weight, mean, var, count = kept
    dy = gradients[0].astype(mean.dtype)
    centred, rate = x.astype(mean.dtype) - mean, jax.lax.rsqrt(var + epsilon)
    axes = tuple(range(x.ndim - 1))
    d_bias, d_scale = dy.sum(axes), (dy * centred).sum(axes)
    by_mean, by_deviation = parallel.sum((d_bias, d_scale), axis_name)
    through_statistics = (by_mean + centred * (by_deviation * rate * rate)) * (weight / count).reshape(-1, *[1] * (x.ndim - 1))
    dx = (dy - through_statistics) * (scale * rate)
    return dx.astype(x.dtype), d_scale * rate, d_bias, jnp.zeros_like(weight)


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


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
