"""The base class of all front ends, and `Waveform`, the simplest front end.

A front end is a Flax module from waveforms `(batch, samples)` to the input of a network. Its fields are its options in the
config. `modules.py` holds the other front ends, `published.py` the front ends of published systems.
"""

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
# Without "standardise", which needs variables of the module.
SCALES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda x: x,
    "min_max": scaling.min_max,
    "mean_max": scaling.mean_max,
    "z_score": scaling.z_score,
}


class Frontend(nn.Module, kw_only=True):
    """Conditions waveforms, computes features, scales the features and shapes them for the network.

    Maps `(batch, samples)` → `(batch, frames, bins)`, with `statistics` → `(batch, statistics · bins)`, with `image` →
    `(batch, bins, frames, 1)`. A subclass implements only `features`.

    Attributes:
      sr: float > 0, sample rate in Hz.
      conditioning: tuple of names from `CONDITIONINGS`, applied to the waveform in this order. Default: none.
      deltas: int ≥ 0. Appends the time derivatives of orders 1 to `deltas` (each over 9 frames) as further bins.
      scale: str. "none"; "min_max", "mean_max" or "z_score" (statistics of each clip); or "standardise" (mean and standard
        deviation of each bin over the training split, which a run computes before its first step and saves with the weights).
      statistics: tuple of names from `descriptors.STATISTICS`. Replaces the frames by these statistics over time.
      frames: int ≥ 0. Crops or zero-pads both ends of the features to this number of frames. 0 keeps all frames.
      image: bool. Returns an image of one channel; rows are bins, columns are frames.
      upright: bool. Turns the image: rows are frames, columns are bins. Height and width are those of the turned image.
      height, width: int ≥ 0, size in pixels to which the image is resized (bilinear). 0 keeps the size.
      align_corners: bool. The resize aligns the corner pixels, as `torch.nn.functional.interpolate` does.
    """

    sr: float
    conditioning: tuple[str, ...] = ()
    deltas: int = 0
    scale: str = "none"
    statistics: tuple[str, ...] = ()
    frames: int = 0
    image: bool = False
    upright: bool = False
    height: int = 0
    width: int = 0
    align_corners: bool = False

    def __post_init__(self):
        if self.statistics and (self.image or self.frames):
            raise UserError(f"with statistics, image must be False and frames must be 0, not {self.image} and {self.frames}")
        if (self.height or self.width) and not self.image:
            raise UserError(f"without image, height and width must be 0, not {self.height} and {self.width}")
        for name in self.conditioning:
            console.pick("conditioning", name, CONDITIONINGS)
        if self.scale != "standardise" and self.scale not in SCALES:
            raise console.unknown("scale", self.scale, (*SCALES, "standardise"))
        super().__post_init__()

    def features(self, y: jax.Array) -> jax.Array:
        """Return the unscaled features `(batch, frames, bins)` of conditioned waveforms `(batch, samples)`."""
        raise NotImplementedError

    def unscaled(self, waveform: jax.Array) -> jax.Array:
        """Return the features `(batch, frames, bins)` of waveforms `(batch, samples)` before `scale` is applied."""
        waveform = scaling.as_float(waveform)
        for name in self.conditioning:
            waveform = CONDITIONINGS[name](waveform, sr=self.sr)
        x = self.features(waveform)
        if self.deltas:
            x = jnp.concatenate([x, *(delta(x, order=order) for order in range(1, self.deltas + 1))], -1)
        if self.statistics:
            x = summarise(x, statistics=self.statistics)[..., None, :]
        return _about_centre(x, self.frames) if self.frames else x

    def _standardised(self, x: jax.Array) -> jax.Array:
        """Scale each bin with the saved mean and standard deviation of the training split."""
        mean = self.variable("frontend", "mean", jnp.zeros, x.shape[-1:], x.dtype)
        std = self.variable("frontend", "std", jnp.ones, x.shape[-1:], x.dtype)
        return scaling.standardise(x, mean.value, std.value)

    @nn.compact
    def __call__(self, waveform: jax.Array) -> jax.Array:
        """Return the input of the network for waveforms `(batch, samples)`; the class describes the shape."""
        x = self.unscaled(waveform)
        x = self._standardised(x) if self.scale == "standardise" else SCALES[self.scale](x)
        if self.statistics:
            return x[..., 0, :]
        if not self.image:
            return x
        x = x if self.upright else jnp.swapaxes(x, -1, -2)
        size = (self.height or x.shape[-2], self.width or x.shape[-1])
        return (x if size == x.shape[-2:] else scaling.resize(x, *size, align_corners=self.align_corners))[..., None]


def _about_centre(x: jax.Array, frames: int) -> jax.Array:
    """Crop or zero-pad `x` (batch, frames, bins) at both ends to `frames` frames."""
    surplus = x.shape[-2] - frames
    if surplus >= 0:
        return x[..., surplus // 2 : surplus // 2 + frames, :]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(-surplus // 2, -surplus - -surplus // 2), (0, 0)])


class Waveform(Frontend):
    """The raw signal minus its mean, divided by its largest magnitude: `(batch, samples)` → `(batch, samples, 1)`.

    Document 000 describes this input for ByteNet.
    """

    def features(self, y):
        return scaling.peak_normalise(y)[..., None]
