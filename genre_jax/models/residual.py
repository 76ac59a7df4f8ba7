"""ByteNet's residual block, with the backward pass that JAX makes, and with one that holds less memory at a time.

Where devices share a sequence along time (`parallel.TimeShards`), sums over time are those of all shards, and the dilated
convolution sees its neighbours' steps. The gradients are those of the sum of what all the devices compute.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.dilated import dilated_conv, over_chunks, same_padding
from genre_jax.models.layers import drop_steps
from genre_jax.parallel import TimeShards

Params = dict[str, dict[str, jax.Array]]
# Mean and 1 / deviation (batch, 1, channels) of a sequence; () where none are needed.
Statistics = tuple[jax.Array, ...]

EPSILON = 1e-5
NORMS = ("instance", "layer")


class BlockSpec(NamedTuple):
    """What the blocks of a set share, known when the program is made.

    Attributes:
      length: steps of the whole sequence, which may be less than what the shards hold together.
      dilation: counts where none is traced.
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
        """Steps (before, after) that a dilation sees, no further than there can be any."""
        before, after = (int(n) for n in same_padding(dilation, self.taps, self.causal))
        return min(before, self.length), min(after, self.length)

    def convolve(self, x: jax.Array, kernel: jax.Array, dilation: jax.Array | None) -> jax.Array:
        """The dilated convolution, of the same length as `x`; steps beyond the sequence's end count as zeros."""
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
        """`x` (batch, steps, …) with zeros at what lies beyond the sequence's end."""
        if self.shards is None:
            return x
        step = self.shards.index * x.shape[1] + jnp.arange(x.shape[1])
        return jnp.where((step < self.length)[:, None], x, 0)

    def total(self, tree: Any) -> Any:
        """Sums over this device's steps → over the sequence."""
        return self.shards.sum(tree) if self.shards else tree

    def first_step(self, steps: int) -> Any:
        """The number of this device's first step."""
        return self.shards.index * steps if self.shards else 0

    def statistics(self, x: jax.Array) -> Statistics:
        """Of the norm of `x` over time."""
        if self.norm == "layer":
            return ()
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = self.total(self.inside(wide).sum(1, keepdims=True)) / self.length
        var = self.total(self.inside(jnp.square(wide - mean)).sum(1, keepdims=True)) / self.length
        return mean, jax.lax.rsqrt(var + EPSILON)

    def through_statistics(self, x: jax.Array, statistics: Statistics, gradients: Statistics, start: Any) -> jax.Array:
        """The gradient by steps from `start` on, `x`, of `statistics` whose own `gradients` are known."""
        (mean, inverse), (d_mean, d_inverse) = statistics, gradients
        d_x = (d_mean - d_inverse * inverse**3 * (x.astype(mean.dtype) - mean)) / self.length
        if self.shards:
            d_x = jnp.where((start + jnp.arange(x.shape[1]) < self.length)[:, None], d_x, 0)
        return d_x.astype(x.dtype)


def norm_relu(x: jax.Array, statistics: Statistics, params: dict[str, jax.Array]) -> jax.Array:
    """ReLU of the norm: per clip and channel with the statistics over time, or, without any, per step over channels."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if statistics:
        mean, inverse = statistics
    else:
        mean = wide.mean(-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + EPSILON)
    return nn.relu((wide - mean) * inverse * params["scale"] + params["bias"]).astype(x.dtype)


def gate(x: jax.Array) -> jax.Array:
    """WaveNet's gated unit: tanh of the first half of the channels times the sigmoid of the second."""
    one, other = jnp.split(x, 2, -1)
    return jnp.tanh(one) * nn.sigmoid(other)


def block(params: Params, x: jax.Array, keys: jax.Array | None, dilation: jax.Array | None, spec: BlockSpec) -> jax.Array:
    """Norm, ReLU, 1×1 to half width; norm, ReLU, dilated convolution; norm, ReLU (or gate), 1×1 back; dropout; plus `x`.

    `x` (batch, time, 2 width) and the result alike. Convolutions have no bias.
    """

    def active(y, name):
        return norm_relu(y, spec.statistics(y), params[name])

    y = active(x, "norm1") @ params["conv1"]["kernel"][0].astype(spec.dtype)
    y = spec.convolve(active(y, "norm2"), params["conv2"]["kernel"], dilation)
    y = (gate(y) if spec.gated else active(y, "norm3")) @ params["conv3"]["kernel"][0].astype(spec.dtype)
    return x + _dropped(y, keys, spec)


def _dropped(y: jax.Array, keys: jax.Array | None, spec: BlockSpec) -> jax.Array:
    return y if keys is None else drop_steps(y, keys, spec.rate, spec.first_step(y.shape[1]))


# ---------------------------------------------------------------- the lean backward pass


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def lean_block(params: Params, x: jax.Array, keys: jax.Array | None, dilation: jax.Array | None, spec: BlockSpec) -> jax.Array:
    """`block`, of which the backward pass keeps `x` alone.

    It works at half width but for the ends: what has full width is computed in chunks of time, and the gradient by `x`
    takes the place of the one that came in.
    """
    return block(params, x, keys, dilation, spec)


