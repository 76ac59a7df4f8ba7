"""SwishNet (Hussain & Haque 2018, arXiv 1812.00149; document 003): gated causal convolutions along time."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.bytenet.dilated import dilated_conv, same_padding
from genre_jax.models.layers import Dense, Dropout, gate, glorot, layer_keys
from genre_jax.models.network import Network

READOUTS = ("random", "last", "frames")
PAIR_KERNELS = 3, 6  # frames, of the ordinary and of the separable convolution of a pair
DILATIONS = 3, 6, 12, 24, 48  # of the convolutions after the three pairs, with three taps each


class CausalConv(nn.Module):
    """Gated convolution over `(batch, frames, in)` to `features` / 2 channels that sees no later frame.

    Attributes:
      features: channels before the gate; even.
      kernel, dilation: of the convolution, in frames.
      dtype, param_dtype: as in `Network`.
    """

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
        return gate(y + bias.astype(self.dtype))


class SeparableConv(nn.Module):
    """As `CausalConv`, with one filter a channel along time without bias, then a 1 × 1 convolution, as Keras has it."""

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
        return gate(pointwise(sum(taps)))


class SwishNet(Network):
    """Eight gated blocks over 20 MFCCs a frame. The classifier reads one frame, which has seen 202 frames.

    With 3 classes the network has 5,483 parameters at `width` 1 (slim) and 18,267 at 2 (wide), as the paper states. The
    hidden layer is missing in figure 1 of the paper; the counts need it, and the first author's earlier code has it. The
    "strides" 3, 2, 2, 2, 2 of the figure are dilations 3, 6, 12, 24, 48, as in that code, because maps of different length
    could not be added. Weights start as Keras has it (Xavier uniform, biases 0).

    Attributes:
      width: factor on all widths.
      dropout: rate after every concatenation and sum, 0 to 1 (0.1 in that code; the paper calls it "optional" and gives no
        rate).
      readout: the frame that the classifier reads. "random": in training a frame of the last half of the clip, drawn for each
        example (in that code for the whole batch), otherwise the last frame. "last": the last frame. "frames": all frames;
        the logits of the clip are their mean, and "frame_logits" (batch, frames, num_classes) is among the intermediates.
        The parameters are the same.
    """

    width: int = 1
    dropout: float = 0.1
    readout: str = "random"

    choices = (("readout", READOUTS),)
    input_shape = (200, 20)

    @property
    def left_context(self) -> int:
        """How many frames before a frame its logits depend on; they depend on no later frame."""
        return 3 * (max(PAIR_KERNELS) - 1) + 2 * sum(DILATIONS)

    def forward(self, x, call):
        """Over `x` (batch, frames, bins)."""
        features = self._features(x, call.keys)
        if self.readout != "frames":
            features = jnp.take_along_axis(features, self._frame(x, call.train, call.keys)[:, None, None], 1)[:, 0]
        hidden = nn.relu(Dense(16 * self.width, kernel_init=glorot, name="hidden", **self.types)(features))
        logits = Dense(self.num_classes, kernel_init=glorot, name="fc", **self.types)(hidden)
        if self.readout != "frames":
            return logits, {"embedding": hidden}
        return logits.mean(1), {"embedding": hidden.mean(1), "frame_logits": logits}

    def _features(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Returns the output of the last block and the three skips, (batch, frames, 40 width)."""

        def drop(x):
            return Dropout(self.dropout)(x, keys)

        def pair(x, filters, number):
            conv = CausalConv(filters * self.width, PAIR_KERNELS[0], 1, name=f"conv{number}", **self.types)
            separable = SeparableConv(filters * self.width, PAIR_KERNELS[1], name=f"separable{number}", **self.types)
            return jnp.concatenate([conv(x), separable(x)], -1)

        def dilated(x, filters, number):
            return CausalConv(filters * self.width, 3, DILATIONS[number - 4], name=f"conv{number}", **self.types)(x)

        x = drop(pair(x, 16, 1))
        x = drop(pair(x, 8, 2))
        x = drop(pair(x, 8, 3) + x)
        x = drop(dilated(x, 16, 4) + x)
        skip_a = dilated(x, 16, 5)
        x = drop(skip_a + x)
        skip_b = dilated(x, 16, 6)
        x = drop(skip_b + x)
        skip_c = dilated(x, 16, 7)
        return drop(jnp.concatenate([dilated(skip_c, 32, 8), skip_a, skip_b, skip_c], -1))

    def _frame(self, x: jax.Array, train: bool, keys: jax.Array | None) -> jax.Array:
        """Returns the frame (batch,) that the classifier reads of each example."""
        frames = x.shape[1]
        if not train or keys is None or self.readout == "last":
            return jnp.full(x.shape[0], frames - 1)
        frame_keys = layer_keys(keys, (*self.path, "readout"))
        return jax.vmap(lambda key: jax.random.randint(key, (), frames // 2, frames))(frame_keys)
