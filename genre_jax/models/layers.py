"""Layers that several networks share: convolution, linear layer, norms, dropout with a key per example, initialisers."""

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
# He et al. 2015 for ReLU networks, by the number of outputs, as in torchvision's ResNets.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# The same by the number of inputs, as in torchvision's DenseNets.
he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def product(x: jax.Array, kernel: jax.Array, dimensions: Any = None, precision: Any = None) -> jax.Array:
    """Returns `x` (…, in) times `kernel` (in, out). XLA computes the gradients of a product of two matrices faster."""
    del dimensions
    y = jnp.dot(x.reshape(-1, x.shape[-1]), kernel, precision=precision)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


# The convolution and the linear layer of every network, with the arguments of Flax's.
Conv: Any = functools.partial(nn.Conv, conv_general_dilated=cpu.convolve)
Dense: Any = functools.partial(nn.Dense, dot_general=product)


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
    """Returns PyTorch's default initialiser of biases: U(±1 / sqrt(fan_in))."""

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

    Statistics are those of the whole batch over all devices of the axis or group; the variance is computed in two passes.

    Attributes:
      momentum: weight of the batch in the running statistics: running = (1 - momentum) · running + momentum · batch.
      epsilon: added to the variance.
      unbiased: whether the running variance is the unbiased one; Keras 3 takes the biased one.
      axis_name: name of the axis of devices, or a group of them; None for a single device.
      param_dtype: type of the parameters and of the running statistics.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    unbiased: bool = True
    axis_name: parallel.Axis = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Normalise `x` (batch, …, channels). In training, examples with `mask` (batch,) 0 do not count."""
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
    """Returns the sum of `x` (batch, …, channels) over all but the channels; `weight` (batch,) weighs the examples."""
    return (x.sum(tuple(range(1, x.ndim - 1))) * weight[:, None]).sum(0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _batch_norm(
    epsilon: float, axis_name: parallel.Axis, x: jax.Array, scale: jax.Array, bias: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Normalises `x` (batch, …, channels) by the statistics of the examples of all devices, weighed by `weight` (batch,).

    Returns y, mean and biased variance (channels,), and how many numbers a channel has. The gradient, written out, is that of
    y alone, also through the statistics. It reads the images half as often as autodiff's.
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


def instance_norm(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Normalises each example and channel of `x` (batch, …, channels), as `torch.nn.InstanceNorm1d/2d` without parameters."""
    axes = tuple(range(1, x.ndim - 1))
    wide = x.astype(_statistics_dtype(x))
    centred = wide - wide.mean(axes, keepdims=True)
    return (centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + epsilon)).astype(x.dtype)


class ImageStem(nn.Module):
    """A 1×1 convolution of one channel to three, for networks made for colour images.

    Attributes:
      copies: True starts as three copies of the image. False starts as document 000's code: the weight is 1 in channel 0, the
        other weights and the biases are U(-1, 1).
      trainable: whether the convolution is trained.
      instance_norm: whether an instance norm follows, which gives ± the z-score of the image.
      dtype, param_dtype: as in `Network`.
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
        return (instance_norm(x) if self.instance_norm else x).astype(self.dtype)


def layer_keys(keys: jax.Array, path: tuple[str, ...]) -> jax.Array:
    """Returns the keys (batch,) of the examples for the layer at `path`."""
    layer = zlib.crc32("/".join(path).encode())
    return jax.vmap(lambda key: jax.random.fold_in(key, layer))(keys)


def drop_steps(x: jax.Array, keys: jax.Array, rate: float, first: Any) -> jax.Array:
    """Dropout of a sequence (batch, steps, channels), where each step has its own mask.

    `first` is the number of the first step. A part of a sequence is dropped as it would be in the whole sequence.
    """

    def mask(key, step):
        return jax.random.bernoulli(jax.random.fold_in(key, step), 1 - rate, x.shape[2:])

    masks = jax.vmap(jax.vmap(mask, (None, 0)), (0, None))
    return jnp.where(masks(keys, first + jnp.arange(x.shape[1])), x / (1 - rate), 0)


class Dropout(nn.Module):
    """Dropout of a share `rate`, whose masks depend on the keys of the examples alone, not on batch or device."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Drop numbers of `x` (batch, …) by `keys` (batch,). Without keys (evaluation) this is the identity."""
        if keys is None or self.rate == 0:
            return x
        masks = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(layer_keys(keys, self.path))
        return jnp.where(masks, x / (1 - self.rate), 0)
