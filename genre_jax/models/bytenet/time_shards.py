"""Sequences that several devices share along time: sums, gathering, and steps of the neighbours."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from genre_jax import parallel


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
        return parallel.groups(self.axis_name, self.count)

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
