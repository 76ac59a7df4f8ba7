"""Ten kinds of noise that are neither music nor speech. Some of them have a pitch, a beat or the spectrum of voices.

Each kind is a function of a random generator and a number of samples at `RATE`. What makes two recordings of a kind differ
(pitch, rate, resonances, regularity) is drawn from the generator.
"""

from collections.abc import Callable, Iterable

import numpy as np
from scipy import signal

from genre_jax.datasets.synthetic.speech import RATE


def render(kind: str, rng: np.random.Generator, samples: int) -> np.ndarray:
    """Render a noise of one of `KINDS`, float64 `(samples,)` of root mean square 1."""
    audio = KINDS[kind](rng, samples)
    return audio / np.sqrt(np.mean(audio**2))


def _coloured(rng: np.random.Generator, samples: int, low: float = -1.2, high: float = 0.3) -> np.ndarray:
    """Gaussian noise whose amplitude changes with a random power of the frequency."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum *= np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 30.0) ** rng.uniform(low, high)
    audio = np.fft.irfft(spectrum, samples)
    return audio / np.sqrt(np.mean(audio**2))


def _wander(rng: np.random.Generator, samples: int, hertz: float) -> np.ndarray:
    """A smooth random curve of about -1 to 1 that changes `hertz` times a second."""
    points = rng.uniform(-1.0, 1.0, int(samples / RATE * hertz) + 3)
    return np.interp(np.arange(samples) * hertz / RATE, np.arange(len(points)), points)


def _peak(audio: np.ndarray, hertz: float, quality: float) -> np.ndarray:
    """Resonate at a frequency, which is kept below half the sample rate."""
    return signal.lfilter(*signal.iirpeak(min(hertz, 0.45 * RATE), quality, RATE), audio)


def _strike(
    rng: np.random.Generator, onsets: Iterable[float], wave: np.ndarray, samples: int, spread: float = 4.0
) -> np.ndarray:
    """Place `wave` at each onset (seconds), with levels that deviate by `spread` dB."""
    impulses = np.zeros(samples)
    for onset in onsets:
        if 0 <= (at := round(onset * RATE)) < samples:
            impulses[at] += 10 ** (rng.normal(0.0, spread) / 20)
    return signal.fftconvolve(impulses, wave)[:samples]


def _modes(rng: np.random.Generator, hertz: float, count: int, seconds: float) -> np.ndarray:
    """A struck body: partials without a common fundamental that decay within about `seconds`."""
    time = np.arange(int(3 * seconds * RATE)) / RATE
    partials = hertz * np.cumprod(rng.uniform(1.1, 1.9, count))
    decays = seconds * rng.uniform(0.3, 1.0, count)
    levels = rng.uniform(0.2, 1.0, count) * (partials < 0.45 * RATE)
    return np.sum(levels[:, None] * np.exp(-time / decays[:, None]) * np.sin(2 * np.pi * partials[:, None] * time), axis=0)


def _wind(rng: np.random.Generator, samples: int) -> np.ndarray:
    gust = np.exp(1.5 * _wander(rng, samples, rng.uniform(0.5, 2.0)))
    whistle = _peak(rng.standard_normal(samples), rng.uniform(300, 1_500), rng.uniform(2, 15))
    return gust * (_coloured(rng, samples, -1.3, -0.6) + rng.uniform(0, 4) * whistle)


def _rain(rng: np.random.Generator, samples: int) -> np.ndarray:
    drops = rng.standard_normal(samples) * (rng.uniform(size=samples) < 10 ** rng.uniform(1.0, 3.3) / RATE)
    heard = sum(_peak(drops, hertz, rng.uniform(1, 6)) for hertz in rng.uniform(600, 6_500, 4))
    return heard / np.sqrt(np.mean(heard**2)) + rng.uniform(0.1, 1.0) * _coloured(rng, samples, -0.4, 0.4)


def _hum(rng: np.random.Generator, samples: int) -> np.ndarray:
    """A transformer, a fan or a refrigerator: a steady pitch with harmonics."""
    harmonics = np.arange(1, int(rng.integers(8, 40)))
    hertz = rng.choice([50.0, 60.0, 100.0, 120.0, rng.uniform(70, 240)]) * (1 + 0.003 * _wander(rng, samples, 1.0))
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    levels = harmonics ** -rng.uniform(0.4, 1.6) * rng.uniform(0.1, 1.0, len(harmonics))
    tone = sum(level * np.sin(n * phase + n * n) for n, level in zip(harmonics, levels, strict=True))
    return tone / np.sqrt(np.mean(tone**2)) + rng.uniform(0.1, 0.8) * _coloured(rng, samples)


def _machine(rng: np.random.Generator, samples: int) -> np.ndarray:
    """An engine, a saw or a mixer: noise and harmonics whose strength follows the turns, at a rate that changes."""
    turns = rng.uniform(8, 90) * 2 ** (rng.uniform(0, 0.8) * _wander(rng, samples, rng.uniform(0.2, 1.0)))
    phase = np.cumsum(turns) / RATE
    pulse = (0.5 + 0.5 * np.cos(2 * np.pi * phase)) ** rng.uniform(1, 12)
    audio = pulse * _coloured(rng, samples, -0.6, 0.3) + rng.uniform(0, 2) * (pulse - pulse.mean())
    for hertz in rng.uniform(150, 4_000, 3):
        audio = audio + rng.uniform(0, 2) * _peak(audio, hertz, rng.uniform(2, 10))
    return audio


def _clicks(rng: np.random.Generator, samples: int) -> np.ndarray:
    """A clock, steps or a keyboard: short strikes with a regular, an alternating or a random rhythm."""
    period, seconds = rng.uniform(0.12, 1.0), samples / RATE
    onsets = rng.uniform(0, period) + period * np.arange(int(seconds / period) + 1)
    onsets = onsets + rng.choice([0.0, 0.02, 0.5]) * period * rng.standard_normal(len(onsets))
    waves = [_modes(rng, rng.uniform(300, 2_500), 8, 10 ** rng.uniform(-2.3, -1.2)) for _ in range(2)]
    audio = sum(_strike(rng, onsets[part::2], wave, samples, 3.0) for part, wave in enumerate(waves))
    return audio / np.sqrt(np.mean(audio**2)) + 10 ** rng.uniform(-2.0, -0.5) * _coloured(rng, samples)


def _impacts(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Dishes, doors and tools: few strikes on ringing bodies."""
    audio = 10 ** rng.uniform(-2.0, -0.8) * _coloured(rng, samples)
    for _ in range(int(rng.integers(2, 5))):
        wave = _modes(rng, 10 ** rng.uniform(2.0, 3.3), 12, 10 ** rng.uniform(-1.5, -0.2))
        onsets = rng.uniform(0, samples / RATE, int(rng.integers(2, 3 * samples // RATE)))
        audio += _strike(rng, onsets, wave / np.sqrt(np.sum(wave**2)) * RATE**0.5, samples)
    return audio


def _alarm(rng: np.random.Generator, samples: int) -> np.ndarray:
    """A telephone, a ringtone or a siren: steady tones that follow each other as in a melody, or that glide."""
    time = np.arange(samples) / RATE
    period, base = rng.uniform(0.08, 0.5), rng.uniform(400, 1_400)
    step = (time / period).astype(int)
    if rng.uniform() < 0.35:  # a siren
        semitones = rng.uniform(2, 8) * (np.sin if rng.uniform() < 0.5 else _saw)(2 * np.pi * time * rng.uniform(0.2, 4.0))
    else:
        notes = rng.choice([0, 3, 4, 5, 7, 9, 12], size=int(rng.integers(1, 9)))
        semitones = notes[step % len(notes)].astype(float)
    phase = 2 * np.pi * np.cumsum(base * 2 ** (semitones / 12)) / RATE
    tone = np.sin(phase) + rng.uniform(0, 0.8) * np.sin(2 * phase) + rng.uniform(0, 0.6) * np.sin(3 * phase)
    place = time / period - step  # 0 to 1 in each note
    notes_sound = np.minimum(1, 40 * period * place) * np.exp(-place * rng.uniform(0, 4)) * (place < rng.uniform(0.4, 1.0))
    rings = (time % (ring := rng.uniform(1.0, 4.0))) < ring * rng.uniform(0.4, 1.0)
    return tone * notes_sound * rings + 10 ** rng.uniform(-2.0, -0.7) * _coloured(rng, samples)


def _saw(phase: np.ndarray) -> np.ndarray:
    return 2 * (phase / (2 * np.pi) % 1.0) - 1


def _crowd(rng: np.random.Generator, samples: int) -> np.ndarray:
    """The murmur of a hall: noise in the bands of formants, each with its slow modulation; no single voice is heard."""
    audio = np.zeros(samples)
    for hertz in np.append(rng.uniform(250, 900, 4), rng.uniform(900, 3_000, 5)):
        band = _peak(_coloured(rng, samples, -0.6, -0.3), hertz, rng.uniform(1.5, 6))
        audio += np.exp(0.7 * _wander(rng, samples, rng.uniform(2, 8))) * band * (300 / hertz) ** 0.5
    return audio


def _chirps(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Birds and insects: short gliding tones in groups that repeat."""
    time = np.arange(int(rng.uniform(0.03, 0.25) * RATE)) / RATE
    audio = 10 ** rng.uniform(-1.8, -0.7) * _coloured(rng, samples)
    for _ in range(int(rng.integers(1, 4))):
        glide = rng.uniform(1_200, 5_000) * (1 + rng.uniform(-0.4, 0.4) * time / time[-1])
        vibrato = 1 + rng.uniform(0, 0.1) * np.sin(2 * np.pi * rng.uniform(10, 60) * time)
        wave = np.sin(2 * np.pi * np.cumsum(np.minimum(glide * vibrato, 7_000)) / RATE) * np.hanning(len(time))
        group = np.arange(int(rng.integers(1, 7))) * (time[-1] + rng.uniform(0.02, 0.2))
        starts = np.cumsum(rng.uniform(0.4, 2.0, samples // RATE * 2))
        audio += _strike(rng, (starts[:, None] + group).ravel(), wave, samples)
    return audio


KINDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "coloured": _coloured,
    "wind": _wind,
    "rain": _rain,
    "hum": _hum,
    "machine": _machine,
    "clicks": _clicks,
    "impacts": _impacts,
    "alarm": _alarm,
    "crowd": _crowd,
    "chirps": _chirps,
}
