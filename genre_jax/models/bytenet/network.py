"""The dilated ByteNet encoder-decoder of document 000 on raw waveforms (after Kalchbrenner et al. 2016)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.bytenet.block import NORMS, BlockSpec
from genre_jax.models.bytenet.block_set import REMAT, BlockSet
from genre_jax.models.bytenet.dilated import BACKENDS
from genre_jax.models.bytenet.reach import Reach, capped, reach_of
from genre_jax.models.bytenet.time_shards import TimeShards
from genre_jax.models.layers import Conv, Dense, torch_init
from genre_jax.models.network import Network

HEADS = ("fixed", "pooled", "attention")


def dilations(max_dilation: int) -> tuple[int, ...]:
    """Returns 1, 2, 4, … up to `max_dilation`."""
    return tuple(2**i for i in range(max_dilation.bit_length()))


def resolve_backend(backend: str) -> str:
    """Returns the backend of the convolutions that `backend` stands for: `shift` for "auto", and for "timed" until it is timed.

    `shift` was the fastest on CPUs. Its blocks run in a scan, and therefore the program does not grow with depth. Take "timed"
    on accelerators.
    """
    return "shift" if backend in ("auto", "timed") else backend


class ByteNet(Network):
    """Encoder of strided sets of dilated blocks, causal decoder, classifier.

    With the defaults, 57,344 samples and 67 classes this is the thesis's network: lengths 57,344 → 7,169 → 1,793 → 1,793 →
    897 → 897 → 225, encoder 3,616,032 + decoder 4,425,187 = 8,041,219 parameters.

    Attributes:
      width: half-width d of the blocks; the residual stream has 2 d channels.
      kernel: taps of the dilated convolutions.
      max_dilation: each set has dilations 1, 2, 4, … up to this.
      stem_kernel, stem_stride: of the first convolution (1, 1 in the thesis). A larger stride lowers the rate of all sets.
      strides: one number for each set of the encoder. After the set, the time axis is right-padded by r zeros and reduced
        r-fold: n steps become n // r + 1. 1 keeps the time axis.
      decoder_sets: sets at the encoder's last rate.
      norm: "instance" (per clip and channel over time, the thesis's) or "layer" (per step over channels, as in the ByteNet
        paper).
      gated: whether WaveNet's gate, tanh × sigmoid of twice the channels, replaces the third norm and ReLU of each block.
      head: "fixed" flattens time (only for the input length of the parameters); "pooled" averages over time, "attention"
        weighs the steps by the softmax of a learned score (both for any length).
      dropout: rate, 0 to 1.
      cap_dilation: whether dilations whose side taps see only padding are cut to the largest that sees data (not in the
        thesis).
      remat: what is kept for the backward pass, one of `block_set.REMAT`. No policy changes a number.
      backend: of the dilated convolutions: lax, shift or phases (`bytenet/dilated.py`), auto (`resolve_backend`), or timed, the
        fastest on the device as `planning/backends.py` measures.
      time_shards: devices that share each clip along time (`time_shards.TimeShards`). No number changes.
    """

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

    choices = (("norm", NORMS), ("head", HEADS), ("remat", REMAT), ("backend", ("auto", "timed", *BACKENDS)))
    input_shape = (57_344, 1)

    def forward(self, x, call):
        """Over waveforms `(batch, samples, 1)`.

        "encoded" is (batch, steps, 2 width). With head "attention", "attention" are the weights of the steps, (batch, steps).
        """
        shards = self._shards()
        lengths = self.lengths(x.shape[1])

        def run_set(x, name, length, causal):
            spec = self._spec(length, causal)
            # If all inputs of the blocks are small beside one input of the longest sequence, "lean" keeps them.
            remat = "inputs" if self.remat == "lean" and len(spec.dilations) * length <= 2 * lengths[0] else self.remat
            return BlockSet(self.width, spec, remat, self.param_dtype, name=name)(x, call.keys)

        def whole(x):
            return shards.gather(x)[:, : lengths[-1]] if shards else x

        x = self._conv(2 * self.width, self._shard_of(x, lengths), "encoder_in", self.stem_kernel, self.stem_stride)
        for s, stride in enumerate(self.strides):
            x = run_set(x, f"encoder{s}", lengths[s], causal=False)
            if stride > 1:
                # The steps of a shard are a multiple of all strides, and zero beyond the sequence's end: the same padding.
                x = self._spec(lengths[s], False).inside(x) if shards else jnp.pad(x, ((0, 0), (0, stride), (0, 0)))
                x = self._conv(2 * self.width, x, f"reduce{s}", stride, stride)
        x = encoded = nn.relu(self._conv(2 * self.width, x, "encoder_out"))
        for s in range(self.decoder_sets):
            x = run_set(x, f"decoder{s}", lengths[-1], causal=True)
        x = nn.relu(self._conv(2 * self.width, nn.relu(x), "decoder_mid"))
        features, intermediates = self._read(whole(self._conv(self.width, x, "decoder_out")))
        fc = Dense(self.num_classes, name="fc", **torch_init(features.shape[-1]), **self.types)
        return fc(features), {"encoded": whole(encoded)} | intermediates

    def _read(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns features for the classifier of `x` (batch, steps, width), and intermediates."""
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
        init = torch_init(kernel * x.shape[-1])
        return Conv(features, (kernel,), stride, padding="VALID", name=name, **init, **self.types)(x)

    def _spec(self, length: int, causal: bool) -> BlockSpec:
        """Returns the description of a set on sequences of `length`."""
        return BlockSpec(
            self.kernel, self.dilations_on(length, causal), causal, self.norm, self.gated, self.dropout, self.dtype,
            resolve_backend(self.backend), length, self._shards(),
        )  # fmt: skip

    def _shards(self) -> TimeShards | None:
        if self.time_shards == 1 or not isinstance(self.axis_name, str) or self.is_initializing():
            return None
        return TimeShards(self.axis_name, self.time_shards)

    def _shard_of(self, x: jax.Array, lengths: list[int]) -> jax.Array:
        """Returns the samples (batch, samples, 1) that this device's steps of the first set are made of.

        Every shard has the same number of steps, a multiple of all strides; therefore no reduction straddles two shards.
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

    def lengths(self, samples: int) -> list[int]:
        """Returns the steps that each encoder set sees, and the decoder, of `samples`."""
        lengths = [(samples - self.stem_kernel) // self.stem_stride + 1]
        for stride in self.strides:
            lengths.append(lengths[-1] // stride + 1 if stride > 1 else lengths[-1])
        return lengths

    def dilations_on(self, length: int, causal: bool) -> tuple[int, ...]:
        """Returns the dilations of a set that runs on `length` steps."""
        chosen = dilations(self.max_dilation)
        return capped(chosen, self.kernel, length, causal) if self.cap_dilation else chosen

    def reach(self, samples: int) -> Reach:
        """Returns receptive field and dead blocks on inputs of `samples`."""
        return reach_of(self, samples)
