"""ByteNet's residual block, with JAX's backward pass and with a backward pass written by hand that needs less memory.

If devices share a sequence along time (`time_shards.TimeShards`), sums over time are those of all shards, and the dilated
convolution sees the steps of neighbouring shards. Gradients are those of the sum over all devices.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.bytenet.dilated import dilated_conv, over_chunks, same_padding
from genre_jax.models.bytenet.time_shards import TimeShards
from genre_jax.models.layers import drop_steps, gate

Params = dict[str, dict[str, jax.Array]]
# Mean and 1 / deviation (batch, 1, channels) of a sequence; () with layer norm, which needs none.
Statistics = tuple[jax.Array, ...]

EPSILON = 1e-5
NORMS = ("instance", "layer")


class BlockSpec(NamedTuple):
    """Common options of the blocks of a set, known when the program is made.

    Attributes:
      taps, causal, norm, gated, dtype, backend: as in `network.ByteNet`.
      dilations: of the blocks of the set.
      rate: of the dropout, 0 to 1.
      length: steps of the whole sequence; the shards together may hold more.
      shards: devices that share the sequence; None if each device has whole sequences.
      dilation: of the current block, unless its dilation is traced.
    """

    taps: int
    dilations: tuple[int, ...]
    causal: bool
    norm: str
    gated: bool
    rate: float
    dtype: Any
    backend: str
    length: int
    shards: TimeShards | None
    dilation: int = 1

    def reach(self, dilation: int) -> tuple[int, int]:
        """Returns the steps (before, after) that a dilation sees, at most the length of the sequence."""
        before, after = (int(n) for n in same_padding(dilation, self.taps, self.causal))
        return min(before, self.length), min(after, self.length)

    def convolve(self, x: jax.Array, kernel: jax.Array, dilation: jax.Array | None) -> jax.Array:
        """Returns the dilated convolution, of the same length as `x`. Steps beyond the sequence's end count as zeros."""
        at = self.dilation if dilation is None else dilation
        left, right = same_padding(at, self.taps, self.causal)
        steps, kernel = x.shape[1], kernel.astype(self.dtype)
        before = after = 0
        if self.shards:
            before, after = self.reach(self.dilation if dilation is None else max(self.dilations))
            x = self.shards.extend(self.inside(x), before, after)
        furthest = same_padding(max(self.dilations), self.taps, self.causal)
        span = (before - int(furthest[0]), before + int(furthest[1]))
        return dilated_conv(x, kernel, at, (left - before, right - after), backend=self.backend, span=span, length=steps)

    def inside(self, x: jax.Array) -> jax.Array:
        """Returns `x` (batch, steps, …) with zeros beyond the sequence's end."""
        if self.shards is None:
            return x
        step = self.shards.index * x.shape[1] + jnp.arange(x.shape[1])
        return jnp.where((step < self.length)[:, None], x, 0)

    def total(self, tree: Any) -> Any:
        """Returns sums over the sequence of sums over this device's steps."""
        return self.shards.sum(tree) if self.shards else tree

    def first_step(self, steps: int) -> Any:
        """Returns the number of this device's first step."""
        return self.shards.index * steps if self.shards else 0

    def statistics(self, x: jax.Array) -> Statistics:
        """Returns the statistics of `x` over time."""
        if self.norm == "layer":
            return ()
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = self.total(self.inside(wide).sum(1, keepdims=True)) / self.length
        var = self.total(self.inside(jnp.square(wide - mean)).sum(1, keepdims=True)) / self.length
        return mean, jax.lax.rsqrt(var + EPSILON)

    def through_statistics(self, x: jax.Array, statistics: Statistics, gradients: Statistics, start: Any) -> jax.Array:
        """Returns the gradient by the steps `x`, from step `start` on, through `statistics` with these `gradients`."""
        (mean, inverse), (d_mean, d_inverse) = statistics, gradients
        d_x = (d_mean - d_inverse * inverse**3 * (x.astype(mean.dtype) - mean)) / self.length
        if self.shards:
            d_x = jnp.where((start + jnp.arange(x.shape[1]) < self.length)[:, None], d_x, 0)
        return d_x.astype(x.dtype)


