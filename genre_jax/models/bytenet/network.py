"""The dilated ByteNet encoder-decoder of document 000 on raw waveforms (after Kalchbrenner et al. 2016)."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import console
from genre_jax.models.bytenet.block import NORMS, BlockSpec
from genre_jax.models.bytenet.block_set import REMAT, BlockSet
from genre_jax.models.bytenet.dilated import BACKENDS, same_padding
from genre_jax.models.layers import Conv, Dense, torch_bias, torch_kernel
from genre_jax.parallel import TimeShards

HEADS = ("fixed", "pooled", "attention")


def dilations(max_dilation: int) -> tuple[int, ...]:
    """1, 2, 4, … up to `max_dilation`."""
    return tuple(2**i for i in range(max_dilation.bit_length()))


def resolve_backend(backend: str) -> str:
    """The convolution backend that "auto" stands for: `shift`, which scans over the blocks (and "timed", until it is timed).

    Measured on two CPU cores, JAX 0.12: a training step of `configs/bytenet.py:demo` against the same network without stacked
    parameters, unrolled with XLA's convolutions and nothing recomputed (0.34 s, 409 MB of temporary memory = 1):

        remat  backend  seconds  memory
        none   lax      1.41     1.00
        none   phases   1.64     1.00
        none   shift    1.08     1.09
        block  shift    0.80     0.28

    That was before `dots`, whose step of the full network takes 2.1 to 5.9 s (dilation 16 to 8192); unrolled and without
    recomputation it took 2.9 to 14.6 s. No accelerator was at hand: take "timed" there.
    """
    return "shift" if backend in ("auto", "timed") else backend


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
      strides: one entry a set: after it the time axis is right-padded by r zeros and reduced r-fold (1: kept), so that n
        steps become n // r + 1, whatever n.
      max_dilation: each set has dilations 1, 2, 4, … up to this.
      decoder_sets: sets at the encoder's last rate.
      norm: "instance" (per clip and channel over time, the thesis's) or "layer" (per step over channels, as in the ByteNet
        paper).
      gated: WaveNet's gate, tanh × sigmoid of twice the channels, in place of the third norm and ReLU of each block.
      head: "fixed" flattens time (needs one input length); "pooled" averages over it, "attention" weighs its steps by the
        softmax of a learned score (any length).
      cap_dilation: dilations whose side taps would see only padding are cut to the largest that sees data. Not the thesis's.
      remat: what is kept for the backward pass: none, block, tree, lean or offload (`models/blocks.py`). None of them changes
        a number.
      backend: of the dilated convolutions: lax, shift or phases (`models/dilated.py`), auto (`resolve_backend`), or timed: the
        one that `main` finds fastest on its device (`backends.py`).
      time_shards: how many devices share each clip along time (`parallel.TimeShards`); it changes no number.
    """

    num_classes: int
    width: int = 112
    kernel: int = 3
    max_dilation: int = 16
    stem_kernel: int = 1
    stem_stride: int = 1
    strides: tuple[int, ...] = (8, 4, 1, 2, 1, 4)
    decoder_sets: int = 6
    norm: str = "instance"
    gated: bool = False
    head: str = "fixed"
    dropout: float = 0.0
    cap_dilation: bool = False
    remat: str = "none"
    backend: str = "auto"
    time_shards: int = 1
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    input_shape = (57_344, 1)

    def __post_init__(self):
        for key, legal in {"norm": NORMS, "head": HEADS, "remat": REMAT, "backend": ("auto", "timed", *BACKENDS)}.items():
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
        """Logits `(batch, num_classes)` of waveforms `(batch, samples, 1)`, and intermediates; `keys` (batch,) for dropout.

        Intermediates: "encoded" (batch, steps, 2 width), "embedding" (batch, dim), and with head "attention" its weights
        (batch, steps).
        """
        del train, mask  # no batch statistics
        shards = self._shards()
        lengths = self._lengths(x.shape[1])
        x = self._conv(2 * self.width, self._own(x, lengths), "encoder_in", self.stem_kernel, self.stem_stride)
        for s, stride in enumerate(self.strides):
            x = self._set(x, f"encoder{s}", self._spec(lengths[s], causal=False), keys, lengths[0])
            if stride > 1:
                # Shards divide by all strides, and hold zeros beyond the sequence's end: the same padding.
                x = self._spec(lengths[s], False).inside(x) if shards else jnp.pad(x, ((0, 0), (0, stride), (0, 0)))
                x = self._conv(2 * self.width, x, f"reduce{s}", stride, stride)

        def whole(x):
            return shards.gather(x)[:, : lengths[-1]] if shards else x

        x = encoded = nn.relu(self._conv(2 * self.width, x, "encoder_out"))
        for s in range(self.decoder_sets):
            x = self._set(x, f"decoder{s}", self._spec(lengths[-1], causal=True), keys, lengths[0])
        x = nn.relu(self._conv(2 * self.width, nn.relu(x), "decoder_mid"))
        x = whole(self._conv(self.width, x, "decoder_out"))
        features, intermediates = self._read(x)
        fc = Dense(
            self.num_classes, kernel_init=torch_kernel, bias_init=torch_bias(features.shape[-1]), dtype=self.dtype,
            param_dtype=self.param_dtype, name="fc",
        )  # fmt: skip
        return fc(features), {"encoded": whole(encoded)} | intermediates

    def _read(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Features for the classifier of `x` (batch, steps, width), and intermediates."""
        if self.head == "attention":
            score = self._conv(1, x, "attention")[..., 0].astype(jnp.promote_types(self.dtype, jnp.float32))
            weights = nn.softmax(score)
            features = jnp.einsum("bt,btc->bc", weights, x.astype(weights.dtype)).astype(x.dtype)
            return features, {"embedding": features, "attention": weights}
        embedding = x.mean(1)
        features = jnp.swapaxes(x, 1, 2).reshape(x.shape[0], -1) if self.head == "fixed" else embedding
        return features, {"embedding": embedding}

    def _conv(self, features: int, x: jax.Array, name: str, kernel: int = 1, stride: int = 1) -> jax.Array:
        """A convolution with bias and without padding."""
        return Conv(
            features, (kernel,), stride, padding="VALID", kernel_init=torch_kernel,
            bias_init=torch_bias(kernel * x.shape[-1]), dtype=self.dtype, param_dtype=self.param_dtype, name=name,
        )(x)  # fmt: skip

    def _set(self, x: jax.Array, name: str, spec: BlockSpec, keys: jax.Array | None, longest: int) -> jax.Array:
        """A set of blocks; where all their inputs are small beside one of the longest sequence, "lean" keeps them."""
        remat = "inputs" if self.remat == "lean" and len(spec.dilations) * spec.length <= 2 * longest else self.remat
        return BlockSet(self.width, spec, remat, self.param_dtype, name=name)(x, keys)

    def _spec(self, length: int, causal: bool) -> BlockSpec:
        """Of a set that runs on sequences of `length`."""
        return BlockSpec(
            self.kernel, self._dilations(length, causal), causal, self.norm, self.gated, self.dropout, self.dtype,
            resolve_backend(self.backend), length, self._shards(),
        )  # fmt: skip

    def _shards(self) -> TimeShards | None:
        if self.time_shards == 1 or self.axis_name is None or self.is_initializing():
            return None
        return TimeShards(self.axis_name, self.time_shards)

    def _lengths(self, samples: int) -> list[int]:
        """Steps that each encoder set sees, and the decoder, of `samples`."""
        lengths = [(samples - self.stem_kernel) // self.stem_stride + 1]
        for stride in self.strides:
            lengths.append(lengths[-1] // stride + 1 if stride > 1 else lengths[-1])
        return lengths

    def _own(self, x: jax.Array, lengths: list[int]) -> jax.Array:
        """The samples (batch, samples, 1) that this device's steps of the first set are made of.

        Every shard has the same number of steps, a multiple of all strides, so that no reduction straddles two.
        """
        shards = self._shards()
        if not shards:
            return x
        divisor = [math.prod(self.strides[s:]) for s in range(len(lengths))]
        steps = max(-(-length // (self.time_shards * d)) for length, d in zip(lengths, divisor, strict=True)) * divisor[0]
        samples = (steps - 1) * self.stem_stride + self.stem_kernel
        reached = (self.time_shards * steps - 1) * self.stem_stride + self.stem_kernel
        x = jnp.pad(x, ((0, 0), (0, max(0, reached - x.shape[1])), (0, 0)))
        return jax.lax.dynamic_slice_in_dim(x, shards.index * steps * self.stem_stride, samples, 1)

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
        lengths = self._lengths(samples)
        sets: list[tuple[SetReach, bool, int]] = []
        for name, causal, stride, length in (
            *((f"encoder{s}", False, stride, lengths[s]) for s, stride in enumerate(self.strides)),
            *((f"decoder{s}", True, 1, lengths[-1]) for s in range(self.decoder_sets)),
        ):
            chosen = self._dilations(length, causal)
            dead = sum(self._seen(d, length, causal) == (0, 0) for d in chosen)
            sets.append((SetReach(name, length, chosen, dead), causal, stride))
        field = effective = 1
        for one, causal, stride in reversed(sets):
            field, effective = field * stride, min(effective * stride, one.length)
            for d in one.dilations:
                field += d * (self.kernel - 1)
                effective = min(effective + sum(self._seen(d, one.length, causal)), one.length)
        field, effective = ((n - 1) * self.stem_stride + self.stem_kernel for n in (field, effective))
        found = tuple(one for one, _, _ in sets)
        return Reach(field, effective, sum(len(s.dilations) for s in found), sum(s.dead_blocks for s in found), found)
