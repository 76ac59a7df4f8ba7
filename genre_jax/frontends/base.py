"""The base class of all front ends, and `Waveform`, the simplest of them. Front ends are Flax modules; fields are options."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.frontends import scaling
from genre_jax.frontends.conditioning import equalise_loudness, log_mmse
from genre_jax.frontends.descriptors import summarise
from genre_jax.frontends.mfcc import delta

CONDITIONINGS: dict[str, Callable[..., jax.Array]] = {"equalise_loudness": equalise_loudness, "log_mmse": log_mmse}
SCALES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda x: x,
    "min_max": scaling.min_max,
    "mean_max": scaling.mean_max,
    "z_score": scaling.z_score,
}


class Frontend(nn.Module, kw_only=True):
    """What all front ends share.

    Attributes:
      sr: sample rate in Hz.
      conditioning: names out of "log_mmse" and "equalise_loudness", applied to the waveform in the order given.
      deltas: append the local slopes of the features up to this order, over 9 frames.
      scale: "none", "min_max", "mean_max", "z_score" (each clip by itself), or "standardise" (each bin by mean and standard
        deviation of the training split, which a run fits before its first step and keeps with its weights).
      statistics: names out of `summarise`: features become their statistics over time `(batch, k · bins)`.
      frames: crop or zero-pad to this many frames about the centre; 0 leaves them.
      image: give `(batch, bins, frames, 1)`, rows are bins, columns time.
      height, width: of the image, bilinearly resized; 0 leaves its size. `align_corners` as PyTorch has it.
    """

    sr: float
    conditioning: tuple[str, ...] = ()
    deltas: int = 0
    scale: str = "none"
    statistics: tuple[str, ...] = ()
    frames: int = 0
    image: bool = False
    height: int = 0
    width: int = 0
    align_corners: bool = False

    def __post_init__(self):
        if self.statistics and (self.image or self.frames):
            raise UserError("statistics leave no frames: image must be false and frames 0 with them")
        if (self.height or self.width) and not self.image:
            raise UserError(f"height and width are an image's: set image, or leave them 0, not {self.height} and {self.width}")
        super().__post_init__()

    def features(self, y: jax.Array) -> jax.Array:
        """Unscaled features `(batch, frames, bins)` of conditioned waveforms."""
        raise NotImplementedError

    def unscaled(self, waveform: jax.Array) -> jax.Array:
        """What `scale` is applied to, `(batch, frames, bins)`."""
        for name in self.conditioning:
            waveform = console.pick("conditioning", name, CONDITIONINGS)(waveform, sr=self.sr)
        x = self.features(waveform)
        if self.deltas:
            x = jnp.concatenate([x, *(delta(x, order=order) for order in range(1, self.deltas + 1))], -1)
        if self.statistics:
            x = summarise(x, statistics=self.statistics)[..., None, :]
        return _about_centre(x, self.frames) if self.frames else x

    def _standardised(self, x: jax.Array) -> jax.Array:
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:], x.dtype)
        std = self.variable("batch_stats", "std", jnp.ones, x.shape[-1:], x.dtype)
        return scaling.standardise(x, mean.value, std.value)

    @nn.compact
    def __call__(self, waveform: jax.Array) -> jax.Array:
        x = self.unscaled(waveform)
        x = console.pick("scale", self.scale, {**SCALES, "standardise": self._standardised})(x)
        if self.statistics:
            return x[..., 0, :]
        if not self.image:
            return x
        x = jnp.swapaxes(x, -1, -2)
        size = (self.height or x.shape[-2], self.width or x.shape[-1])
        return (x if size == x.shape[-2:] else scaling.resize(x, *size, align_corners=self.align_corners))[..., None]


def _about_centre(x: jax.Array, frames: int) -> jax.Array:
    """`x` (batch, frames, bins) cropped or zero-padded at both ends to `frames`."""
    surplus = x.shape[-2] - frames
    if surplus >= 0:
        return x[..., surplus // 2 : surplus // 2 + frames, :]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(-surplus // 2, -surplus - -surplus // 2), (0, 0)])


class Waveform(Frontend):
    """The raw signal `(batch, samples, 1)`, minus its mean, divided by its largest magnitude (document 000's ByteNet)."""

    def features(self, y):
        return scaling.peak_normalise(y)[..., None]