def norm_relu(x: jax.Array, affine: tuple[jax.Array, ...]) -> jax.Array:
    """Returns the ReLU of the norm: over time with (mean, scale, bias), or over channels with (scale, bias); see `folded`."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if len(affine) == 2:
        mean = wide.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + EPSILON) * affine[0]
    else:
        mean, scale = jax.lax.stop_gradient(affine[0]), affine[1]
    return nn.relu((wide - mean) * scale + affine[-1]).astype(x.dtype)


def folded(statistics: Statistics, params: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    """Returns the factors of `norm_relu`: (scale, bias), or with statistics (mean, scale, bias), each (batch, 1, channels).

    The gradient by the mean goes through the bias; the backward pass then has two sums over time and not four.
    """
    scale, bias = params["scale"], params["bias"]
    if not statistics:
        return scale, bias
    mean, inverse = statistics
    fixed = jax.lax.stop_gradient(mean)
    return fixed, inverse * scale, bias + (fixed - mean) * (inverse * scale)


def block(params: Params, x: jax.Array, keys: jax.Array | None, dilation: jax.Array | None, spec: BlockSpec) -> jax.Array:
    """Norm, ReLU, 1×1 to half width; norm, ReLU, dilated convolution; norm, ReLU (or gate), 1×1 back; dropout; plus `x`.

    `x` and the result are (batch, time, 2 width). Convolutions have no bias.
    """

    def active(y, name):
        return norm_relu(y, folded(spec.statistics(y), params[name]))

    y = active(x, "norm1") @ params["conv1"]["kernel"][0].astype(spec.dtype)
    y = spec.convolve(active(y, "norm2"), params["conv2"]["kernel"], dilation)
    y = (gate(y) if spec.gated else active(y, "norm3")) @ params["conv3"]["kernel"][0].astype(spec.dtype)
    return x + _dropped(y, keys, spec, spec.first_step(y.shape[1]))


def _dropped(y: jax.Array, keys: jax.Array | None, spec: BlockSpec, first: Any) -> jax.Array:
    return y if keys is None else drop_steps(y, keys, spec.rate, first)


# ---------------------------------------------------------------- the backward pass by hand


class Middle(NamedTuple):
    """Arrays between the input and the output of a block: two half-width sequences, and the statistics of the three norms."""

    first: jax.Array
    second: jax.Array
    statistics: tuple[Statistics, Statistics, Statistics]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def written_block(
    params: Params, x: jax.Array, keys: jax.Array | None, dilation: jax.Array | None, spec: BlockSpec, keep: bool
) -> jax.Array:
    """`block` with a backward pass written by hand. It keeps `x`, and with `keep` the outputs of the first two convolutions.

    Arrays of full width are computed in chunks of time, which fit a core's cache. The gradient by `x` takes the memory of the
    incoming gradient.
    """
    return _forward(params, x, keys, dilation, spec, keep)[0]


def _forward(params, x, keys, dilation, spec, keep):
    middle = _middle(params, x, dilation, spec)
    local = _fold_last(middle.statistics[2], params, spec)

    def add(start, steps, y):
        part = _dropped(_last(_cut(middle.second, start, steps), local), keys, spec, spec.first_step(x.shape[1]) + start)
        return _put(y, _cut(y, start, steps) + part, start)

    return over_chunks(x.shape, add, x), (params, x, keys, dilation, middle if keep else None)


def _middle(params: Params, x: jax.Array, dilation: jax.Array | None, spec: BlockSpec) -> Middle:
    statistics1 = spec.statistics(x)
    local = _fold_first(statistics1, params, spec)

    def put(start, steps, h):
        return _put(h, _first(_cut(x, start, steps), local), start)

    h1 = over_chunks(x.shape, put, jnp.zeros((*x.shape[:2], params["conv1"]["kernel"].shape[2]), x.dtype))
    statistics2 = spec.statistics(h1)
    h2 = spec.convolve(norm_relu(h1, folded(statistics2, params["norm2"])), params["conv2"]["kernel"], dilation)
    return Middle(h1, h2, (statistics1, statistics2, () if spec.gated else spec.statistics(h2)))


def _fold_first(statistics: Statistics, params: Params, spec: BlockSpec) -> Any:
    return folded(statistics, params["norm1"]), _both_ways(params["conv1"]["kernel"][0].astype(spec.dtype))


def _first(x: jax.Array, local: Any) -> jax.Array:
    affine, kernel = local
    return _product(norm_relu(x, affine), *kernel)


def _fold_last(statistics: Statistics, params: Params, spec: BlockSpec) -> Any:
    affine = () if spec.gated else folded(statistics, params["norm3"])
    return affine, _both_ways(params["conv3"]["kernel"][0].astype(spec.dtype))


def _last(h: jax.Array, local: Any) -> jax.Array:
    affine, kernel = local
    return _product(norm_relu(h, affine) if affine else gate(h), *kernel)


def _both_ways(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    return kernel, jax.lax.stop_gradient(kernel.T)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array, transposed: jax.Array) -> jax.Array:
    """`x @ kernel`, whose gradients transpose no large array: they use the transposed kernel, and the narrower factor."""
    return x @ kernel


def _product_backward(kept, dy):
    x, kernel, transposed = kept
    narrow, wide = (x, dy) if kernel.shape[0] <= kernel.shape[1] else (dy, x)
    d_kernel = jnp.einsum("btn,btw->nw", narrow, wide)
    return dy @ transposed, d_kernel if narrow is x else d_kernel.T, jnp.zeros_like(transposed)


_product.defvjp(lambda x, kernel, transposed: (x @ kernel, (x, kernel, transposed)), _product_backward)


def _cut(x: jax.Array, start: Any, steps: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, start, steps, 1)


def _put(x: jax.Array, part: jax.Array, start: Any) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(x, part, start, 1)


def _backward_in_chunks(
    function: Callable, fold: Callable, x: jax.Array, statistics: Statistics, params: Any, d_out: jax.Array,
    d_x: jax.Array | None, spec: BlockSpec,
) -> tuple[jax.Array, Any]:  # fmt: skip
    """Returns the gradients by `x` and `params` of function(x, fold(statistics, params)), which works on each step alone.

    The gradient by `x` is added to `d_x`, or replaces `d_out` if `d_x` is None. It includes the gradient through the
    statistics, which are those of `x`.
    """
    local, unfold = jax.vjp(fold, statistics, params)
    shape = max(x.shape, d_out.shape)

    def through_function(start, steps, carry):
        into, d_local = carry
        _, pull = jax.vjp(function, _cut(x, start, steps), local)
        d_part, more = pull(_cut(into if d_x is None else d_out, start, steps))
        if d_x is not None:
            d_part += _cut(into, start, steps)
        return _put(into, d_part, start), jax.tree.map(jnp.add, d_local, more)

    zeros = jax.tree.map(jnp.zeros_like, local)
    gradient, d_local = over_chunks(shape, through_function, (d_out if d_x is None else d_x, zeros))
    d_statistics, d_params = unfold(d_local)
    if not statistics:
        return gradient, d_params
    d_statistics = spec.total(d_statistics)
    first = spec.first_step(x.shape[1])

    def through_statistics(start, steps, d_x):
        more = spec.through_statistics(_cut(x, start, steps), statistics, d_statistics, first + start)
        return _put(d_x, _cut(d_x, start, steps) + more, start)

    return over_chunks(shape, through_statistics, gradient), d_params


def _backward(spec, keep, kept, dy):
    params, x, keys, dilation, middle = kept
    h1, h2, statistics = middle if keep else _middle(params, x, dilation, spec)
    _, pull = jax.vjp(
        lambda a, w: spec.convolve(a, w, dilation),
        norm_relu(h1, folded(statistics[1], params["norm2"])), params["conv2"]["kernel"],
    )  # fmt: skip

    def through(function, fold, x, statistics, d_out, d_x):
        return _backward_in_chunks(function, lambda s, p: fold(s, p, spec), x, statistics, params, d_out, d_x, spec)

    dz = _dropped(dy, keys, spec, spec.first_step(dy.shape[1]))  # dropout is linear, and its own transpose
    d_h2, d_last = through(_last, _fold_last, h2, statistics[2], dz, jnp.zeros_like(h2))
    d_a2, d_kernel = pull(d_h2)
    d_h1, d_norm2 = through(norm_relu, lambda s, p, _: folded(s, p["norm2"]), h1, statistics[1], d_a2, None)
    dx, d_first = through(_first, _fold_first, x, statistics[0], d_h1, dy)
    d_params = jax.tree.map(lambda *parts: sum(parts), d_last, d_norm2, d_first)
    d_params["conv2"]["kernel"] += d_kernel
    return d_params, dx, None, None


written_block.defvjp(_forward, _backward)
