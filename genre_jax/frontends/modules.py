"""The front ends that a config can name, as small Flax modules: waveforms `(batch, samples)` to what a network reads.

A module's fields are its options. All of them condition the waveform, take features `(batch, frames, bins)`, scale them,
and shape them for the network; each differs in its `features` alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genre_jax import console
from genre_jax.frontends.base import Frontend
from genre_jax.frontends.compression import compress
from genre_jax.frontends.cqt import vqt
from genre_jax.frontends.descriptors import (
    chroma_stft,
    rms,
    spectral_bandwidth,
    spectral_centroid,
    spectral_contrast,
    spectral_flatness,
    spectral_rolloff,
    tonnetz,
    zero_crossing_rate,
)
from genre_jax.frontends.lpc import lpcc
from genre_jax.frontends.mel import mel_spectrogram
from genre_jax.frontends.mfcc import lfcc, log_filterbank_htk, mfcc, mfcc_htk
from genre_jax.frontends.stft import magphase, spectrogram


def _framed(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of descriptors in time for those of `stft`."""
    return {"frame_length": options["n_fft"], "hop_length": options["hop_length"], "center": options["center"]}


DESCRIPTORS: dict[str, Callable[[jax.Array, float, dict[str, Any]], jax.Array]] = {
    "chroma_stft": lambda y, sr, options: chroma_stft(y, sr=sr, **options),
    "spectral_centroid": lambda y, sr, options: spectral_centroid(y, sr=sr, **options),
    "spectral_bandwidth": lambda y, sr, options: spectral_bandwidth(y, sr=sr, **options),
    "spectral_contrast": lambda y, sr, options: spectral_contrast(y, sr=sr, **options),
    "spectral_rolloff": lambda y, sr, options: spectral_rolloff(y, sr=sr, **options),
    "spectral_flatness": lambda y, sr, options: spectral_flatness(y, **options),
    "tonnetz": lambda y, sr, options: tonnetz(y, sr=sr, **options),
    "zero_crossing_rate": lambda y, sr, options: zero_crossing_rate(y, **_framed(options)),
    "rms": lambda y, sr, options: rms(y, pad_mode=options["pad_mode"], **_framed(options)),
}


class StftFrontend(Frontend):
    """Fields that are arguments of `stft`; win_length 0 stands for n_fft."""

    n_fft: int = 2048
    hop_length: int = 512
    win_length: int = 0
    window: str = "hann"
    center: bool = True
    pad_mode: str = "constant"
    engine: str = "auto"

    def stft_options(self) -> dict[str, Any]:
        """The arguments of `stft` that the fields stand for."""
        names = ("n_fft", "hop_length", "window", "center", "pad_mode", "engine")
        return {name: getattr(self, name) for name in names} | {"win_length": self.win_length or None}


class Spectrogram(StftFrontend):
    """|STFT|^power `(batch, frames, 1 + n_fft // 2)`, with the compression that `compress` calls by this name."""

    power: float = 1.0
    compression: str = "none"
    top_db: float = 80.0

    def features(self, y):
        return _compressed(self, spectrogram(y, power=self.power, **self.stft_options()))


class MelFrontend(StftFrontend):
    """Fields that are arguments of `mel_spectrogram`; fmax 0 stands for sr / 2."""

    power: float = 2.0
    n_mels: int = 128
    fmin: float = 0.0
    fmax: float = 0.0
    htk: bool = False
    norm: str = "slaney"

    def mel_options(self) -> dict[str, Any]:
        """The arguments of `mel_spectrogram` that the fields stand for, without its `norm`."""
        names = ("sr", "power", "n_mels", "fmin", "htk")
        return self.stft_options() | {name: getattr(self, name) for name in names} | {"fmax": self.fmax or None}


class LogMel(MelFrontend):
    """Mel spectrogram `(batch, frames, n_mels)`, by default in dB below the clip's maximum, within [-80, 0].

    The defaults are document 000's, and equal `librosa.power_to_db(librosa.feature.melspectrogram(…), ref=np.max)` transposed.
    """

    n_fft: int = 600
    hop_length: int = 300
    pad_mode: str = "reflect"
    n_mels: int = 112
    compression: str = "db_below_max"
    top_db: float = 80.0

    def features(self, y):
        return _compressed(self, mel_spectrogram(y, norm=self.norm, **self.mel_options()))


class LogMelImage(LogMel):
    """`LogMel` as document 000's image `(batch, 224, 224, 1)`: 112 × 161 for 48,000 samples, resized with aligned corners."""

    image: bool = True
    height: int = 224
    width: int = 224
    align_corners: bool = True


