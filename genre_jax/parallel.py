"""The one place where devices appear: pmap, collectives, placing and gathering.

A step is a pure function of `(state, constants, batch)`. Inside it, `sum` adds over the devices of the named axis and does
nothing where the name is None. The state has no device axis: it is replicated going in and one copy comes out, so that
checkpoints know no device count.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genre_jax.console import UserError

AXIS = "devices"


def sum(tree: Any, axis_name: str | None) -> Any:
    """The sum of every leaf over the devices; the tree itself where `axis_name` is None."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


class Devices:
    """The accelerators of a run, and how steps, states and batches get onto them.

    Args:
      count: how many of the machine's devices to use, 0 for all. With several hosts, all.
    """

    def __init__(self, count: int = 0):
        available = jax.devices()
        if count > len(available):
            raise UserError(f"config key 'devices' must be at most {len(available)}, the devices of this machine, not {count}")
        self.all = available[: count or None]
        self.local = [device for device in self.all if device.process_index == jax.process_index()]
        self._replicated = NamedSharding(Mesh(np.array(self.all), (AXIS,)), PartitionSpec())

    def train_step(self, step: Callable) -> Callable:
        """`step(state, constants, batch) -> (state, metrics)` on all devices; the state is donated."""
        return jax.pmap(
            step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=(None, None), donate_argnums=(0,), devices=self.all
        )

    def eval_step(self, step: Callable) -> Callable:
        """`step(variables, constants, batch) -> per-example outputs`, on all devices."""
        return jax.pmap(step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=0, devices=self.all)

    def replicate(self, tree: Any) -> Any:
        """A tree of host arrays on every device, as the steps take it."""
        return jax.device_put(tree, self._replicated)

    def abstract(self, tree: Any) -> Any:
        """Shapes, types and placement of a replicated tree: what a checkpoint is restored into."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._replicated), tree)

    def check_batch(self, key: str, batch_size: int, multiple: int = 1) -> None:
        """Raise `UserError` unless the global batch divides over devices (times `multiple` micro-batches)."""
        parts = len(self.all) * multiple
        if batch_size % parts:
            what = f"{len(self.all)} devices" + (f" × {multiple} micro-batches" if multiple > 1 else "")
            raise UserError(f"config key {key!r} must be a multiple of {parts} ({what}), and was given {batch_size}")

    def shard(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """This host's share `(B, …)` of a batch as `(devices, B / devices, …)`."""
        count = len(self.local)
        return {key: value.reshape(count, len(value) // count, *value.shape[1:]) for key, value in batch.items()}

    def gather(self, outputs: Any) -> Any:
        """Per-example outputs of all devices and hosts as host arrays `(B, …)`."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            outputs = multihost_utils.process_allgather(outputs, tiled=True)
        return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), outputs)
