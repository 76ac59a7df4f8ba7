"""ByteNet's residual block, with the backward pass that JAX makes, and with one that holds less memory at a time."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.dilated import dilated_conv, over_chunks, same_padding
from genre_jax.models.layers import drop, instance_norm

Params = dict[str, dict[str, jax.Array]]

EPSILON = 1e-5


class Convolution(NamedTuple):
    """What the blocks of a set share, known when the program is made; `dilation` counts where none is traced."""

    taps: int
    causal: bool
    rate: float
    dtype: Any
    backend: str
    bound: tuple[int, int]
    dilation: int = 1

    def __call__(self, x: jax.Array, kernel: jax.Array, dilation: jax.Array | None) -> jax.Array:
        at = self.dilation if dilation is None else dilation
        padding = same_padding(at, self.taps, self.causal)
        return dilated_conv(x, kernel.astype(self.dtype), at, padding, backend=self.backend, bound=self.bound)


def block(params: Params, x: jax.Array, keys: jax.Array | None, dilation: jax.Array | None, conv: Convolution) -> jax.Array:
    """Norm, ReLU, 1×1 to half width; norm, ReLU, dilated convolution; norm, ReLU, 1×1 back; dropout; plus input `x`.

    `x` (batch, time, 2 width) and the result alike. Convolutions have no bias; the norms are per clip and channel over time.
    """

    def active(y, name):
        return nn.relu(instance_norm(y, params[name]["scale"], params[name]["bias"]))

    y = active(x, "norm1") @ params["conv1"]["kernel"][0].astype(conv.dtype)
    y = conv(active(y, "norm2"), params["conv2"]["kernel"], dilation)
    y = active(y, "norm3") @ params["conv3"]["kernel"][0].astype(conv.dtype)
    return x + (y if keys is None else drop(y, keys, conv.rate))


# ---------------------------------------------------------------- the lean backward pass


class Norm(NamedTuple):
    """Instance norm with its statistics known: mean, 1 / deviation (batch, 1, channels), scale and bias (channels,)."""

    mean: jax.Array
    inverse: jax.Array
    scale: jax.Array
    bias: jax.Array

    @classmethod
    def of(cls, x: jax.Array, params: dict[str, jax.Array]) -> "Norm":
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = wide.mean(1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.square(wide - mean).mean(1, keepdims=True) + EPSILON)
        return cls(mean, inverse, params["scale"], params["bias"])

    def normalised(self, x: jax.Array) -> jax.Array:
        return (x.astype(self.mean.dtype) - self.mean) * self.inverse

    def relu(self, x: jax.Array) -> jax.Array:
        """ReLU of the norm of `x`, which may be a part of what the statistics are of."""
        return nn.relu(self.normalised(x) * self.scale + self.bias).astype(x.dtype)

    def sums(self, x: jax.Array, d_out: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(batch, 1, channels) each: sums over time of the gradient behind the ReLU, and of it times the normalised `x`."""
        open_gradient, normalised = self._open(x, d_out)
        return open_gradient.sum(1, keepdims=True), (open_gradient * normalised).sum(1, keepdims=True)

    def gradient(self, x: jax.Array, d_out: jax.Array, sums: tuple[jax.Array, jax.Array], time: int) -> jax.Array:
        """The gradient by `x`, of the sums over all `time`."""
        open_gradient, normalised = self._open(x, d_out)
        return self.inverse * self.scale * (open_gradient - sums[0] / time - normalised * (sums[1] / time))

    def _open(self, x: jax.Array, d_out: jax.Array) -> tuple[jax.Array, jax.Array]:
        normalised = self.normalised(x)
        return jnp.where(normalised * self.scale + self.bias > 0, d_out.astype(self.mean.dtype), 0), normalised


