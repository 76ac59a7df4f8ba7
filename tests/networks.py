"""Helpers that the tests of several networks share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def largest_difference(first, second):
    """Return the largest absolute difference between the leaves of two trees."""
    return max(np.abs(np.asarray(a) - b).max() for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))


def outputs_of(net, input_shape, *names: str) -> dict[str, tuple[int, ...]]:
    """Return the output shape of each named submodule. Only shapes are evaluated."""

    def forward(key, x):
        _, state = net.init_with_output(key, x, capture_intermediates=lambda module, _: module.name in names)
        return state["intermediates"]

    x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    with_state = jax.eval_shape(forward, jax.random.key(0), x)
    return {name: with_state[name]["__call__"][0].shape for name in names}


def learn_by_heart(net, x, labels, rate: float, steps: int, below: float = 0.05) -> float:
    """Train on one batch with Adam for at most `steps` steps and return the last loss.

    Training stops as soon as the loss is lower than `below`. The first loss must exceed 0.5.
    """
    variables = jax.jit(net.init)(jax.random.key(0), x)
    optimizer = optax.adam(rate)

    @jax.jit
    def step(variables, opt_state):
        def loss_of(params):
            (logits, _), updated = net.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        (loss, updated), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(gradients, opt_state)
        return loss, {"params": optax.apply_updates(variables["params"], updates), **updated}, opt_state

    opt_state, losses = optimizer.init(variables["params"]), []
    while len(losses) < steps and not (losses and losses[-1] < below):
        loss, variables, opt_state = step(variables, opt_state)
        losses.append(float(loss))
    assert losses[0] > 0.5
    return losses[-1]
