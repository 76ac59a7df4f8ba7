"""The GRU encoder-decoder with Luong attention over spectrogram frames of document 000 (Pollack 2018, section 3.1.3)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.layers import Dense, torch_bias, torch_init, torch_kernel
from genre_jax.models.network import Network

SCORES = ("general", "dot", "concat")
HEADS = ("fixed", "pooled")


def _gates(inputs: jax.Array, products: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns reset gate, update gate, candidate, and the recurrent product in the candidate.

    `inputs` and `products` (3 hidden, batch) are the products of the input and of the state.
    """
    reset, update, candidate = jnp.split(inputs, 3)
    state_reset, state_update, recurrent = jnp.split(products, 3)
    reset, update = nn.sigmoid(reset + state_reset), nn.sigmoid(update + state_update)
    return reset, update, jnp.tanh(candidate + reset * recurrent), recurrent


@jax.custom_vjp
def gru(inputs: jax.Array, kernel: jax.Array, bias: jax.Array, state: jax.Array) -> jax.Array:
    """Returns the states (time, batch, hidden) of a gated recurrent unit, with PyTorch's equations and order of gates.

        r, z = sigmoid(inputs + products);  n = tanh(inputs + r · products);  state = (1 - z) · n + z · state

    The scans hold a state as a column, (hidden, batch), because its product with a large kernel takes half the time of a
    row's on a CPU. The backward pass keeps the states alone. It computes the recurrent products of all steps as one product,
    and likewise the gradient by the kernel; the backward pass of a scan would add to the whole kernel at every step.

    Args:
      inputs: products of the input at all steps, with the input's bias, (time, batch, 3 hidden).
      kernel: of the recurrent side, (hidden, 3 hidden).
      bias: of the recurrent side, (3 hidden,).
      state: before the first step, (batch, hidden).
    """
    rows = kernel.T

    def step(state, x):
        _, update, candidate, _ = _gates(x, rows @ state + bias[:, None])
        state = candidate + update * (state - candidate)
        return state, state

    return _turn(jax.lax.scan(step, state.T, _turn(inputs))[1])


def _turn(sequence: jax.Array) -> jax.Array:
    """(time, batch, features) ↔ (time, features, batch)."""
    return jnp.swapaxes(sequence, 1, 2)


def _gru_forward(inputs, kernel, bias, state):
    states = gru(inputs, kernel, bias, state)
    return states, (inputs, kernel, bias, state, states)


def _gru_backward(kept, d_states):
    inputs, kernel, bias, state, states = kept
    before = jnp.concatenate([state[None], states[:-1]])

    def step(d_state, at):
        d_out, x, product, state = at
        reset, update, candidate, recurrent = _gates(x, product)
        d_state = d_state + d_out
        d_candidate = d_state * (1 - update) * (1 - candidate**2)
        d_update = d_state * (state - candidate) * update * (1 - update)
        d_reset = d_candidate * recurrent * reset * (1 - reset)
        d_product = jnp.concatenate([d_reset, d_update, d_candidate * reset])
        d_input = jnp.concatenate([d_reset, d_update, d_candidate])
        return d_state * update + kernel @ d_product, (d_input, d_product)

    elements = jax.tree.map(_turn, (d_states, inputs, before @ kernel + bias, before))
    d_state, turned = jax.lax.scan(step, jnp.zeros_like(state).T, elements, reverse=True)
    d_inputs, d_products = jax.tree.map(_turn, turned)
    return d_inputs, jnp.einsum("tbi,tbo->io", before, d_products), d_products.sum((0, 1)), d_state.T


gru.defvjp(_gru_forward, _gru_backward)


