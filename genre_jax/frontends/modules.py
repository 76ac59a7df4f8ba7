"""The front ends of a config, except `Waveform` (`base.py`) and the published systems (`published.py`).

Each module implements `features`: waveforms `(batch, samples)` → `(batch, frames, bins)`. The fields of a module are its
options in the config. The base class `Frontend` has further options, and does everything before and after `features`.
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
    """Translate arguments of `stft` to arguments of the descriptors in the time domain."""
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
    """Base class of front ends on the short-time Fourier transform; its fields are arguments of `stft`.

    Attributes:
      n_fft: int ≥ 1, length of frames and FFT in samples.
      hop_length: int ≥ 1, samples from frame to frame.
      win_length: int in [1, n_fft], length of the window in samples. 0 means n_fft.
      window: str, a periodic window of `scipy.signal.get_window`.
      center: bool. Pads both ends by n_fft // 2 samples: frame t is centred on sample t · hop_length.
      pad_mode: str, the padding: "constant" (zeros), "reflect" or "edge".
      engine: str, "fft", "matmul" (a matrix product) or "auto" (the faster one).
    """

    n_fft: int = 2048
    hop_length: int = 512
    win_length: int = 0
    window: str = "hann"
    center: bool = True
    pad_mode: str = "constant"
    engine: str = "auto"

    def stft_options(self) -> dict[str, Any]:
        """Return the fields as keyword arguments of `stft`."""
        names = ("n_fft", "hop_length", "window", "center", "pad_mode", "engine")
        return {name: getattr(self, name) for name in names} | {"win_length": self.win_length or None}


class Spectrogram(StftFrontend):
    """|STFT|^power, `(batch, samples)` → `(batch, frames, 1 + n_fft // 2)`.

    Attributes:
      power: float > 0, exponent of the magnitude.
      compression: str, "none", "db", "db_below_max", "ln", "log10" or "pcen"; see `compress`.
      top_db: float ≥ 0, range of "db" and "db_below_max" in dB. 0 means no limit.
    """

    power: float = 1.0
    compression: str = "none"
    top_db: float = 80.0

    def features(self, y):
        return _compressed(self, spectrogram(y, power=self.power, **self.stft_options()))


class MelFrontend(StftFrontend):
    """Base class of front ends on the mel spectrogram; its fields are arguments of `mel_spectrogram`.

    Attributes:
      power: float > 0, exponent of the magnitude spectrum before the filters (1: magnitude, 2: power).
      n_mels: int ≥ 1, number of mel filters.
      fmin, fmax: float, band of the filters in Hz, 0 ≤ fmin < fmax ≤ sr / 2. An fmax of 0 means sr / 2.
      htk: bool. Uses the mel scale of HTK instead of Slaney's.
      norm: str, "slaney" (filters of equal area) or "none" (filters of peak 1).
    """

    power: float = 2.0
    n_mels: int = 128
    fmin: float = 0.0
    fmax: float = 0.0
    htk: bool = False
    norm: str = "slaney"

    def mel_options(self) -> dict[str, Any]:
        """Return the fields as keyword arguments of `mel_spectrogram`, except `norm`."""
        names = ("sr", "power", "n_mels", "fmin", "htk")
        return self.stft_options() | {name: getattr(self, name) for name in names} | {"fmax": self.fmax or None}


class LogMel(MelFrontend):
    """Compressed mel spectrogram, `(batch, samples)` → `(batch, frames, n_mels)`.

    The defaults are those of document 000: dB below the maximum of the clip, in [-80, 0]. The values equal
    `librosa.power_to_db(librosa.feature.melspectrogram(…), ref=np.max)`, transposed.

    Attributes:
      compression: str, "none", "db", "db_below_max", "ln", "log10" or "pcen"; see `compress`.
      top_db: float ≥ 0, range of "db" and "db_below_max" in dB. 0 means no limit.
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
    """`LogMel` as the image of document 000, `(batch, samples)` → `(batch, 224, 224, 1)`.

    48,000 samples give 112 × 161 pixels before the resize.
    """

    image: bool = True
    height: int = 224
    width: int = 224
    align_corners: bool = True


class Mfcc(MelFrontend):
    """The MFCC of librosa (`mfcc`), `(batch, samples)` → `(batch, frames, n_mfcc)`.

    Attributes:
      n_mfcc: int in [1, n_mels], number of coefficients.
      lifter: float ≥ 0, liftering of the coefficients. 0 means none.
    """

    n_mfcc: int = 20
    lifter: float = 0.0

    def features(self, y):
        return mfcc(y, n_mfcc=self.n_mfcc, lifter=self.lifter, mel_norm=self.norm, **self.mel_options())