def _lean_forward(params, x, keys, dilation, spec):
    return block(params, x, keys, dilation, spec), (params, x, keys, dilation)


def _cut(x: jax.Array, start: Any, steps: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, start, steps, 1)


def _put(x: jax.Array, part: jax.Array, start: Any) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(x, part, start, 1)


def _forward_in_chunks(function: Callable, x: jax.Array, statistics: Statistics, params: Any, features: int) -> jax.Array:
    """function(x, statistics, params) (batch, time, features), of a `function` that works on each step alone."""

    def body(start, steps, y):
        return _put(y, function(_cut(x, start, steps), statistics, params), start)

    return over_chunks(x.shape[1], body, jnp.zeros((*x.shape[:2], features), x.dtype))


def _backward_in_chunks(
    function: Callable, x: jax.Array, statistics: Statistics, params: Any, d_out: jax.Array, d_x: jax.Array, spec: BlockSpec
) -> tuple[jax.Array, Any]:
    """`d_x` plus the gradient of the same by `x`, and that by `params`.

    The statistics are those of `x`, and what reaches them reaches it.
    """

    def local(start, steps, carry):
        d_x, sums = carry
        _, pull = jax.vjp(function, _cut(x, start, steps), statistics, params)
        d_part, *more = pull(_cut(d_out, start, steps))
        return _put(d_x, _cut(d_x, start, steps) + d_part, start), jax.tree.map(jnp.add, sums, tuple(more))

    zeros = jax.tree.map(jnp.zeros_like, (statistics, params))
    d_x, (d_statistics, d_params) = over_chunks(x.shape[1], local, (d_x, zeros))
    if not statistics:
        return d_x, d_params
    d_statistics = spec.total(d_statistics)
    first = spec.first_step(x.shape[1])

    def through_statistics(start, steps, d_x):
        more = spec.through_statistics(_cut(x, start, steps), statistics, d_statistics, first + start)
        return _put(d_x, _cut(d_x, start, steps) + more, start)

    return over_chunks(x.shape[1], through_statistics, d_x), d_params


def _norm_backward(h: jax.Array, statistics: Statistics, params: Any, d_out: jax.Array, spec: BlockSpec) -> tuple[Any, Any]:
    """Gradients of norm_relu(h) by `h`, which can take the place of `d_out`, and by `params`; sums come first, in chunks."""

    def sums_of(start, steps, sums):
        _, pull = jax.vjp(lambda *sums: norm_relu(_cut(h, start, steps), *sums), statistics, params)
        return jax.tree.map(jnp.add, sums, pull(_cut(d_out, start, steps)))

    zeros = jax.tree.map(jnp.zeros_like, (statistics, params))
    d_statistics, d_params = over_chunks(h.shape[1], sums_of, zeros)
    _, pull = jax.vjp(lambda h: norm_relu(h, statistics, params), h)
    (d_h,) = pull(d_out)
    if statistics:
        d_h += spec.through_statistics(h, statistics, spec.total(d_statistics), spec.first_step(h.shape[1]))
    return d_h, d_params


def _lean_backward(spec, kept, dy):
    params, x, keys, dilation = kept

    def first(x, statistics, params):
        return norm_relu(x, statistics, params["norm1"]) @ params["conv1"]["kernel"][0].astype(spec.dtype)

    def last(h, statistics, params):
        active = gate(h) if spec.gated else norm_relu(h, statistics, params["norm3"])
        return active @ params["conv3"]["kernel"][0].astype(spec.dtype)

    ends = [{name: params[name] for name in names if name in params} for names in (("norm1", "conv1"), ("norm3", "conv3"))]
    statistics1 = spec.statistics(x)
    h1 = _forward_in_chunks(first, x, statistics1, ends[0], params["conv1"]["kernel"].shape[2])
    statistics2 = spec.statistics(h1)
    h2, pull = jax.vjp(
        lambda a, w: spec.convolve(a, w, dilation), norm_relu(h1, statistics2, params["norm2"]), params["conv2"]["kernel"]
    )
    statistics3 = () if spec.gated else spec.statistics(h2)
    dz = dy if keys is None else _dropped(dy, keys, spec)  # linear, and its own transpose
    d_h2, d_last = _backward_in_chunks(last, h2, statistics3, ends[1], dz, jnp.zeros_like(h2), spec)
    d_a2, d_middle = pull(d_h2)
    d_h1, d_norm2 = _norm_backward(h1, statistics2, params["norm2"], d_a2, spec)
    dx, d_first = _backward_in_chunks(first, x, statistics1, ends[0], d_h1, dy, spec)
    return {**d_first, "norm2": d_norm2, "conv2": {"kernel": d_middle}, **d_last}, dx, None, None


lean_block.defvjp(_lean_forward, _lean_backward)