class Gru(nn.Module):
    """One layer of `gru` with PyTorch's two biases and its initialisation U(±1 / sqrt(hidden))."""

    hidden: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, state: jax.Array) -> jax.Array:
        """Returns states (batch, time, hidden) over `x` (batch, time, bins) from `state` (batch, hidden) on."""

        def param(name, *shape):
            return self.param(name, torch_bias(self.hidden), shape, self.param_dtype).astype(self.dtype)

        wide = 3 * self.hidden
        x = jnp.swapaxes(x.astype(self.dtype), 0, 1)
        inputs = x @ param("input_kernel", x.shape[-1], wide) + param("input_bias", wide)
        states = gru(inputs, param("hidden_kernel", self.hidden, wide), param("hidden_bias", wide), state)
        return jnp.swapaxes(states, 0, 1)


class Score(nn.Module):
    """Scores of how well each encoder state fits each decoder state, after Luong et al. 2015, without biases.

    Attributes:
      score: "dot" has no parameters. "general" has a matrix `kernel` (hidden, hidden). "concat" has `kernel` (2 hidden,
        hidden), whose first half is for the decoder, and `vector` (hidden,).
      dtype, param_dtype: as in `Network`.
    """

    score: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, decoded: jax.Array, encoded: jax.Array) -> jax.Array:
        """Returns (batch, target, source) of states (batch, target, hidden) and (batch, source, hidden)."""
        hidden = encoded.shape[-1]
        if self.score == "concat":
            kernel = self.param("kernel", torch_kernel, (2 * hidden, hidden), self.param_dtype).astype(self.dtype)
            vector = self.param("vector", torch_bias(hidden), (hidden,), self.param_dtype).astype(self.dtype)
            source = encoded @ kernel[hidden:]

            @jax.checkpoint  # the tanh is (target, source, hidden) an example: computed for one target at a time, never kept
            def of_target(target):
                return jnp.tanh(target[:, None] + source) @ vector

            return jnp.swapaxes(jax.lax.map(of_target, jnp.swapaxes(decoded @ kernel[:hidden], 0, 1)), 0, 1)
        if self.score == "general":
            encoded = encoded @ self.param("kernel", torch_kernel, (hidden, hidden), self.param_dtype).astype(self.dtype)
        return jnp.einsum("bth,bsh->bts", decoded, encoded)


class GruAttention(Network):
    """Encoder and decoder over the same frames. Each decoder state attends to all encoder states.

    With the defaults, 161 frames of 112 bands and 67 classes this is the thesis's network as its code has it: encoder
    19,605,000 + decoder 41,679,567 = 61,284,567 parameters, no dropout, PyTorch's initialisation.

    Attributes:
      hidden: size of the recurrent states (2500 in the final code; 500 before 9 June 2018).
      features: channels after the 1 × 1 convolution before the classifier.
      score: "general", "dot" or "concat" (`Score`).
      head: "fixed" flattens time (needs one input length); "pooled" averages over it (any length).
    """

    hidden: int = 2500
    features: int = 250
    score: str = "general"
    head: str = "fixed"

    choices = (("score", SCORES), ("head", HEADS))
    input_shape = (161, 112)

    def forward(self, x, call):
        """Over `x` (batch, frames, bins); "attention" is (batch, target frames, source frames)."""
        encoded = Gru(self.hidden, name="encoder", **self.types)(x, jnp.zeros((x.shape[0], self.hidden), self.dtype))
        decoded = Gru(self.hidden, name="decoder", **self.types)(x, encoded[:, -1])
        scores = Score(self.score, name="score", **self.types)(decoded, encoded)
        attention = nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))
        context = jnp.einsum("bts,bsh->bth", attention.astype(self.dtype), encoded)
        x = jnp.tanh(self._dense(self.hidden, jnp.concatenate([decoded, context], -1), "combine"))
        x = nn.leaky_relu(self._dense(self.features, x, "reduce"))
        embedding = x.mean(1)
        flat = jnp.swapaxes(x, 1, 2).reshape(x.shape[0], -1) if self.head == "fixed" else embedding
        return self._dense(self.num_classes, flat, "fc"), {"attention": attention, "encoded": encoded, "embedding": embedding}

    def _dense(self, features: int, x: jax.Array, name: str) -> jax.Array:
        return Dense(features, name=name, **torch_init(x.shape[-1]), **self.types)(x)
