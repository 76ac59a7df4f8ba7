"""From a mask over a network's input back to sound: the STFT that a front end computes, weighted by the mask, and inverted.

A front end can be inverted if its input is a magnitude or mel spectrogram, whatever it does to the values afterwards: the mask
weights cells, and therefore compression and scaling do not matter. The options `image`, `upright`, `height`, `width` and
`frames` are undone.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.console import UserError
from genre_jax.frontends import Frontend, LogMel, LogMelHtk, MfccHtk, Spectrogram, mel_filterbank, resize
from genre_jax.frontends.base import CONDITIONINGS
from genre_jax.frontends.mfcc import mel_filterbank_htk
from genre_jax.frontends.stft import istft, stft

PEAK = 0.9  # largest magnitude of a sound that is written


def fault(frontend: Frontend) -> str:
    """Return why a mask over the output of a front end cannot become sound, as "has no …", or "" if it can."""
    if not isinstance(frontend, Spectrogram | LogMel | LogMelHtk) or isinstance(frontend, MfccHtk):
        return "has no spectrogram to whose cells a mask could belong"
    if frontend.deltas or frontend.statistics:
        what = f"deltas={frontend.deltas}" if frontend.deltas else f"statistics={','.join(frontend.statistics)}"
        return f"has {what}, and a mask over such features belongs to no cells of a spectrogram"
    return ""


class Inverse:
    """The STFT of an invertible front end for signals of a fixed length.

    In an uncentred STFT the first and the last samples have almost no weight. The inverse of a masked STFT divides by this
    weight, and has clicks there. The signal is therefore continued at both ends, by its reflection, and cut off again.

    Attributes:
      samples: length of the signals in samples.
      hop: samples from frame to frame.
      margin: frames that `spectrum` has at each end and the front end has not; 0 for a centred front end.
    """

    def __init__(self, frontend: Frontend, samples: int):
        """Raise `UserError` if the front end cannot be inverted."""
        if reason := fault(frontend):
            raise UserError(f"the front end {type(frontend).__name__} {reason}")
        self._frontend: Any = frontend
        self.samples, self.hop = samples, self._frontend.hop_length
        self.margin = 0 if self._options()["center"] else -(-frontend.n_fft // self.hop)
        self._lead = self._tail = 0
        if isinstance(frontend, LogMelHtk):
            missing = -(-max(0, samples - frontend.win_length) // self.hop) * self.hop + frontend.win_length - samples
            self._lead = (frontend.n_fft - frontend.win_length) // 2  # `stft` puts a short window in the middle of the frame
            self._tail = missing + frontend.n_fft - frontend.win_length - self._lead

    def conditioned(self, y: jax.Array) -> jax.Array:
        """Apply the front end's conditioning to a signal (samples,)."""
        for name in self._frontend.conditioning:
            y = CONDITIONINGS[name](y, sr=self._frontend.sr)
        return y

    def _options(self) -> dict[str, Any]:
        """The arguments that `stft` and `istft` share."""
        front = self._frontend
        return {
            "hop_length": front.hop_length,
            "win_length": front.win_length or None,
            "n_fft": front.n_fft,
            "window": front.window,
            "center": getattr(front, "center", False),
        }

    def spectrum(self, y: jax.Array) -> jax.Array:
        """Return the complex STFT (margin + frames + margin, bins) of a conditioned signal (samples,)."""
        padding = {"pad_mode": self._frontend.pad_mode} if hasattr(self._frontend, "pad_mode") else {}
        y = jnp.pad(jnp.pad(y, (self._lead, self._tail)), self.margin * self.hop, mode="reflect")
        return stft(y, **self._options(), **padding)

    def sound(self, spectrum: jax.Array) -> np.ndarray:
        """Return the signal (samples,) of an STFT (margin + frames + margin, bins)."""
        start = self.margin * self.hop + self._lead
        return np.asarray(istft(spectrum, **self._options(), length=start + self.samples)[start:])

    def mask(self, weights: jax.Array) -> np.ndarray:
        """Return the weights (frames, bins) of the STFT for weights of the shape of the network's input, without the batch.

        Weights of mel bands are multiplied by the pseudo-inverse of the filterbank, whose filters are scaled to sum 1, so that
        equal weights stay equal; negative results become 0.
        """
        front, frames = self._frontend, self._frames()
        weights = jnp.asarray(weights)
        if front.image:
            size = front.n_mels if self._is_mel() else 1 + front.n_fft // 2, front.frames or frames
            size, image = size[::-1] if front.upright else size, weights[..., 0]
            if image.shape != size:
                image = resize(image, *size, align_corners=front.align_corners)
            weights = image if front.upright else image.T
        if surplus := frames - weights.shape[0]:  # `Frontend.frames` has cropped or padded the features
            before = abs(surplus) // 2
            weights = (
                jnp.pad(weights, ((before, surplus - before), (0, 0))) if surplus > 0 else weights[before : before + frames]
            )
        if not self._is_mel():
            return np.asarray(weights)
        return np.maximum(np.asarray(weights) @ self._unmix(), 0).astype(np.float32)

    def _is_mel(self) -> bool:
        return not isinstance(self._frontend, Spectrogram)

    def _frames(self) -> int:
        signal = jax.ShapeDtypeStruct((self.samples,), jnp.float32)
        return jax.eval_shape(self.spectrum, signal).shape[0] - 2 * self.margin

    def _unmix(self) -> np.ndarray:
        """The matrix (mels, bins) from weights of mel bands to weights of bins."""
        front = self._frontend
        band = {"sr": front.sr, "n_fft": front.n_fft, "n_mels": front.n_mels, "fmin": front.fmin, "fmax": front.fmax or None}
        htk = isinstance(front, LogMelHtk)
        filters = mel_filterbank_htk(**band) if htk else mel_filterbank(**band, htk=front.htk, norm=front.norm)
        total = filters.sum(0)
        return np.linalg.pinv(filters / np.where(total == 0, 1, total))


def auralise(inverse: Inverse, y: jax.Array, mask: np.ndarray, phase_only: bool = False) -> np.ndarray:
    """Return the sound (samples,) of a mask (frames, bins): the inverse STFT of mask × STFT.

    Args:
      inverse: the front end's STFT.
      y: the conditioned signal (samples,).
      mask: weights of the STFT. In the margins of `inverse` the weights of the first and the last frame hold.
      phase_only: replaces all magnitudes of the STFT but 0 by 1, as Listing 1 of document 003 does.
    """
    spectrum = inverse.spectrum(y)
    weights = np.pad(mask, ((inverse.margin, inverse.margin), (0, 0)), mode="edge")
    return inverse.sound((jnp.sign(spectrum) if phase_only else spectrum) * weights)


def normalised(y: np.ndarray) -> np.ndarray:
    """Scale a sound (samples,) to the largest magnitude `PEAK`; silence stays silence."""
    peak = float(np.abs(y).max(initial=0))
    return y if peak == 0 else y * np.float32(PEAK / peak)
