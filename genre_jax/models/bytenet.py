"""The dilated ByteNet encoder-decoder of document 000 on raw waveforms (after Kalchbrenner et al. 2016)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import console
from genre_jax.models.blocks import REMAT, BlockSet
from genre_jax.models.dilated import BACKENDS, same_padding
from genre_jax.models.layers import torch_bias, torch_kernel

HEADS = ("fixed", "pooled")


def dilations(max_dilation: int) -> tuple[int, ...]:
    """1, 2, 4, … up to `max_dilation`."""
    return tuple(2**i for i in range(max_dilation.bit_length()))


def resolve_backend(backend: str) -> str:
    """The convolution backend that "auto" stands for: `shift`, which scans over the blocks.

    Measured on two CPU cores, JAX 0.12: a training step of `configs/bytenet.py:demo` against the same network without stacked
    parameters, unrolled with XLA's convolutions and nothing recomputed (0.34 s, 409 MB of temporary memory = 1):

        remat  backend  seconds  memory
        none   lax      1.41     1.00
        none   phases   1.64     1.00
        none   shift    1.08     1.09
        block  shift    0.80     0.28

    The full network scans a step in 2.7 to 6.1 s (dilation 16 to 8192) and takes 2.9 to 14.6 s unrolled. No accelerator was
    at hand: choose there by trial.
    """
    return "shift" if backend == "auto" else backend


class SetReach(NamedTuple):
    """A set as it runs on one input length: its name, sequence length, dilations, and how many of its blocks are dead."""

    name: str
    length: int
    dilations: tuple[int, ...]
    dead_blocks: int


class Reach(NamedTuple):
    """What a network sees through its convolutions (its norms see the whole input).

    `receptive_field` and `effective_field` are in samples, of one step of the output: without end, and within the input's
    length, where taps that see only padding add nothing. A block is dead where all its side taps see only padding.
    """

    receptive_field: int
    effective_field: int
    blocks: int
    dead_blocks: int
    sets: tuple[SetReach, ...]


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
      cap_dilation: dilations whose side taps would see only padding are cut to the largest that sees data. Not the thesis's.
      remat: what is kept for the backward pass: none, block, tree or lean (`models/blocks.py`). None of them changes a number.
      backend: of the dilated convolutions: auto (`resolve_backend`), lax, shift or phases (`models/dilated.py`).
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
    cap_dilation: bool = False
    remat: str = "none"
    backend: str = "auto"
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    input_shape = (57_344, 1)

    def __post_init__(self):
        for key, legal in {"head": HEADS, "remat": REMAT, "backend": ("auto", *BACKENDS)}.items():
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
        return BlockSet(
            self.width, self.kernel, self._dilations(x.shape[1], causal), causal, self.dropout, self.remat,
            resolve_backend(self.backend), self.dtype, self.param_dtype, name=name,
        )(x, keys)  # fmt: skip

    def _seen(self, dilation: int, length: int, causal: bool) -> tuple[int, int]:
        """How far (before, after) the taps that see any of a sequence's `length` steps reach."""
        before, _ = same_padding(dilation, self.kernel, causal)
        offsets = [o for o in (j * dilation - int(before) for j in range(self.kernel)) if -length < o < length]
        return -min(offsets, default=0), max(offsets, default=0)

    def _dilations(self, length: int, causal: bool) -> tuple[int, ...]:
        """The dilations of a set that runs on `length` steps."""
        chosen = dilations(self.max_dilation)
        if not self.cap_dilation:
            return chosen
        largest = max((d for d in chosen if self._seen(d, length, causal) != (0, 0)), default=1)
        return tuple(min(d, largest) for d in chosen)

    def reach(self, samples: int) -> Reach:
        """Receptive field and dead blocks on inputs of `samples`."""
        length = (samples - self.stem_kernel) // self.stem_stride + 1
        sets: list[tuple[SetReach, bool, int]] = []
        for name, causal, stride in (
            *((f"encoder{s}", False, stride) for s, stride in enumerate(self.strides)),
            *((f"decoder{s}", True, 1) for s in range(self.decoder_sets)),
        ):
            chosen = self._dilations(length, causal)
            dead = sum(self._seen(d, length, causal) == (0, 0) for d in chosen)
            sets.append((SetReach(name, length, chosen, dead), causal, stride))
            length = length // stride + 1 if stride > 1 else length
        field = effective = 1
        for one, causal, stride in reversed(sets):
            field, effective = field * stride, min(effective * stride, one.length)
            for d in one.dilations:
                field += d * (self.kernel - 1)
                effective = min(effective + sum(self._seen(d, one.length, causal)), one.length)
        field, effective = ((n - 1) * self.stem_stride + self.stem_kernel for n in (field, effective))
        found = tuple(one for one, _, _ in sets)
        return Reach(field, effective, sum(len(s.dilations) for s in found), sum(s.dead_blocks for s in found), found)