class Mfcc(MelFrontend):
    """librosa's MFCC: cosine transform of the mel spectrogram in dB, `(batch, frames, n_mfcc)`."""

    n_mfcc: int = 20
    lifter: float = 0.0

    def features(self, y):
        return mfcc(y, n_mfcc=self.n_mfcc, lifter=self.lifter, mel_norm=self.norm, **self.mel_options())


class Lfcc(StftFrontend):
    """Cepstral coefficients of linearly spaced filters, `(batch, frames, n_lfcc)`; fmax 0 stands for sr / 2."""

    n_lfcc: int = 20
    n_filters: int = 128
    fmin: float = 0.0
    fmax: float = 0.0

    def features(self, y):
        return lfcc(
            y, sr=self.sr, n_lfcc=self.n_lfcc, n_filters=self.n_filters, fmin=self.fmin, fmax=self.fmax or None,
            **self.stft_options(),
        )  # fmt: skip


class LogMelHtk(Frontend):
    """python_speech_features' log mel energies, `(batch, frames, n_mels)`; fmax 0 stands for sr / 2."""

    win_length: int = 400
    hop_length: int = 160
    n_fft: int = 512
    window: str = "boxcar"
    n_mels: int = 26
    fmin: float = 0.0
    fmax: float = 0.0
    preemph: float = 0.97

    def htk_options(self) -> dict[str, Any]:
        """The arguments of `fbank_htk` that the fields stand for."""
        names = ("sr", "win_length", "hop_length", "n_fft", "window", "n_mels", "fmin", "preemph")
        return {name: getattr(self, name) for name in names} | {"fmax": self.fmax or None}

    def features(self, y):
        return log_filterbank_htk(y, **self.htk_options())


class MfccHtk(LogMelHtk):
    """python_speech_features' MFCC, `(batch, frames, n_mfcc)`."""

    n_mfcc: int = 13
    lifter: float = 22.0
    use_energy: bool = True

    def features(self, y):
        return mfcc_htk(y, n_mfcc=self.n_mfcc, lifter=self.lifter, use_energy=self.use_energy, **self.htk_options())


class Lpcc(Frontend):
    """Linear prediction cepstral coefficients, `(batch, frames, order + 1)`."""

    order: int = 12
    frame_length: int = 2048
    hop_length: int = 512
    window: str = "hann"

    def features(self, y):
        return lpcc(y, order=self.order, frame_length=self.frame_length, hop_length=self.hop_length, window=self.window)


class Vqt(Frontend):
    """Magnitude of the variable-Q transform `(batch, frames, n_bins)`; fmin 0 stands for C1, gamma below 0 for the ear's."""

    hop_length: int = 512
    fmin: float = 0.0
    n_bins: int = 84
    gamma: float = -1.0
    bins_per_octave: int = 12
    filter_scale: float = 1.0
    window: str = "hann"
    pad_mode: str = "constant"
    compression: str = "none"
    top_db: float = 80.0
    power = 1.0  # what `compress` is told

    def features(self, y):
        z = vqt(
            y, sr=self.sr, hop_length=self.hop_length, fmin=self.fmin or None, n_bins=self.n_bins,
            gamma=None if self.gamma < 0 else self.gamma, bins_per_octave=self.bins_per_octave,
            filter_scale=self.filter_scale, window=self.window, pad_mode=self.pad_mode,
        )  # fmt: skip
        return _compressed(self, magphase(z)[0])


class Cqt(Vqt):
    """Magnitude of the constant-Q transform `(batch, frames, n_bins)`."""

    gamma: float = 0.0


class Descriptors(StftFrontend):
    """The descriptors called `names`, side by side, `(batch, frames, sum of their sizes)`; with `statistics`, a vector a clip.

    Document 002 wished to try these. Frames of `rms` and `zero_crossing_rate` are n_fft long.
    """

    names: tuple[str, ...] = tuple(DESCRIPTORS)

    def features(self, y):
        # No name at all gets the error that lists the legal ones.
        functions = [console.pick("descriptor", name, DESCRIPTORS) for name in self.names or ("",)]
        return jnp.concatenate([function(y, self.sr, self.stft_options()) for function in functions], -1)


def _compressed(frontend: Any, x: jax.Array) -> jax.Array:
    return compress(
        x, frontend.compression, power=frontend.power, top_db=frontend.top_db or None, sr=frontend.sr,
        hop_length=frontend.hop_length,
    )  # fmt: skip
