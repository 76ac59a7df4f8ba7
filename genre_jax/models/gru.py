"""The GRU encoder-decoder with Luong attention over spectrogram frames of document 000 (Pollack 2018, section 3.1.3)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import console
from genre_jax.models.layers import Dense, torch_bias, torch_kernel

SCORES = ("general", "dot", "concat")
HEADS = ("fixed", "pooled")


def _gates(inputs: jax.Array, products: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Reset and update gate, candidate, and the recurrent product in it, of both sides' products (3 hidden, batch)."""
    reset, update, candidate = jnp.split(inputs, 3)
    own_reset, own_update, own = jnp.split(products, 3)
    reset, update = nn.sigmoid(reset + own_reset), nn.sigmoid(update + own_update)
    return reset, update, jnp.tanh(candidate + reset * own), own


@jax.custom_vjp
def gru(inputs: jax.Array, kernel: jax.Array, bias: jax.Array, state: jax.Array) -> jax.Array:
    """States (time, batch, hidden) of a gated recurrent unit, with PyTorch's equations and order of gates.

    `inputs` (time, batch, 3 hidden) are the input's products with its bias, of all steps in one; `kernel` (hidden, 3 hidden)
    and `bias` (3 hidden,) are the recurrent side's, `state` (batch, hidden) the one before the first step.

        r, z = sigmoid(inputs + products);  n = tanh(inputs + r · products);  state = (1 - z) · n + z · state

    The scans hold a state as a column, (hidden, batch): on a CPU its product with a large kernel takes half the time of a
    row's. The backward pass keeps the states alone: it makes the recurrent products again, all steps in one, and the kernel's
    gradient too is one product over all steps, where the scan's own would add to the whole kernel at every step.
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
        reset, update, candidate, own = _gates(x, product)
        d_state = d_state + d_out
        d_candidate = d_state * (1 - update) * (1 - candidate**2)
        d_update = d_state * (state - candidate) * update * (1 - update)
        d_reset = d_candidate * own * reset * (1 - reset)
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
        """States (batch, time, hidden) over `x` (batch, time, bins) from `state` (batch, hidden)."""

        def param(name, *shape):
            return self.param(name, torch_bias(self.hidden), shape, self.param_dtype).astype(self.dtype)

        wide = 3 * self.hidden
        x = jnp.swapaxes(x.astype(self.dtype), 0, 1)
        inputs = x @ param("input_kernel", x.shape[-1], wide) + param("input_bias", wide)
        states = gru(inputs, param("hidden_kernel", self.hidden, wide), param("hidden_bias", wide), state)
        return jnp.swapaxes(states, 0, 1)


class Score(nn.Module):
    """How well each encoder state fits each decoder state: Luong et al. 2015's scores, none with a bias.

    "dot" has no parameters, "general" a matrix `kernel` (hidden, hidden), "concat" `kernel` (2 hidden, hidden), of which the
    decoder's half comes first, and `vector` (hidden,).
    """

    score: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, decoded: jax.Array, encoded: jax.Array) -> jax.Array:
        """(batch, target, source) of states (batch, target, hidden) and (batch, source, hidden)."""
        hidden = encoded.shape[-1]
        if self.score == "concat":
            kernel = self.param("kernel", torch_kernel, (2 * hidden, hidden), self.param_dtype).astype(self.dtype)
            vector = self.param("vector", torch_bias(hidden), (hidden,), self.param_dtype).astype(self.dtype)
            source = encoded @ kernel[hidden:]

            @jax.checkpoint  # what is inside the tanh is (target, source, hidden) an example: never kept, one target at a time
            def of_target(target):
                return jnp.tanh(target[:, None] + source) @ vector

            return jnp.swapaxes(jax.lax.map(of_target, jnp.swapaxes(decoded @ kernel[:hidden], 0, 1)), 0, 1)
        if self.score == "general":
            encoded = encoded @ self.param("kernel", torch_kernel, (hidden, hidden), self.param_dtype).astype(self.dtype)
        return jnp.einsum("bth,bsh->bts", decoded, encoded)


class GruAttention(nn.Module):
    """Encoder and decoder, both over the same frames; each decoder state attends to all encoder states.

    With the defaults, 161 frames of 112 bands and 67 classes this is the thesis's network as its code has it: encoder
    19,605,000 + decoder 41,679,567 = 61,284,567 parameters, no dropout, initialised as PyTorch does.

    Attributes:
      hidden: size of the recurrent states (2500 in the final code; 500 before 9 June 2018).
      features: channels that the 1 × 1 convolution before the classifier leaves of them.
      score: general, dot or concat (`Score`).
      head: "fixed" flattens time (needs one input length); "pooled" averages over it (any length).
    """

    num_classes: int
    hidden: int = 2500
    features: int = 250
    score: str = "general"
    head: str = "fixed"
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    input_shape = (161, 112)

    def __post_init__(self):
        for key, legal in {"score": SCORES, "head": HEADS}.items():
            if getattr(self, key) not in legal:
                raise console.unknown(f"model.{key}", getattr(self, key), legal)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits `(batch, num_classes)` of features `(batch, frames, bins)`; "attention" is (batch, target, source frames)."""
        del train, mask, keys  # neither batch statistics nor dropout
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        encoded = Gru(self.hidden, name="encoder", **types)(x, jnp.zeros((x.shape[0], self.hidden), self.dtype))
        decoded = Gru(self.hidden, name="decoder", **types)(x, encoded[:, -1])
        scores = Score(self.score, name="score", **types)(decoded, encoded)
        attention = nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))
        context = jnp.einsum("bts,bsh->bth", attention.astype(self.dtype), encoded)
        x = jnp.tanh(self._dense(self.hidden, jnp.concatenate([decoded, context], -1), "combine"))
        x = nn.leaky_relu(self._dense(self.features, x, "reduce"))
        embedding = x.mean(1)
        flat = jnp.swapaxes(x, 1, 2).reshape(x.shape[0], -1) if self.head == "fixed" else embedding
        return self._dense(self.num_classes, flat, "fc"), {"attention": attention, "encoded": encoded, "embedding": embedding}

    def _dense(self, features: int, x: jax.Array, name: str) -> jax.Array:
        return Dense(
            features, kernel_init=torch_kernel, bias_init=torch_bias(x.shape[-1]), dtype=self.dtype,
            param_dtype=self.param_dtype, name=name,
        )(x)  # fmt: skip
