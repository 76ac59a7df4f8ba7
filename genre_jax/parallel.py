"""The one module that knows devices: the runners of a step (pmap, jit), collectives, placing and gathering.

A step is a pure function of `(state, constants, batch)`. Inside it, `sum` adds over the devices of the named axis, and does
nothing if the name is None. The state has no device axis: it is replicated at the start of a step, and one copy comes out.
Checkpoints therefore do not depend on the number of devices.

The runner "pmap" runs the whole step on each device. The runner "jit" runs the part that reads the batch on each device
(`jax.shard_map`), and the update as one program on global arrays; the optimiser state may then be divided over the devices.

If `time_shards` devices share each clip along time (models/bytenet/time_shards.py), each of them receives the whole clip, which
is small beside the activations of a network, and the network takes its part. Means over the batch count each clip `time_shards`
times in both numerator and denominator, so that losses and gradients are those of whole clips.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genre_jax.console import UserError
from genre_jax.placing import put

AXIS = "devices"
RUNNERS = ("pmap", "jit")
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


@dataclasses.dataclass(frozen=True)
class Group:
    """The `count` neighbouring devices of an axis to which a device belongs. `sum` takes it in place of the axis."""

    axis_name: str
    count: int


Axis = str | Group | None


def sum(tree: Any, axis: Axis) -> Any:
    """Sum every leaf over the devices. With one device or without `axis` this is the tree itself: XLA would copy it."""
    if isinstance(axis, Group):
        return jax.lax.psum(tree, axis.axis_name, axis_index_groups=groups(axis.axis_name, axis.count))
    return tree if axis is None or jax.lax.axis_size(axis) == 1 else jax.lax.psum(tree, axis)


def mean(tree: Any, axis_name: str | None) -> Any:
    """The mean of every leaf over the devices."""
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    return jax.tree.map(lambda x: x / devices, sum(tree, axis_name))


def groups(axis_name: str, count: int) -> list[list[int]]:
    """The numbers of the devices in each group of `count` neighbours on an axis."""
    devices = jax.lax.axis_size(axis_name)
    return [list(range(first, first + count)) for first in range(0, devices, count)]


def following(tree: Any, axis_name: str | None, time_shards: int = 1) -> Any:
    """Replace every example `(batch, …)` by the next one of the global batch, and the last by the first."""

    def next_first(x):
        if axis_name is None:
            return x[:1]
        devices = jax.lax.axis_size(axis_name)
        return jax.lax.ppermute(x[:1], axis_name, [(device, (device - time_shards) % devices) for device in range(devices)])

    return jax.tree.map(lambda x: jnp.concatenate([x[1:], next_first(x)]), tree)


class Devices:
    """The devices of a run; places steps, states and batches on them.

    Args:
      count: number of devices to use, 0 for all. Several hosts use all of their devices.
      time_shards: number of devices that share each clip along time.
      runner: "pmap" or "jit".
      shard_optimizer: divide the optimiser state over the devices (ZeRO-1); the runner must be "jit".
    """

    def __init__(self, count: int = 0, time_shards: int = 1, runner: str = "pmap", shard_optimizer: bool = False):
        present = available()
        if count > len(present):
            raise UserError(f"config key 'devices' must be at most {len(present)}, the devices of this machine, not {count}")
        if count and jax.process_count() > 1:
            raise UserError(f"config key 'devices' must be 0 on several hosts, which use all their devices, not {count}")
        self.all = present[: count or None]
        self.local = [device for device in self.all if device.process_index == jax.process_index()]
        if time_shards < 1 or len(self.local) % time_shards:
            raise UserError(
                f"config key 'model.time_shards' must divide {len(self.local)}, a host's devices, and was given {time_shards}"
            )
        self.time_shards, self.runner, self._sharded = time_shards, runner, shard_optimizer
        self._mesh = Mesh(np.array(self.all), (AXIS,))
        self._replicated, self._split = (NamedSharding(self._mesh, spec) for spec in (PartitionSpec(), PartitionSpec(AXIS)))

    # ---------------------------------------------------------------- steps

    def train_step(self, step: Any) -> Any:
        """Compile a `train.TrainStep` `(state, constants, batch) -> (state, metrics)` for all devices; the state is donated."""
        if self.runner == "pmap":
            return jax.pmap(
                step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=(None, None), donate_argnums=(0,), devices=self.all
            )
        gradients = self._mapped(step.gradients, PartitionSpec())

        def whole(state, constants, batch):
            updated, metrics = step.update(state, *gradients(state.replace(opt_state=()), constants, batch))
            return jax.lax.with_sharding_constraint(updated, self._placement(updated)), metrics

        return jax.jit(whole, donate_argnums=(0,))

    def eval_step(self, step: Callable) -> Any:
        """Compile `step(variables, constants, batch) -> per-example outputs` for all devices."""
        if self.runner == "pmap":
            return jax.pmap(step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=0, devices=self.all)

        def stacked(variables, constants, batch):
            return jax.tree.map(lambda x: x[None], step(variables, constants, batch))

        return jax.jit(self._mapped(stacked, PartitionSpec(AXIS)))

    def _mapped(self, step: Callable, outputs: PartitionSpec) -> Callable:
        """Run `step` on each device with its share of the batch, whose first axis is that of the devices."""

        def local(first, constants, batch):
            return step(first, constants, jax.tree.map(lambda x: x[0], batch))

        inputs = (PartitionSpec(), PartitionSpec(), PartitionSpec(AXIS))
        return jax.shard_map(local, mesh=self._mesh, in_specs=inputs, out_specs=outputs, check_vma=False)

    # ---------------------------------------------------------------- states

    def replicate(self, tree: Any) -> Any:
        """Place a tree of arrays of this host on every device, as the steps take it. A sharded optimiser state is divided."""
        return jax.tree.map(put, tree, self._placement(tree))

    def abstract(self, tree: Any) -> Any:
        """Shapes, types and placement of a replicated tree, into which a checkpoint is restored."""
        return jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, self._placement(tree)
        )

    def _placement(self, tree: Any) -> Any:
        """The sharding of each leaf."""
        everywhere = jax.tree.map(lambda _: self._replicated, tree)
        if self._sharded and hasattr(tree, "opt_state"):
            return everywhere.replace(opt_state=jax.tree.map(self._divided, tree.opt_state))
        return everywhere

    def _divided(self, x: Any) -> NamedSharding:
        """The sharding that divides the first axis whose length is a multiple of the number of devices, if there is one."""
        axis = next((axis for axis, size in enumerate(x.shape) if size and size % len(self.all) == 0), None)
        spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)
        return NamedSharding(self._mesh, spec)

    # ---------------------------------------------------------------- batches

    def check_batch(self, key: str, batch_size: int, multiple: int = 1) -> None:
        """Raise `UserError` unless the global batch divides over groups of devices (times `multiple` micro-batches)."""
        groups = len(self.all) // self.time_shards
        parts = groups * multiple
        if batch_size % parts:
            what = f"{groups} devices" if self.time_shards == 1 else f"{groups} groups of {self.time_shards} devices"
            what += f" × {multiple} micro-batches" if multiple > 1 else ""
            raise UserError(f"config key {key!r} must be a multiple of {parts} ({what}), and was given {batch_size}")

    def shard(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Reshape this host's share `(B, …)` of a batch to `(devices, B · time_shards / devices, …)`, as the steps take it."""
        parts = self._parts(batch)
        if self.runner == "pmap":
            return parts
        return {key: jax.make_array_from_process_local_data(self._split, value) for key, value in parts.items()}

    def shard_shapes(self, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and types that `shard` returns for those of this host's share of a batch."""
        parts = jax.eval_shape(self._parts, batch)
        if self.runner == "pmap":
            return parts
        shapes = {key: (len(self.all), *value.shape[1:]) for key, value in parts.items()}
        return {key: jax.ShapeDtypeStruct(shapes[key], value.dtype, sharding=self._split) for key, value in parts.items()}

    def _parts(self, batch: dict[str, Any]) -> dict[str, Any]:
        count = len(self.local) // self.time_shards
        parts = {key: value.reshape(count, len(value) // count, *value.shape[1:]) for key, value in batch.items()}
        return {key: value.repeat(self.time_shards, 0) for key, value in parts.items()} if self.time_shards > 1 else parts

    def gather(self, outputs: Any) -> Any:
        """Gather per-example outputs of all devices and hosts as arrays `(B, …)` of each host."""
        if jax.process_count() > 1:
            outputs = multihost_utils.process_allgather(outputs, tiled=True)
        return jax.tree.map(lambda x: np.asarray(x)[:: self.time_shards].reshape(-1, *x.shape[2:]), outputs)

    def gather_rows(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Join the shares `(B, …)` of all hosts of a batch."""
        if jax.process_count() == 1:
            return batch
        return {key: multihost_utils.process_allgather(value, tiled=True) for key, value in batch.items()}
