"""The song that is explained: read, checked, and cut into the windows that the network reads."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from genre_jax.console import UserError
from genre_jax.explain import attribution
from genre_jax.prepare import audio, condition, silence
from genre_jax.tagger import windows

SEARCHED = 600.0  # seconds at the start of a song in which the strongest window is looked for


class Song(NamedTuple):
    """The windows of a song.

    Attributes:
      name: name of the file.
      seconds: length of what was read.
      starts: start of each window in seconds (windows,).
      pcm: the windows as the network gets them, int16 (windows, samples); silence completes a short one.
      maximum: largest sample of what was read, for the gain cap of the run.
      lasting: samples of a window that are sound.
    """

    name: str
    seconds: float
    starts: np.ndarray
    pcm: np.ndarray
    maximum: float
    lasting: int


def read(file: str, config: ConfigDict, start: float | None = None) -> Song:
    """Read a song at the sample rate of a run and cut it into windows, or into the window that begins at `start` seconds.

    Without `start`, the windows are those of the run's evaluation in the first `SEARCHED` seconds. Raises `UserError` if the
    file cannot be read, is silent, holds numbers that are not finite, or holds less sound from `start` on than
    a window of the STFT that the page shows.
    """
    rate, samples = config.data.sample_rate, config.data.samples
    try:
        with audio.explained():
            wave = audio.load(file, rate, start or 0.0, SEARCHED if start is None else samples / rate).samples
            if not np.isfinite(wave).all():
                raise audio.AudioError("the signal holds samples that are not finite (NaN or infinity)")
            least = attribution.Cells(rate, samples).n_fft
            if len(wave) < least:
                short = f"{len(wave) / rate:.3g} s of sound are less than a window of the spectrogram"
                raise audio.AudioError(f"{short}, which needs {least / rate:.3g} s")
            if reason := silence.fault(float(np.abs(wave).max()), file, start or 0.0, SEARCHED):
                raise audio.AudioError(reason)
            wave = condition.apply(list(config.data.conditioning), wave, rate)
    except audio.AudioError as error:
        place = file if start is None else f"{file}, from --start={start:g} on"
        raise UserError(f"{place}: {error}") from error
    hop = config.evaluate.hop or samples
    cuts = list(windows([wave], samples, hop))
    peak = max(float(np.abs(wave).max()), 1.0)
    pcm = np.zeros((len(cuts), samples), np.int16)
    for row, (_, cut) in zip(pcm, cuts, strict=True):
        row[: len(cut)] = audio.to_pcm(cut, peak)
    starts = np.array([first for first, _ in cuts]) / rate + (start or 0.0)
    return Song(Path(file).name, len(wave) / rate, starts, pcm, float(wave.max()) / peak, min(samples, len(wave)))
