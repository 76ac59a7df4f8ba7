"""Render the files of `synthetic_musan`: music, noise and speech without words, the classes of MUSAN.

All classes pass the same chain of a recording: a room, faint noise in the background, an equaliser, a band limit, a level.
Therefore neither the loudness nor the mean spectrum alone tells the class. Everything is rendered at 16 kHz, the rate of
MUSAN, and resampled.
"""

import dataclasses

import numpy as np
from scipy import signal

from genre_jax.console import unknown
from genre_jax.datasets.synthetic import MUSAN_CLASSES, music, noises, speech
from genre_jax.datasets.synthetic.difficulty import HARD
from genre_jax.datasets.synthetic.recipes import GENRES, RECIPES
from genre_jax.datasets.synthetic.scene import Scene, tilt

SECONDS = (6.0, 12.0)
BACKGROUND_DB = (-40.0, -12.0)  # of the noise in the background, relative to the sound
LEVEL_DB = (-32.0, -14.0)  # root mean square, relative to full scale
DRY = dataclasses.replace(HARD, room=None, noise_db=None)  # music before the chain
NARROWEST = 3_400.0  # Hz; the lowest band limit


def render(label: str, number: int, split: str = "train", *, sample_rate: int = speech.RATE) -> np.ndarray:
    """Render a file as float32 (samples,) in (-0.95, 0.95). The result depends on the arguments alone.

    Args:
      label: one of `MUSAN_CLASSES`.
      number: number of the file, 0 or more, without upper limit. Ten successive files have the ten genres or kinds of noise.
      split: one of `music.SPLITS`, which share no files.
      sample_rate: sample rate in Hz, 8000 or more.

    Raises:
      UserError: unknown class or split, negative number, or a sample rate that is too small.
    """
    if label not in MUSAN_CLASSES:
        raise unknown("class", label, MUSAN_CLASSES)
    if split not in music.SPLITS:
        raise unknown("split", split, music.SPLITS)
    rng = np.random.default_rng([MUSAN_CLASSES.index(label), music.SPLITS.index(split), music.natural("number", number)])
    seconds = round(rng.uniform(*SECONDS), 1)
    length = music.count_samples(sample_rate, seconds)
    samples = round(seconds * speech.RATE)
    scene = Scene.draw(HARD, RECIPES[GENRES[0]], rng, speech.RATE)
    audio = _sound(label, number, split, rng, scene.whole(samples))
    audio = _recorded(audio, scene, rng)[:samples]
    step = np.gcd(sample_rate, speech.RATE)
    return music.limit(signal.resample_poly(audio, sample_rate // step, speech.RATE // step)[:length])


def _sound(label: str, number: int, split: str, rng: np.random.Generator, samples: int) -> np.ndarray:
    """Returns the sound of a file at 16 kHz before it is recorded, with root mean square 1."""
    if label == "speech":
        return speech.speak(rng, samples)
    if label == "noise":
        return noises.render(list(noises.KINDS)[number % len(noises.KINDS)], rng, samples)
    group, genre = divmod(number, len(GENRES))
    seconds = samples / speech.RATE
    audio = music.render(GENRES[genre], group, split, sample_rate=speech.RATE, seconds=seconds, difficulty=DRY).astype(float)
    audio /= np.sqrt(np.mean(audio**2))
    drive = rng.uniform(0.3, 2.0)  # the overtones of an overdriven amplifier, because the music itself ends at 3.7 kHz
    bright = tilt(np.tanh(drive * audio) ** 3, 12.0, speech.RATE, pivot=3_000.0)
    return audio + rng.uniform(0.1, 1.0) * bright


def _recorded(audio: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Record a sound: background, room, equaliser, band limit and level are drawn in the same way for every class."""
    kind = list(noises.KINDS)[rng.integers(len(noises.KINDS))]
    audio = audio + 10 ** (rng.uniform(*BACKGROUND_DB) / 20) * noises.render(kind, rng, len(audio))
    audio = scene.heard(audio, 1.0, rng, speech.RATE)
    audio = tilt(audio, rng.uniform(-8.0, 8.0), speech.RATE, pivot=10 ** rng.uniform(2.5, 3.3))
    high = rng.uniform(NARROWEST, 7_900.0)
    audio = signal.sosfilt(signal.butter(4, [rng.uniform(20.0, 250.0), high], "bandpass", fs=speech.RATE, output="sos"), audio)
    return 10 ** (rng.uniform(*LEVEL_DB) / 20) * audio / np.sqrt(np.mean(audio**2))
