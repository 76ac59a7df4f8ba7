"""The scene in which a track of a `Difficulty` is heard: instruments, drifting tempo, room and noise."""

import dataclasses

import numpy as np
from scipy import fft, signal

from genre_jax.datasets.synthetic.difficulty import Difficulty
from genre_jax.datasets.synthetic.recipes import PITCHED, Recipe, Timbre

ROOM_RATE = 8000  # Hz; the response of a room is drawn at this rate, and the music is below half of it
DRIFT_SECONDS = (8.0, 25.0)  # range of the period in which the tempo drifts up and down


@dataclasses.dataclass(frozen=True)
class Scene:
    """What is drawn for a track from its `Difficulty`. `room` is float64 (samples,) with energy 1, without the direct sound."""

    timbres: dict[str, Timbre]
    drift: float
    drift_seconds: float
    drift_phase: float
    room: np.ndarray | None
    room_gain: float
    noise: float  # amplitude relative to the music
    noise_tilt_db: float

    @classmethod
    def draw(cls, difficulty: Difficulty, recipe: Recipe, rng: np.random.Generator, sample_rate: int) -> "Scene":
        """Draw the scene of a track."""
        room = difficulty.room and _room(rng.uniform(*difficulty.room), rng.spawn(1)[0], sample_rate)
        return cls(
            timbres={instrument: _timbre(difficulty, recipe, rng) for instrument in PITCHED},
            drift=difficulty.drift * rng.uniform(),
            drift_seconds=rng.uniform(*DRIFT_SECONDS),
            drift_phase=rng.uniform(0.0, 2 * np.pi),
            room=room,
            room_gain=_amplitude(rng.uniform(*difficulty.room_db)),
            noise=_amplitude(rng.uniform(*difficulty.noise_db)) if difficulty.noise_db else 0.0,
            noise_tilt_db=rng.uniform(-difficulty.noise_tilt_db, difficulty.noise_tilt_db),
        )

    def performed(self, time: float) -> float:
        """Returns the time of a note in seconds, at which the drifting tempo plays what the steady tempo plays at `time`."""
        turn = 2 * np.pi / self.drift_seconds
        return time - self.drift / turn * (np.cos(turn * time + self.drift_phase) - np.cos(self.drift_phase))

    def whole(self, samples: int) -> int:
        """Returns the number of samples that must be rendered for `samples`: whole blocks, in which the room is computed."""
        return samples if self.room is None else -(-samples // len(self.room)) * len(self.room)

    def heard(self, audio: np.ndarray, level: float, rng: np.random.Generator, sample_rate: int) -> np.ndarray:
        """Returns music of root mean square `level`, with a length of `whole`, in the room and in the noise."""
        if self.room is not None:
            audio = (audio + self.room_gain * _convolve(audio, self.room)) / np.sqrt(1 + self.room_gain**2)
        if self.noise:
            # Noise that is white up to half the sample rate has more power outside of the band of the music.
            amplitude = level * self.noise * np.sqrt(sample_rate / ROOM_RATE) / _amplitude(max(self.noise_tilt_db, 0.0))
            audio = audio + amplitude * tilt(rng.standard_normal(len(audio)), self.noise_tilt_db, sample_rate)
        return audio


def _timbre(difficulty: Difficulty, recipe: Recipe, rng: np.random.Generator) -> Timbre:
    if rng.uniform() >= difficulty.shared:
        return recipe.timbre
    return difficulty.timbres[rng.integers(len(difficulty.timbres))]


def tilt(audio: np.ndarray, decibels: float, sample_rate: int, pivot: float = 500.0) -> np.ndarray:
    """Apply a first-order tilt equaliser: -decibels far below the pivot frequency in Hz, +decibels far above it."""
    gain, c = 10 ** (decibels / 20), sample_rate / (np.pi * pivot)  # bilinear transform of (gain s + w) / (s + gain w)
    return signal.lfilter([gain * c + 1, 1 - gain * c], [c + gain, gain - c], audio)


def _room(seconds: float, rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Returns the impulse response of a room: noise that falls by 60 dB in `seconds`, with energy 1 and a fast length."""
    time = np.arange(1, 1 + fft.next_fast_len(round(seconds * ROOM_RATE), real=True)) / ROOM_RATE
    response = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response = signal.resample(response, round(len(time) * sample_rate / ROOM_RATE))
    response = np.pad(response, (0, fft.next_fast_len(len(response), real=True) - len(response)))
    return response / np.sqrt(np.sum(response**2))


def _convolve(audio: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve `audio`, whose length is a multiple of that of `response`, and cut what is beyond its end.

    A longer `audio` has the same blocks, and therefore the same rounding. This is not true of `scipy.signal.oaconvolve`.
    """
    size = len(response)
    spectrum = np.fft.rfft(response, 2 * size)
    blocks = np.fft.irfft(np.fft.rfft(audio.reshape(-1, size), 2 * size) * spectrum, 2 * size)
    blocks[1:, :size] += blocks[:-1, size:]
    return blocks[:, :size].reshape(-1)


def _amplitude(decibels: float) -> float:
    return float(10 ** (decibels / 20))
