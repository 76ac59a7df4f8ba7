"""What the tests of several networks share."""

import jax
import jax.numpy as jnp
import numpy as np


def largest_difference(one, other):
    return max(np.abs(np.asarray(a) - b).max() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def outputs_of(net, input_shape, *names: str) -> dict[str, tuple[int, ...]]:
    """The shape of what each of the named submodules gives, nothing computed."""

    def forward(key, x):
        _, state = net.init_with_output(key, x, capture_intermediates=lambda module, _: module.name in names)
        return state["intermediates"]

    x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    with_state = jax.eval_shape(forward, jax.random.key(0), x)
    return {name: with_state[name]["__call__"][0].shape for name in names}
