"""SwishNet (Hussain & Haque 2018, arXiv 1812.00149; document 003): gated causal convolutions along time."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import console
from genre_jax.models.bytenet.dilated import dilated_conv, same_padding
from genre_jax.models.layers import Dense, Dropout, layer_keys

READOUTS = ("random", "last", "frames")

glorot = nn.initializers.glorot_uniform()


def gated(x: jax.Array) -> jax.Array:
    """tanh of the first half of the channels times the sigmoid of the second: half as many."""
    first, second = jnp.split(x, 2, -1)
    return jnp.tanh(first) * nn.sigmoid(second)


class CausalConv(nn.Module):
    """Gated convolution over `(batch, frames, in)` that sees no later frame, to `features` / 2 channels."""

    features: int
    kernel: int
    dilation: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", glorot, (self.kernel, x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        padding = same_padding(self.dilation, self.kernel, causal=True)
        y = dilated_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.dilation, padding)
        return gated(y + bias.astype(self.dtype))


class SeparableConv(nn.Module):
    """The same with a filter a channel along time, without bias, and a 1 × 1 convolution after it, as Keras has it."""

    features: int
    kernel: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        depthwise = self.param("depthwise", glorot, (self.kernel, x.shape[-1], 1), self.param_dtype)
        frames = x.shape[1]
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (self.kernel - 1, 0), (0, 0)))
        taps = (x[:, j : j + frames] * depthwise[j, :, 0].astype(self.dtype) for j in range(self.kernel))
        pointwise = Dense(self.features, kernel_init=glorot, dtype=self.dtype, param_dtype=self.param_dtype, name="pointwise")
        return gated(pointwise(sum(taps)))


class SwishNet(nn.Module):
    """Eight gated blocks over 20 MFCCs a frame; the classifier reads one frame, which has seen the 202 up to it.

    With 3 classes 5,483 parameters at `width` 1 (slim) and 18,267 at 2 (wide), as the paper states. Its figure 1 lacks the
    hidden layer without which these counts do not come out, and the first author's earlier code has one. The figure's
    "strides" 3, 2, 2, 2, 2 are taken as dilations 3, 6, 12, 24, 48, as in that code: maps of different length could not be
    added. Weights start as Keras has it (Xavier uniform, biases 0).

    Attributes:
      width: factor on all widths.
      dropout: rate after every concatenation and sum (0.1 in that code; the paper has it "optional", without a rate).
      readout: the frame that is read: "random": in training one of the last half of the clip, drawn for each example (in
        that code for the whole batch), else the last; "last"; "frames": all of them, the clip's logits are their mean, and
        "frame_logits" (batch, frames, num_classes) is among the intermediates. The parameters are the same.
    """

    num_classes: int
    width: int = 1
    dropout: float = 0.1
    readout: str = "random"
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    input_shape = (200, 20)

    def __post_init__(self):
        if self.readout not in READOUTS:
            raise console.unknown("model.readout", self.readout, READOUTS)
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
        """Logits `(batch, num_classes)` of features `(batch, frames, bins)`; `keys` (batch,) for dropout and read-out."""
        del mask  # no batch statistics
        features = self._features(x, keys)
        if self.readout != "frames":
            features = jnp.take_along_axis(features, self._frame(x, train, keys)[:, None, None], 1)[:, 0]
        types = {"kernel_init": glorot, "dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = nn.relu(Dense(16 * self.width, name="hidden", **types)(features))
        logits = Dense(self.num_classes, name="fc", **types)(hidden)
        if self.readout != "frames":
            return logits, {"embedding": hidden}
        return logits.mean(1), {"embedding": hidden.mean(1), "frame_logits": logits}

    def _features(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """(batch, frames, 40 width): the last block's output and the three skips."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def drop(x):
            return Dropout(self.dropout)(x, keys)

        def pair(x, filters, number):
            conv = CausalConv(filters * self.width, 3, 1, name=f"conv{number}", **types)
            separable = SeparableConv(filters * self.width, 6, name=f"separable{number}", **types)
            return jnp.concatenate([conv(x), separable(x)], -1)

        def dilated(x, filters, dilation, number):
            return CausalConv(filters * self.width, 3, dilation, name=f"conv{number}", **types)(x)

        x = drop(pair(x, 16, 1))
        x = drop(pair(x, 8, 2))
        x = drop(pair(x, 8, 3) + x)
        x = drop(dilated(x, 16, 3, 4) + x)
        skip_a = dilated(x, 16, 6, 5)
        x = drop(skip_a + x)
        skip_b = dilated(x, 16, 12, 6)
        x = drop(skip_b + x)
        skip_c = dilated(x, 16, 24, 7)
        return drop(jnp.concatenate([dilated(skip_c, 32, 48, 8), skip_a, skip_b, skip_c], -1))

    def _frame(self, x: jax.Array, train: bool, keys: jax.Array | None) -> jax.Array:
        """The frame (batch,) that is read of each example."""
        frames = x.shape[1]
        if not train or keys is None or self.readout == "last":
            return jnp.full(len(x), frames - 1)
        own = layer_keys(keys, (*self.path, "readout"))
        return jax.vmap(lambda key: jax.random.randint(key, (), frames // 2, frames))(own)
