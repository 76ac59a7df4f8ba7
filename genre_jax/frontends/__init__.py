"""Front ends: from waveforms `(batch, samples)` to what a network reads, in jnp, jittable and differentiable.

The functions of `stft`, `mel` and `scaling` carry librosa's argument names and defaults and give `(..., frames, bins)`:
**librosa has bins first**. `FRONTENDS` holds what a config can name: `frontend(waveform, sr, **options)`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from genre_jax.frontends.mel import mel_filterbank, mel_spectrogram, power_to_db
from genre_jax.frontends.scaling import peak_normalise, resize
from genre_jax.frontends.stft import spectrogram, stft

__all__ = [
    "FRONTENDS",
    "build",
    "log_mel",
    "log_mel_image",
    "mel_filterbank",
    "mel_spectrogram",
    "peak_normalise",
    "power_to_db",
    "resize",
    "spectrogram",
    "stft",
    "waveform",
]


def waveform(y: jax.Array, sr: float) -> jax.Array:
    """The raw signal `(..., samples, 1)`, minus its mean, divided by its largest magnitude (document 000's ByteNet)."""
    del sr
    return peak_normalise(y)[..., None]


def log_mel(
    y: jax.Array,
    sr: float,
    *,
    n_fft: int = 600,
    hop_length: int = 300,
    n_mels: int = 112,
    fmin: float = 0.0,
    fmax: float = 0.0,
    htk: bool = False,
    norm: str = "slaney",
    pad_mode: str = "reflect",
    top_db: float = 80.0,
) -> jax.Array:
    """Mel power spectrogram in dB below the clip's maximum, `(..., frames, n_mels)` in [-top_db, 0].

    The defaults are document 000's, and equal `librosa.power_to_db(librosa.feature.melspectrogram(…), ref=np.max)`
    transposed. `fmax=0` stands for sr / 2.
    """
    power = mel_spectrogram(
        y, sr=sr, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels, fmin=fmin, fmax=fmax or None, htk=htk, norm=norm,
        pad_mode=pad_mode,
    )  # fmt: skip
    return power_to_db(power, ref="max", top_db=top_db)


def log_mel_image(
    y: jax.Array,
    sr: float,
    *,
    height: int = 224,
    width: int = 224,
    align_corners: bool = True,
    n_fft: int = 600,
    hop_length: int = 300,
    n_mels: int = 112,
    fmin: float = 0.0,
    fmax: float = 0.0,
    htk: bool = False,
    norm: str = "slaney",
    pad_mode: str = "reflect",
    top_db: float = 80.0,
) -> jax.Array:
    """`log_mel` as an image `(..., height, width, 1)`: rows are mel bands, columns time, bilinearly resized.

    The defaults are document 000's: 112 × 161 for 48,000 samples, resized to 224 × 224 with aligned corners.
    """
    decibels = log_mel(
        y, sr, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=htk, norm=norm,
        pad_mode=pad_mode, top_db=top_db,
    )  # fmt: skip
    return resize(jnp.swapaxes(decibels, -1, -2), height, width, align_corners=align_corners)[..., None]


FRONTENDS: dict[str, Callable] = {"waveform": waveform, "log_mel": log_mel, "log_mel_image": log_mel_image}


def build(name: str, sr: float, **options) -> Callable[[jax.Array], jax.Array]:
    """The front end `name` at `sr` Hz as a function of the waveform alone."""
    return functools.partial(FRONTENDS[name], sr=sr, **options)
