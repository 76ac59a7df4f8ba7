"""Arrays between the memory of the hosts and the devices of all hosts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding


def put(x: Any, place: NamedSharding) -> jax.Array:
    """Place an array of this host by `place`, which may name devices of other hosts, whose arrays are the same."""
    if jax.process_count() == 1:
        return jax.device_put(x, place)
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put(jax.random.key_data(x), place))
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, place, lambda part: values[part])


def place(tree: Any, abstract: Any) -> Any:
    """Place a tree of arrays of the first host on the devices of all hosts, as `abstract` (of `Devices.abstract`) says.

    The other hosts pass `abstract` itself, or any tree of its structure. A leaf for which `abstract` names no devices stays an
    array of this host.
    """
    if jax.process_count() > 1:
        if jax.process_index():
            tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
        tree = multihost_utils.broadcast_one_to_all(tree)
    return jax.tree.map(lambda leaf, like: put(leaf, like.sharding) if hasattr(like, "sharding") else leaf, tree, abstract)


def to_host(tree: Any) -> Any:
    """Copy a tree of arrays, which may be divided over hosts, to NumPy arrays of each host."""

    def copy(x):
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            x = multihost_utils.process_allgather(x, tiled=True)
        return np.array(x)

    return jax.tree.map(copy, tree)
