"""A set of dilated residual blocks over stacked parameters, and what of it is kept for the backward pass.

The blocks of a set differ in their dilation alone, so one traced block under `lax.scan` runs them all: the program does
not grow with depth. Policies (`remat`), equal in value and gradient, for a set of n blocks:

- `none`: everything inside every block is kept.
- `dots`: of every block the input and what its first two convolutions gave, both of half width, are kept; norms and ReLUs are
  computed again, chunk by chunk in the cache: no product is, and on a CPU it is the fastest.
- `block`: the n inputs of the blocks are kept, each block is computed again in the backward pass.
- `tree`: nested scans: about √n inputs of segments are kept, then about √n inputs of the blocks of one segment.
- `lean`: as `tree`, with the backward pass of `dots`, which is written by hand and holds little at a time
  (`models/residual.py`). Sets of short sequences keep the inputs of all their blocks, and are not computed a third time:
  they get `inputs`, as ByteNet calls that within.
- `offload`: as `lean`, but the n inputs of the blocks go to pinned memory of the host and come back; no segment is computed
  again. Only for devices that can address such memory.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from genre_jax.console import UserError
from genre_jax.models.bytenet.block import BlockSpec, Params, block, written_block
from genre_jax.models.layers import layer_keys

REMAT = ("none", "dots", "block", "tree", "lean", "offload")

# The kernels of a set are stacked: the first axis counts in no fan.
stacked_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0,))


class BlockSet(nn.Module):
    """Blocks one after the other: `(batch, time, 2 width)` → the same.

    At `width` 112, 3 taps and instance norm a block has 88,704 parameters; leaf k of the parameters holds block i's at index
    i. They do not depend on `remat` or the backend.

    Attributes:
      spec: dilations, and what else the blocks share. Of its backends `shift` scans; the others need each dilation to be
        known, so their blocks are unrolled, and program and compile time grow with depth.
    """

    width: int
    spec: BlockSpec
    remat: str
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        spec = self.spec
        if not spec.dilations:
            return x
        params = self._parameters()
        keys = None if keys is None or spec.rate == 0 else layer_keys(keys, self.path)
        run = _scanned if spec.backend == "shift" else _unrolled
        numbers = jnp.arange(len(spec.dilations))
        for start, stop in _groups(spec, x.shape[1]):
            own = jax.tree.map(lambda leaf, start=start, stop=stop: leaf[start:stop], params)
            x = run(own, numbers[start:stop], x, keys, spec._replace(dilations=spec.dilations[start:stop]), self.remat)
        return x

    def _parameters(self) -> Params:
        blocks, half, full = len(self.spec.dilations), self.width, 2 * self.width

        def norm(key, features):
            del key
            shape = (blocks, features)
            return {"scale": jnp.ones(shape, self.param_dtype), "bias": jnp.zeros(shape, self.param_dtype)}

        def conv(key, *shape):
            return {"kernel": stacked_kernel(key, (blocks, *shape), self.param_dtype)}

        params = {
            "norm1": self.param("norm1", norm, full),
            "conv1": self.param("conv1", conv, 1, full, half),
            "norm2": self.param("norm2", norm, half),
            "conv2": self.param("conv2", conv, self.spec.taps, half, full if self.spec.gated else half),
            "conv3": self.param("conv3", conv, 1, half, full),
        }
        return params if self.spec.gated else params | {"norm3": self.param("norm3", norm, half)}


def _groups(spec: BlockSpec, steps: int) -> list[tuple[int, int]]:
    """(start, stop) of blocks that run together: where time is sharded, those that reach beyond a shard stand apart."""
    blocks = len(spec.dilations)
    if spec.shards is None:
        return [(0, blocks)]
    near = sum(max(spec.reach(dilation)) <= steps for dilation in spec.dilations)
    return [(start, stop) for start, stop in ((0, near), (near, blocks)) if start < stop]


def _block_keys(keys: jax.Array | None, number: jax.Array) -> jax.Array | None:
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def segments(blocks: int) -> tuple[int, int]:
    """(outer, inner) of the nested scans over the first outer · inner blocks; the rest, at most `inner`, runs after them.

    At most outer + inner inputs are kept at a time, and among the splits with the fewest the rest is the smallest.
    """
    splits = (
        (outer, inner) for inner in range(1, blocks + 1) for outer in [blocks // inner] if blocks - outer * inner <= inner
    )
    return min(splits, key=lambda split: (sum(split), blocks - math.prod(split)))


def _to_host() -> Callable:
    """What `offload` keeps: the blocks' inputs, in the host's memory."""
    kinds = {memory.kind for memory in jax.local_devices()[0].addressable_memories()}
    if "pinned_host" not in kinds:
        raise UserError(f"model.remat 'offload' needs a device with memory 'pinned_host', and this one has {sorted(kinds)}")
    return jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["block_input"],
        offload_src="device",
        offload_dst="pinned_host",
    )


def _compute(remat: str) -> Callable[..., jax.Array]:
    if remat in ("dots", "lean", "inputs", "offload"):
        return functools.partial(written_block, keep=remat == "dots")
    return block


def _scanned(params: Params, numbers: jax.Array, x: jax.Array, keys: jax.Array | None, spec: BlockSpec, remat: str):
    """The set as a scan over blocks, or over segments of blocks."""
    compute = _compute(remat)

    def step(x, element):
        params, dilation, number = element
        x = checkpoint_name(x, "block_input")
        return compute(params, x, _block_keys(keys, number), dilation, spec), None

    def chain(step: Callable, x: jax.Array, elements: Any) -> jax.Array:
        return jax.lax.scan(step, x, elements)[0]

    # Inside a scan nothing can be merged with the forward pass, so the barrier against it is not needed.
    checkpoint = functools.partial(jax.checkpoint, prevent_cse=False)
    elements = (params, jnp.asarray(spec.dilations, jnp.int32), numbers)
    if remat in ("none", "dots", "inputs"):
        return chain(step, x, elements)
    if remat == "offload":
        return chain(checkpoint(step, policy=_to_host()), x, elements)
    if remat != "lean":
        step = checkpoint(step)
    if remat == "block":
        return chain(step, x, elements)
    blocks = len(spec.dilations)
    outer, inner = segments(blocks)

    @checkpoint
    def segment(x, elements):
        return chain(step, x, elements), None

    head = jax.tree.map(lambda leaf: leaf[: outer * inner].reshape(outer, inner, *leaf.shape[1:]), elements)
    x = chain(segment, x, head)
    rest = jax.tree.map(lambda leaf: leaf[outer * inner :], elements)
    return chain(step, x, rest) if outer * inner < blocks else x


def _unrolled(params: Params, numbers: jax.Array, x: jax.Array, keys: jax.Array | None, spec: BlockSpec, remat: str):
    """The set block by block, each with its own dilation in the program."""
    compute = _compute(remat)
    if remat in ("block", "tree"):
        compute = jax.checkpoint(compute, static_argnums=4)
    elif remat == "offload":
        compute = jax.checkpoint(compute, static_argnums=4, policy=_to_host())

    def run(start: int, stop: int, params: Params, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        for at in range(start, stop):
            own, number = jax.tree.map(lambda leaf, at=at: leaf[at], (params, numbers))
            x = checkpoint_name(x, "block_input")
            x = compute(own, x, _block_keys(keys, number), None, spec._replace(dilation=spec.dilations[at]))
        return x

    blocks = len(spec.dilations)
    if remat not in ("tree", "lean"):
        return run(0, blocks, params, x, keys)
    outer, inner = segments(blocks)
    for start in range(0, outer * inner, inner):
        x = jax.checkpoint(run, static_argnums=(0, 1))(start, start + inner, params, x, keys)
    return run(outer * inner, blocks, params, x, keys)
