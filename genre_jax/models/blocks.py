"""A set of dilated residual blocks over stacked parameters, and what of it is kept for the backward pass.

The blocks of a set differ in their dilation alone, so one traced block under `lax.scan` runs them all: the program does
not grow with depth. Policies (`remat`), equal in value and gradient, for a set of n blocks:

- `none`: everything inside every block is kept.
- `block`: the n inputs of the blocks are kept, each block is computed again in the backward pass.
- `tree`: nested scans: about √n inputs of segments are kept, then about √n inputs of the blocks of one segment.
- `lean`: as `tree`, with a block's backward pass written by hand, which holds less at a time (`models/residual.py`).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.dilated import same_padding
from genre_jax.models.layers import layer_keys
from genre_jax.models.residual import Convolution, Params, block, lean_block

REMAT = ("none", "block", "tree", "lean")

# The kernels of a set are stacked: the first axis counts in no fan.
stacked_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0,))


class BlockSet(nn.Module):
    """Blocks of the given dilations, one after the other: `(batch, time, 2 width)` → the same.

    At `width` 112 and `kernel` 3 a block has 88,704 parameters; leaf k of the parameters holds block i's at index i. They do
    not depend on `remat` or `backend`.

    Attributes:
      backend: of the dilated convolution (`models/dilated.py`). `shift` scans; the others need each dilation to be known,
        so their blocks are unrolled, and program and compile time grow with depth.
    """

    width: int
    kernel: int
    dilations: tuple[int, ...]
    causal: bool
    dropout: float
    remat: str
    backend: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        if not self.dilations:
            return x
        params = self._parameters()
        keys = None if keys is None or self.dropout == 0 else layer_keys(keys, self.path)
        before, after = same_padding(max(self.dilations), self.kernel, self.causal)
        conv = Convolution(self.kernel, self.causal, self.dropout, self.dtype, self.backend, (int(before), int(after)))
        run = _scanned if self.backend == "shift" else _unrolled
        return run(params, x, keys, self.dilations, conv, self.remat)

    def _parameters(self) -> Params:
        blocks, half, full = len(self.dilations), self.width, 2 * self.width

        def norm(key, features):
            del key
            shape = (blocks, features)
            return {"scale": jnp.ones(shape, self.param_dtype), "bias": jnp.zeros(shape, self.param_dtype)}

        def conv(key, *shape):
            return {"kernel": stacked_kernel(key, (blocks, *shape), self.param_dtype)}

        return {
            "norm1": self.param("norm1", norm, full),
            "conv1": self.param("conv1", conv, 1, full, half),
            "norm2": self.param("norm2", norm, half),
            "conv2": self.param("conv2", conv, self.kernel, half, half),
            "norm3": self.param("norm3", norm, half),
            "conv3": self.param("conv3", conv, 1, half, full),
        }


def _block_keys(keys: jax.Array | None, number: int | jax.Array) -> jax.Array | None:
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def segments(blocks: int) -> tuple[int, int]:
    """(outer, inner) of the nested scans over the first outer · inner blocks; the rest, at most `inner`, runs after them.

    At most outer + inner inputs are kept at a time, and among the splits with the fewest the rest is the smallest.
    """
    splits = (
        (outer, inner) for inner in range(1, blocks + 1) for outer in [blocks // inner] if blocks - outer * inner <= inner
    )
    return min(splits, key=lambda split: (sum(split), blocks - math.prod(split)))


def _scanned(params: Params, x: jax.Array, keys: jax.Array | None, dilations: tuple[int, ...], conv: Convolution, remat: str):
    """The set as a scan over blocks, or over segments of blocks."""
    compute: Callable[..., jax.Array] = lean_block if remat == "lean" else block

    def step(x, element):
        params, dilation, number = element
        return compute(params, x, _block_keys(keys, number), dilation, conv), None

    def chain(step: Callable, x: jax.Array, elements: Any) -> jax.Array:
        return jax.lax.scan(step, x, elements)[0]

    blocks = len(dilations)
    elements = (params, jnp.asarray(dilations, jnp.int32), jnp.arange(blocks))
    if remat == "none":
        return chain(step, x, elements)
    if remat != "lean":
        # Inside a scan nothing can be merged with the forward pass, so the barrier against it is not needed.
        step = jax.checkpoint(step, prevent_cse=False)
    if remat == "block":
        return chain(step, x, elements)
    outer, inner = segments(blocks)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def segment(x, elements):
        return chain(step, x, elements), None

    head = jax.tree.map(lambda leaf: leaf[: outer * inner].reshape(outer, inner, *leaf.shape[1:]), elements)
    x = chain(segment, x, head)
    rest = jax.tree.map(lambda leaf: leaf[outer * inner :], elements)
    return chain(step, x, rest) if outer * inner < blocks else x


def _unrolled(params: Params, x: jax.Array, keys: jax.Array | None, dilations: tuple[int, ...], conv: Convolution, remat: str):
    """The set block by block, each with its own dilation in the program."""
    compute: Callable[..., jax.Array] = lean_block if remat == "lean" else block
    if remat in ("block", "tree"):
        compute = jax.checkpoint(block, static_argnums=4)

    def run(start: int, stop: int, params: Params, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        for number in range(start, stop):
            static = conv._replace(dilation=dilations[number])
            own = jax.tree.map(lambda leaf, n=number: leaf[n], params)
            x = compute(own, x, _block_keys(keys, number), None, static)
        return x

    if remat in ("none", "block"):
        return run(0, len(dilations), params, x, keys)
    outer, inner = segments(len(dilations))
    for start in range(0, outer * inner, inner):
        x = jax.checkpoint(run, static_argnums=(0, 1))(start, start + inner, params, x, keys)
    return run(outer * inner, len(dilations), params, x, keys)
