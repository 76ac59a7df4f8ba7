"""A set of dilated residual blocks over stacked parameters, and its policies of what the backward pass keeps.

The blocks of a set differ in their dilation alone. Therefore one traced block under `lax.scan` runs them all, and the program
does not grow with depth. The policies (`remat`) have equal values and gradients. For a set of n blocks:

- `none` keeps everything inside every block.
- `dots` keeps the input of every block and the outputs of its first two convolutions, both of half width. Norms and ReLUs are
  computed again, chunk by chunk in the cache; products are not. This is the fastest policy on a CPU.
- `block` keeps the n inputs of the blocks. Each block is computed again in the backward pass.
- `tree` has nested scans. It keeps about √n inputs of segments, then about √n inputs of the blocks of one segment.
- `lean` is `tree` with the backward pass of `dots`, which is written by hand and holds little at a time (`block.py`). ByteNet
  gives sets of short sequences the policy `inputs` instead: all inputs of their blocks are kept, and no segment is computed
  again.
- `offload` is `inputs` with the inputs in pinned memory of the host. It needs a device that can address such memory.
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

# The kernels of a set are stacked; the first axis is not part of a kernel.
stacked_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0,))


class BlockSet(nn.Module):
    """Blocks one after the other; input and output are `(batch, time, 2 width)`.

    At `width` 112, 3 taps and instance norm a block has 88,704 parameters. Index i of each parameter belongs to block i. The
    parameters do not depend on `remat` or the backend.

    Attributes:
      width: half-width of the blocks.
      spec: dilations and common options of the blocks. The backend `shift` scans over the blocks. The others need each
        dilation to be known; their blocks are unrolled, and program and compile time grow with depth.
      remat: one of `REMAT`, or `inputs`.
      param_dtype: type of the parameters.
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
            group = jax.tree.map(lambda leaf, start=start, stop=stop: leaf[start:stop], params)
            x = run(group, numbers[start:stop], x, keys, spec._replace(dilations=spec.dilations[start:stop]), self.remat)
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
    """Returns (start, stop) of blocks that run together. If time is sharded, blocks that reach beyond a shard are separate."""
    blocks = len(spec.dilations)
    if spec.shards is None:
        return [(0, blocks)]
    near = sum(max(spec.reach(dilation)) <= steps for dilation in spec.dilations)
    return [(start, stop) for start, stop in ((0, near), (near, blocks)) if start < stop]


def _block_keys(keys: jax.Array | None, number: jax.Array) -> jax.Array | None:
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def segments(blocks: int) -> tuple[int, int]:
    """Returns (outer, inner) of the nested scans over the first outer · inner blocks. At most `inner` blocks run after them.

    At most outer + inner inputs are kept at a time. Among the splits with the fewest, the rest is the smallest.
    """
    splits = (
        (outer, inner) for inner in range(1, blocks + 1) for outer in [blocks // inner] if blocks - outer * inner <= inner
    )
    return min(splits, key=lambda split: (sum(split), blocks - math.prod(split)))


def _to_host() -> Callable:
    """Returns the checkpoint policy of `offload`: the inputs of the blocks go to the host's memory."""
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

    # Inside a scan nothing can be merged with the forward pass; the barrier against merging is not needed.
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
    """The set block by block, each with its dilation in the program."""
    compute = _compute(remat)
    if remat in ("block", "tree"):
        compute = jax.checkpoint(compute, static_argnums=4)
    elif remat == "offload":
        compute = jax.checkpoint(compute, static_argnums=4, policy=_to_host())

    def run(start: int, stop: int, params: Params, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        for at in range(start, stop):
            block_params, number = jax.tree.map(lambda leaf, at=at: leaf[at], (params, numbers))
            x = checkpoint_name(x, "block_input")
            x = compute(block_params, x, _block_keys(keys, number), None, spec._replace(dilation=spec.dilations[at]))
        return x

    blocks = len(spec.dilations)
    if remat not in ("tree", "lean"):
        return run(0, blocks, params, x, keys)
    outer, inner = segments(blocks)
    for start in range(0, outer * inner, inner):
        x = jax.checkpoint(run, static_argnums=(0, 1))(start, start + inner, params, x, keys)
    return run(outer * inner, blocks, params, x, keys)
