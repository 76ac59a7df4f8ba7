"""The cases of `bench frontends`: our functions, and the options with which the peers compute the same."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from genre_jax import frontends


@dataclasses.dataclass(frozen=True)
class Case:
    """A front end on a batch of signals.

    Attributes:
      title: name of the case in the table.
      clips, seconds, sr: number of signals, their length in seconds, and their sample rate in Hz.
      ours: this library's function of (signals, STFT engine).
      options: the arguments of librosa's function.
      engines: STFT engines to time; ("",) if the front end has none.
      int16: whether the signals are int16 on the device, and the conversion to float32 is timed, too.
      accelerator: whether the case is too large for a CPU.
    """

    title: str
    clips: int
    seconds: float
    sr: int
    ours: Callable[[jax.Array, str], jax.Array]
    options: dict[str, Any]
    engines: tuple[str, ...] = ("fft", "matmul")
    int16: bool = False
    accelerator: bool = False


MEL: dict[str, Any] = {"n_fft": 600, "hop_length": 300, "n_mels": 112, "pad_mode": "reflect"}
MFCC = MEL | {"n_mels": 64, "n_mfcc": 12}
STFT: dict[str, Any] = {"n_fft": 2048, "hop_length": 512}
CQT: dict[str, Any] = {"hop_length": 512, "n_bins": 84}


def _log_mel(y: jax.Array, engine: str) -> jax.Array:
    return frontends.power_to_db(frontends.mel_spectrogram(y, sr=16_000, engine=engine, **MEL), top_db=None)


def _mfcc(y: jax.Array, engine: str) -> jax.Array:
    return frontends.mfcc(y, sr=16_000, engine=engine, **MFCC)


def _stft(y: jax.Array, engine: str) -> jax.Array:
    return frontends.stft(y, engine=engine, **STFT)


def _cqt(y: jax.Array, engine: str) -> jax.Array:
    del engine
    return frontends.cqt(y, sr=22_050, **CQT)


CASES = {
    "log_mel": Case("log-mel 600 / 300 / 112 in dB", 32, 10, 16_000, _log_mel, MEL),
    "mfcc": Case("12 MFCC of 64 mels, 600 / 300", 32, 10, 16_000, _mfcc, MFCC),
    "stft": Case("STFT 2048 / 512", 4, 30, 22_050, _stft, STFT),
    "cqt_short": Case("CQT, 84 bins", 32, 1, 22_050, _cqt, CQT, engines=("",)),
    "cqt_long": Case("CQT, 84 bins", 4, 30, 22_050, _cqt, CQT, engines=("",)),
    "log_mel_1024": Case(
        "log-mel 600 / 300 / 112 in dB from int16", 1024, 10, 16_000, _log_mel, MEL, int16=True, accelerator=True
    ),
}


def signal(name: str, seconds: float) -> np.ndarray:
    """Return the case's waveforms `(clips, samples)`: float32 noise, rounded to 16 bits if the case is `int16`."""
    case = CASES[name]
    y = np.random.default_rng(0).normal(0, 0.1, (case.clips, round(seconds * case.sr))).astype(np.float32)
    return np.round(y * 32768).astype(np.int16).astype(np.float32) / 32768 if case.int16 else y
