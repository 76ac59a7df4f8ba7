"""Front ends: from waveforms `(..., samples)` to the features `(..., frames, bins)` that a network reads.

The functions use jax.numpy: they can be compiled and differentiated. They have librosa's argument names and defaults.
**librosa returns bins first**, `(..., bins, frames)`. `FRONTENDS` maps the names that a config can use to Flax modules; the
fields of a module are its options in the config.
"""

from collections.abc import Callable
from typing import Any

from genre_jax import console
from genre_jax.frontends import published
from genre_jax.frontends.base import Frontend, Waveform
from genre_jax.frontends.compression import amplitude_to_db, log_offset, pcen, power_to_db
from genre_jax.frontends.conditioning import equalise_loudness, log_mmse, silence_mask
from genre_jax.frontends.cqt import cqt, vqt
from genre_jax.frontends.descriptors import (
    chroma_stft,
    rms,
    spectral_bandwidth,
    spectral_centroid,
    spectral_contrast,
    spectral_flatness,
    spectral_rolloff,
    summarise,
    tonnetz,
    zero_crossing_rate,
)
from genre_jax.frontends.lpc import lpc, lpcc
from genre_jax.frontends.mel import mel_filterbank, mel_spectrogram
from genre_jax.frontends.mfcc import delta, fbank_htk, lfcc, linear_filterbank, log_filterbank_htk, mfcc, mfcc_htk, preemphasis
from genre_jax.frontends.modules import (
    Cqt,
    Descriptors,
    Lfcc,
    LogMel,
    LogMelHtk,
    LogMelImage,
    Lpcc,
    Mfcc,
    MfccHtk,
    Spectrogram,
    Vqt,
)
from genre_jax.frontends.scaling import mean_max, min_max, peak_normalise, resize, standardise, z_score
from genre_jax.frontends.stft import istft, magphase, spectrogram, stft

__all__ = [
    "FRONTENDS",
    "Cqt",
    "Descriptors",
    "Frontend",
    "Lfcc",
    "LogMel",
    "LogMelHtk",
    "LogMelImage",
    "Lpcc",
    "Mfcc",
    "MfccHtk",
    "Spectrogram",
    "Vqt",
    "Waveform",
    "amplitude_to_db",
    "build",
    "chroma_stft",
    "cqt",
    "delta",
    "equalise_loudness",
    "fbank_htk",
    "istft",
    "lfcc",
    "linear_filterbank",
    "log_filterbank_htk",
    "log_mmse",
    "log_offset",
    "lpc",
    "lpcc",
    "magphase",
    "mean_max",
    "mel_filterbank",
    "mel_spectrogram",
    "mfcc",
    "mfcc_htk",
    "min_max",
    "pcen",
    "peak_normalise",
    "power_to_db",
    "preemphasis",
    "resize",
    "rms",
    "silence_mask",
    "spectral_bandwidth",
    "spectral_centroid",
    "spectral_contrast",
    "spectral_flatness",
    "spectral_rolloff",
    "spectrogram",
    "standardise",
    "stft",
    "summarise",
    "tonnetz",
    "vqt",
    "z_score",
    "zero_crossing_rate",
]

FRONTENDS: dict[str, Callable[..., Frontend]] = {
    "waveform": Waveform,
    "spectrogram": Spectrogram,
    "log_mel": LogMel,
    "log_mel_image": LogMelImage,
    "mfcc": Mfcc,
    "lfcc": Lfcc,
    "log_mel_htk": LogMelHtk,
    "mfcc_htk": MfccHtk,
    "lpcc": Lpcc,
    "cqt": Cqt,
    "vqt": Vqt,
    "descriptors": Descriptors,
    "pollack_mfcc": published.PollackMfcc,
    "schindler_log_mel": published.SchindlerLogMel,
    "schindler_cqt": published.SchindlerCqt,
    "folmer_log_mel": published.FolmerLogMel,
    "burrows_mfcc": published.BurrowsMfcc,
    "burrows_mfcc_mean": published.BurrowsMfccMean,
    "burrows_melgram": published.BurrowsMelgram,
    "choi_stft": published.ChoiStft,
    "musicnn_log_mel": published.MusicnnLogMel,
    "swishnet_mfcc": published.SwishNetMfcc,
    "swishnet_log_mel": published.SwishNetLogMel,
}


def build(name: str, sr: float, **options: Any) -> Frontend:
    """Create a front end: a Flax module from waveforms `(batch, samples)` to features `(batch, frames, bins)`.

    Args:
      name: str, a key of `FRONTENDS`.
      sr: float, sample rate of the waveforms in Hz.
      options: fields of the module, such as `n_fft`.

    Raises `UserError` if the name is unknown or the options contradict each other.
    """
    return console.pick("frontend", name, FRONTENDS)(sr=sr, **options)