class Lfcc(StftFrontend):
    """Cepstral coefficients of linearly spaced filters (`lfcc`), `(batch, samples)` → `(batch, frames, n_lfcc)`.

    Attributes:
      n_lfcc: int in [1, n_filters], number of coefficients.
      n_filters: int ≥ 1, number of filters.
      fmin, fmax: float, band of the filters in Hz, 0 ≤ fmin < fmax ≤ sr / 2. An fmax of 0 means sr / 2.
    """

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
    """The log mel energies of python_speech_features (`fbank_htk`), `(batch, samples)` → `(batch, frames, n_mels)`.

    Attributes:
      win_length: int in [1, n_fft], frame length in samples.
      hop_length: int ≥ 1, samples from frame to frame.
      n_fft: int, FFT length in samples.
      window: str, "boxcar", "hamming", "hann", "blackman" or "bartlett" (symmetric).
      n_mels: int ≥ 1, number of mel filters.
      fmin, fmax: float, band of the filters in Hz, 0 ≤ fmin < fmax ≤ sr / 2. An fmax of 0 means sr / 2.
      preemph: float, coefficient of the pre-emphasis. 0 means none.
    """

    win_length: int = 400
    hop_length: int = 160
    n_fft: int = 512
    window: str = "boxcar"
    n_mels: int = 26
    fmin: float = 0.0
    fmax: float = 0.0
    preemph: float = 0.97

    def htk_options(self) -> dict[str, Any]:
        """Return the fields as keyword arguments of `fbank_htk`."""
        names = ("sr", "win_length", "hop_length", "n_fft", "window", "n_mels", "fmin", "preemph")
        return {name: getattr(self, name) for name in names} | {"fmax": self.fmax or None}

    def features(self, y):
        return log_filterbank_htk(y, **self.htk_options())


class MfccHtk(LogMelHtk):
    """The MFCC of python_speech_features (`mfcc_htk`), `(batch, samples)` → `(batch, frames, n_mfcc)`.

    Attributes:
      n_mfcc: int in [1, n_mels], number of coefficients.
      lifter: float ≥ 0, liftering of the coefficients. 0 means none.
      use_energy: bool. Replaces coefficient 0 by the logarithm of the frame's energy.
    """

    n_mfcc: int = 13
    lifter: float = 22.0
    use_energy: bool = True

    def features(self, y):
        return mfcc_htk(y, n_mfcc=self.n_mfcc, lifter=self.lifter, use_energy=self.use_energy, **self.htk_options())


class Lpcc(Frontend):
    """Linear prediction cepstral coefficients (`lpcc`), `(batch, samples)` → `(batch, frames, order + 1)`.

    Attributes:
      order: int in [1, frame_length - 1], order of the prediction.
      frame_length: int ≥ 2, in samples.
      hop_length: int ≥ 1, samples from frame to frame.
      window: str, a periodic window of `scipy.signal.get_window`.
    """

    order: int = 12
    frame_length: int = 2048
    hop_length: int = 512
    window: str = "hann"

    def features(self, y):
        return lpcc(y, order=self.order, frame_length=self.frame_length, hop_length=self.hop_length, window=self.window)


class Vqt(Frontend):
    """Magnitude of the variable-Q transform (`vqt`), `(batch, samples)` → `(batch, frames, n_bins)`.

    Attributes:
      hop_length: int ≥ 1, samples from frame to frame.
      fmin: float, centre of the lowest bin in Hz. 0 means C1, 32.703 Hz.
      n_bins: int ≥ 1, number of bins. The highest bin must lie below sr / 2.
      gamma: float, Hz added to the bandwidth of each filter. A negative value means the default of `vqt`.
      bins_per_octave: int ≥ 1.
      filter_scale: float > 0, factor of the filter lengths.
      window: str, a periodic window of `scipy.signal.get_window`.
      pad_mode: str, padding of both ends: "constant" (zeros), "reflect" or "edge".
      compression: str, "none", "db", "db_below_max", "ln", "log10" or "pcen"; see `compress`.
      top_db: float ≥ 0, range of "db" and "db_below_max" in dB. 0 means no limit.
    """

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
    power = 1.0  # for `compress`: the spectrum is a magnitude

    def features(self, y):
        z = vqt(
            y, sr=self.sr, hop_length=self.hop_length, fmin=self.fmin or None, n_bins=self.n_bins,
            gamma=None if self.gamma < 0 else self.gamma, bins_per_octave=self.bins_per_octave,
            filter_scale=self.filter_scale, window=self.window, pad_mode=self.pad_mode,
        )  # fmt: skip
        return _compressed(self, magphase(z)[0])


class Cqt(Vqt):
    """Magnitude of the constant-Q transform (`cqt`), `(batch, samples)` → `(batch, frames, n_bins)`."""

    gamma: float = 0.0


class Descriptors(StftFrontend):
    """Concatenated descriptors, `(batch, samples)` → `(batch, frames, sum of the descriptors' sizes)`.

    Document 002 proposes these descriptors. `rms` and `zero_crossing_rate` use frames of n_fft samples.

    Attributes:
      names: tuple of at least one name from `DESCRIPTORS`. Default: all.
    """

    names: tuple[str, ...] = tuple(DESCRIPTORS)

    def features(self, y):
        # An empty tuple raises the same error as an unknown name, with the list of legal names.
        functions = [console.pick("descriptor", name, DESCRIPTORS) for name in self.names or ("",)]
        return jnp.concatenate([function(y, self.sr, self.stft_options()) for function in functions], -1)


def _compressed(frontend: Any, x: jax.Array) -> jax.Array:
    """Compress the spectrogram `x` (batch, frames, bins) with the options of the front end."""
    return compress(
        x, frontend.compression, power=frontend.power, top_db=frontend.top_db or None, sr=frontend.sr,
        hop_length=frontend.hop_length,
    )  # fmt: skip
