"""The dilated ByteNet encoder-decoder of document 000 on raw waveforms (after Kalchbrenner et al. 2016)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import console
from genre_jax.models.layers import Dropout, InstanceNorm, torch_bias, torch_kernel

HEADS = ("fixed", "pooled")


def dilations(max_dilation: int) -> list[int]:
    """1, 2, 4, … up to `max_dilation`."""
    return [2**i for i in range(max_dilation.bit_length())]


class Block(nn.Module):
    """A residual block: norm, ReLU, 1×1 to half width; norm, ReLU, dilated convolution; norm, ReLU, 1×1 back; plus input.

    Convolutions have no bias; the norms are per clip and channel over time. 88,704 parameters at `width` 112, kernel 3.
    """

    width: int
    kernel: int
    dilation: int
    causal: bool
    dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        reach = self.dilation * (self.kernel - 1)
        padding = (reach, 0) if self.causal else (reach // 2, reach - reach // 2)

        def conv(features, kernel, y, name, **options):
            return nn.Conv(
                features, (kernel,), use_bias=False, kernel_init=torch_kernel, dtype=self.dtype,
                param_dtype=self.param_dtype, name=name, **options,
            )(y)  # fmt: skip

        def norm(y, name):
            return nn.relu(InstanceNorm(param_dtype=self.param_dtype, name=name)(y))

        y = conv(self.width, 1, norm(x, "norm1"), "conv1")
        y = conv(self.width, self.kernel, norm(y, "norm2"), "conv2", padding=[padding], kernel_dilation=self.dilation)
        y = conv(2 * self.width, 1, norm(y, "norm3"), "conv3")
        return x + Dropout(self.dropout)(y, keys)


class ByteNet(nn.Module):
    """Encoder of strided sets of dilated blocks, causal decoder, classifier.

    With the defaults, 57,344 samples and 67 classes this is the thesis's network: lengths 57,344 → 7,169 → 1,793 → 1,793 →
    897 → 897 → 225, encoder 3,616,032 + decoder 4,425,187 = 8,041,219 parameters.

    Attributes:
      width: half-width d of the blocks; the residual stream has 2 d channels.
      stem_kernel, stem_stride: of the first convolution (1, 1 in the thesis; more lowers the rate of all that follows).
      strides: one entry a set: after it the time axis is right-padded by r zeros and reduced r-fold (1: kept).
      max_dilation: each set has dilations 1, 2, 4, … up to this.
      decoder_sets: sets at the encoder's last rate.
      head: "fixed" flattens time (needs one input length); "pooled" averages over it (any length).
      remat: recompute each block in the backward pass instead of keeping its inside.
    """

    num_classes: int
    width: int = 112
    kernel: int = 3
    max_dilation: int = 16
    stem_kernel: int = 1
    stem_stride: int = 1
    strides: tuple[int, ...] = (8, 4, 1, 2, 1, 4)
    decoder_sets: int = 6
    head: str = "fixed"
    dropout: float = 0.0
    remat: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    input_shape = (57_344, 1)

    def __post_init__(self):
        if self.head not in HEADS:
            raise console.unknown("model.head", self.head, HEADS)
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
        """Logits `(batch, num_classes)` of waveforms `(batch, samples, 1)`, and intermediates; `keys` (batch,) for dropout."""
        del train, mask  # no batch statistics
        x = self._conv(2 * self.width, x, "encoder_in", self.stem_kernel, self.stem_stride)
        for s, stride in enumerate(self.strides):
            x = self._set(x, f"encoder{s}", False, keys)
            if stride > 1:
                x = jnp.pad(x, ((0, 0), (0, stride), (0, 0)))
                x = self._conv(2 * self.width, x, f"reduce{s}", stride, stride)
        x = encoded = nn.relu(self._conv(2 * self.width, x, "encoder_out"))
        for s in range(self.decoder_sets):
            x = self._set(x, f"decoder{s}", True, keys)
        x = nn.relu(self._conv(2 * self.width, nn.relu(x), "decoder_mid"))
        x = self._conv(self.width, x, "decoder_out")
        embedding = x.mean(1)
        features = jnp.swapaxes(x, 1, 2).reshape(x.shape[0], -1) if self.head == "fixed" else embedding
        fc = nn.Dense(
            self.num_classes, kernel_init=torch_kernel, bias_init=torch_bias(features.shape[-1]), dtype=self.dtype,
            param_dtype=self.param_dtype, name="fc",
        )  # fmt: skip
        return fc(features), {"encoded": encoded, "embedding": embedding}

    def _conv(self, features: int, x: jax.Array, name: str, kernel: int = 1, stride: int = 1) -> jax.Array:
        """A convolution with bias and without padding."""
        return nn.Conv(
            features, (kernel,), stride, padding="VALID", kernel_init=torch_kernel,
            bias_init=torch_bias(kernel * x.shape[-1]), dtype=self.dtype, param_dtype=self.param_dtype, name=name,
        )(x)  # fmt: skip

    def _set(self, x: jax.Array, name: str, causal: bool, keys: jax.Array | None) -> jax.Array:
        block = nn.remat(Block) if self.remat else Block
        for dilation in dilations(self.max_dilation):
            x = block(
                self.width, self.kernel, dilation, causal, self.dropout, self.dtype, self.param_dtype,
                name=f"{name}_dilation{dilation}",
            )(x, keys)  # fmt: skip
        return x