def _backward(norm: Norm, x: jax.Array, d_out: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Gradients by `x` and by scale and bias of `norm.relu(x)`."""
    sums = norm.sums(x, d_out)
    return norm.gradient(x, d_out, sums, x.shape[1]).astype(x.dtype), _affine(sums, norm)


def _affine(sums: tuple[jax.Array, jax.Array], norm: Norm) -> dict[str, jax.Array]:
    return {"scale": sums[1].sum((0, 1)).astype(norm.scale.dtype), "bias": sums[0].sum((0, 1)).astype(norm.bias.dtype)}


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def lean_block(
    params: Params, x: jax.Array, keys: jax.Array | None, dilation: jax.Array | None, conv: Convolution
) -> jax.Array:
    """`block`, of which the backward pass keeps `x` alone.

    It works at half width but for the ends: what has full width is computed in chunks of time, first for the sums that
    the norm's gradient needs, then once more for the gradient, which takes the place of the one that came in.
    """
    return block(params, x, keys, dilation, conv)


def _lean_forward(params, x, keys, dilation, conv):
    return block(params, x, keys, dilation, conv), (params, x, keys, dilation)


def _cut(x: jax.Array, start: Any, steps: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, start, steps, 1)


def _put(x: jax.Array, part: jax.Array, start: Any) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(x, part, start, 1)


def _end_sums(norm: Norm, x: jax.Array, kernel: jax.Array, d_out: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Of `norm.relu(x) @ kernel`: the gradient by `kernel`, and the norm's sums, collected in chunks of time."""

    def collect(start, steps, carry):
        d_kernel, sums = carry
        part, d_part = _cut(x, start, steps), _cut(d_out, start, steps)
        more = norm.sums(part, d_part @ kernel.T)
        return d_kernel + jnp.einsum("bti,bto->io", norm.relu(part), d_part), jax.tree.map(jnp.add, sums, more)

    return over_chunks(x.shape[1], collect, (jnp.zeros_like(kernel), (jnp.zeros_like(norm.mean),) * 2))


def _lean_backward(conv, kept, dy):
    params, x, keys, dilation = kept
    first, middle, last = (params[name]["kernel"].astype(conv.dtype) for name in ("conv1", "conv2", "conv3"))
    time = x.shape[1]
    norm1 = Norm.of(x, params["norm1"])

    def half_width(start, steps, h):
        return _put(h, norm1.relu(_cut(x, start, steps)) @ first[0], start)

    h1 = over_chunks(time, half_width, jnp.zeros((*x.shape[:2], first.shape[2]), x.dtype))
    norm2 = Norm.of(h1, params["norm2"])
    h2, pull = jax.vjp(lambda a, w: conv(a, w, dilation), norm2.relu(h1), middle)
    norm3 = Norm.of(h2, params["norm3"])
    dz = dy if keys is None else drop(dy, keys, conv.rate)
    d_last, sums3 = _end_sums(norm3, h2, last[0], dz)

    def over_h2(start, steps, h):
        d_part = _cut(dz, start, steps) @ last[0].T
        return _put(h, norm3.gradient(_cut(h, start, steps), d_part, sums3, time).astype(x.dtype), start)

    d_a2, d_middle = pull(over_chunks(time, over_h2, h2))
    d_h1, d_norm2 = _backward(norm2, h1, d_a2)
    d_first, sums1 = _end_sums(norm1, x, first[0], d_h1)

    def over_dy(start, steps, dx):
        d_part = _cut(d_h1, start, steps) @ first[0].T
        d_part = norm1.gradient(_cut(x, start, steps), d_part, sums1, time).astype(x.dtype)
        return _put(dx, _cut(dx, start, steps) + d_part, start)

    kernels = {"conv1": d_first[None], "conv2": d_middle, "conv3": d_last[None]}
    d_params = {name: {"kernel": d.astype(params[name]["kernel"].dtype)} for name, d in kernels.items()}
    d_params |= {"norm1": _affine(sums1, norm1), "norm2": d_norm2, "norm3": _affine(sums3, norm3)}
    return d_params, over_chunks(time, over_dy, dy), None, None


lean_block.defvjp(_lean_forward, _lean_backward)
