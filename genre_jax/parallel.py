"""The one module that knows devices: pmap, collectives, placing and gathering.

A step is a pure function of `(state, constants, batch)`. Inside it, `sum` adds over the devices of the named axis, and does
nothing if the name is None. The state has no device axis: it is replicated at the start of a step, and one copy comes out.
Checkpoints therefore do not depend on the number of devices.

If `time_shards` devices share each clip along time (`TimeShards`), each of them receives the whole clip, which is small beside
the activations of a network, and the network takes its part. Means over the batch count each clip `time_shards` times in both
numerator and denominator, so that losses and gradients are those of whole clips.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genre_jax.console import UserError

AXIS = "devices"
T = TypeVar("T")

_absent: list[Any] = []


def compile_for(devices: list[Any]) -> None:
    """Compile for `devices` from now on. They need not be in this machine, and nothing can run on them."""
    _absent[:] = devices


def available() -> list[Any]:
    """The devices of all hosts, or those passed to `compile_for`."""
    return _absent or jax.devices()


def platform() -> str:
    """The platform of the devices: "cpu", "gpu" or "tpu"."""
    return available()[0].platform


def by_platform(values: Mapping[str, T], default: T) -> T:
    """Return the value in `values` for the platform of the devices, or `default` if `values` has no entry for it."""
    return values.get(platform(), default)


def sum(tree: Any, axis_name: str | None) -> Any:
    """Sum every leaf over the devices. With one device or without `axis_name` this is the tree itself: XLA would copy it."""
    return tree if axis_name is None or jax.lax.axis_size(axis_name) == 1 else jax.lax.psum(tree, axis_name)


def following(tree: Any, axis_name: str | None, time_shards: int = 1) -> Any:
    """Replace every example `(batch, …)` by the next one of the global batch, and the last by the first."""

    def next_first(x):
        if axis_name is None:
            return x[:1]
        devices = jax.lax.axis_size(axis_name)
        return jax.lax.ppermute(x[:1], axis_name, [(device, (device - time_shards) % devices) for device in range(devices)])

    return jax.tree.map(lambda x: jnp.concatenate([x[1:], next_first(x)]), tree)


@dataclasses.dataclass(frozen=True)
class TimeShards:
    """`count` neighbouring devices of an axis that share each sequence; shard i holds the steps from i · n to (i + 1) · n.

    Arrays are `(batch, n, …)` on each device, with the same n. The last shards may hold steps beyond the end of the sequence.
    """

    axis_name: str
    count: int

    @property
    def index(self) -> jax.Array:
        """The number of this device's shard."""
        return jax.lax.axis_index(self.axis_name) % self.count

    @property
    def _groups(self) -> list[list[int]]:
        devices = jax.lax.axis_size(self.axis_name)
        return [list(range(first, first + self.count)) for first in range(0, devices, self.count)]

    def sum(self, tree: Any) -> Any:
        """Sum every leaf over the shards."""
        return jax.lax.psum(tree, self.axis_name, axis_index_groups=self._groups)

    def gather(self, x: jax.Array) -> jax.Array:
        """Gather the whole sequence `(batch, count · n, …)` on every device."""
        return jax.lax.all_gather(x, self.axis_name, axis_index_groups=self._groups, axis=1, tiled=True)

    def extend(self, x: jax.Array, before: int, after: int) -> jax.Array:
        """Extend the shard by `before` and `after` steps of its neighbours; outside the sequence these are zeros.

        The steps come from the two neighbours (halo exchange), or from the gathered sequence if a shard is shorter than them.
        """
        steps = x.shape[1]
        if max(before, after) > steps:
            whole = jnp.pad(self.gather(x), ((0, 0), (before, after), (0, 0)))
            return jax.lax.dynamic_slice_in_dim(whole, self.index * steps, before + steps + after, 1)
        earlier = [self._shift(x[:, steps - before :], 1)] if before else []
        later = [self._shift(x[:, :after], -1)] if after else []
        return jnp.concatenate([*earlier, x, *later], 1)

    def _shift(self, x: jax.Array, by: int) -> jax.Array:
        """Receive `x` of the shard `by` places earlier; zeros if there is none."""
        pairs = [(device, device + by) for group in self._groups for device in group if device + by in group]
        return jax.lax.ppermute(x, self.axis_name, pairs)


class Devices:
    """The devices of a run; places steps, states and batches on them.

    Args:
      count: number of devices to use, 0 for all. Several hosts use all of their devices.
      time_shards: number of devices that share each clip along time.
    """

    def __init__(self, count: int = 0, time_shards: int = 1):
        present = available()
        if count > len(present):
            raise UserError(f"config key 'devices' must be at most {len(present)}, the devices of this machine, not {count}")
        self.all = present[: count or None]
        self.local = [device for device in self.all if device.process_index == jax.process_index()]
        if time_shards < 1 or len(self.local) % time_shards:
            raise UserError(
                f"config key 'model.time_shards' must divide {len(self.local)}, a host's devices, and was given {time_shards}"
            )
        self.time_shards = time_shards
        self._replicated = NamedSharding(Mesh(np.array(self.all), (AXIS,)), PartitionSpec())

    def train_step(self, step: Callable) -> Callable:
        """Compile `step(state, constants, batch) -> (state, metrics)` for all devices; the state is donated."""
        return jax.pmap(
            step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=(None, None), donate_argnums=(0,), devices=self.all
        )

    def eval_step(self, step: Callable) -> Callable:
        """Compile `step(variables, constants, batch) -> per-example outputs` for all devices."""
        return jax.pmap(step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=0, devices=self.all)

    def replicate(self, tree: Any) -> Any:
        """Place a tree of host arrays on every device, as the steps take it."""
        return jax.device_put(tree, self._replicated)

    def abstract(self, tree: Any) -> Any:
        """Shapes, types and placement of a replicated tree, into which a checkpoint is restored."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._replicated), tree)

    def check_batch(self, key: str, batch_size: int, multiple: int = 1) -> None:
        """Raise `UserError` unless the global batch divides over groups of devices (times `multiple` micro-batches)."""
        groups = len(self.all) // self.time_shards
        parts = groups * multiple
        if batch_size % parts:
            what = f"{groups} devices" if self.time_shards == 1 else f"{groups} groups of {self.time_shards} devices"
            what += f" × {multiple} micro-batches" if multiple > 1 else ""
            raise UserError(f"config key {key!r} must be a multiple of {parts} ({what}), and was given {batch_size}")

    def shard(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Reshape this host's share `(B, …)` of a batch to `(devices, B · time_shards / devices, …)`."""
        count = len(self.local) // self.time_shards
        parts = {key: value.reshape(count, len(value) // count, *value.shape[1:]) for key, value in batch.items()}
        return {key: value.repeat(self.time_shards, 0) for key, value in parts.items()} if self.time_shards > 1 else parts

    def gather(self, outputs: Any) -> Any:
        """Gather per-example outputs of all devices and hosts as host arrays `(B, …)`."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            outputs = multihost_utils.process_allgather(outputs, tiled=True)
        return jax.tree.map(lambda x: np.asarray(x)[:: self.time_shards].reshape(-1, *x.shape[2:]), outputs)
