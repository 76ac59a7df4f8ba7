"""Render tracks of the synthetic genres, noise and babble in NumPy from a seed.

A track is the recipe of its genre, with a `Draw` (key, tempo, timbre) and a performance (melody, timing, levels, equaliser)
that are random for each track. The same arguments give the same track, and a shorter rendering is the beginning of a longer
one.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import signal

from genre_jax.console import UserError, unknown
from genre_jax.datasets.synthetic.difficulty import PLAIN, Difficulty
from genre_jax.datasets.synthetic.recipes import GENRES, INSTRUMENTS, RECIPES, Recipe, Timbre
from genre_jax.datasets.synthetic.scene import Scene, tilt

SPLITS = ("train", "validation", "test")
TOP_HZ = 3700.0  # highest frequency of pitched sound
TREMOLO_HZ = 9.0
RELEASE = 0.015  # seconds in which a note fades out
TUNING_CENTS = 40.0  # largest deviation of the tuning of a track
LOUDNESS = 0.12  # root mean square of a track before its random gain
GAIN_DB, SWELL_DB = 3.0, 5.0
PHRASE = 8  # bars that are composed for a track; they repeat
CELLS = 32  # cells into which each range of values is cut; every cell belongs to one split
_SHARE = ("train", "validation", "train", "test")  # the splits of four successive cells
_KEYS = {"train": (0, 2, 4, 6, 8, 10), "validation": (1, 5, 9), "test": (3, 7, 11)}
_DRAW, _PERFORMANCE, _OVERLAY, _NOISE, _BABBLE, _SCENE = range(6)  # independent random streams


@dataclasses.dataclass(frozen=True)
class Draw:
    """The values drawn for a track, from cells that belong to its split alone."""

    key: int  # semitones above C
    tuning: float  # cents above A = 440 Hz
    tempo: float  # beats per minute
    brightness: float  # 0 to 1: how strong the upper harmonics are
    decay: float  # 0 to 1: how long notes sound
    drum: float  # 0 to 1: how high the drums are tuned


def draw(genre: str, track: int, split: str = "train", difficulty: Difficulty = PLAIN) -> Draw:
    """Draw the key, tempo and timbre of a track. No value of one split can be drawn in another split.

    Every key belongs to one split. The tempo range of the genre and the other ranges are cut into `CELLS` cells, of which
    half belong to train, a quarter to validation and a quarter to test.

    Raises:
      UserError: unknown genre or split, or negative track.
    """
    rng = _random(_DRAW, *_identity(genre, track, split))
    low, high = difficulty.tempi(RECIPES[genre])
    cells = [cell for cell in range(CELLS) if _SHARE[cell % len(_SHARE)] == split]

    def unit() -> float:
        """Draw a value in [0, 1] from a cell of the split."""
        return float((rng.choice(cells) + rng.uniform(0.01, 0.99)) / CELLS)

    return Draw(
        key=int(rng.choice(_KEYS[split])),
        tuning=TUNING_CENTS * (2 * unit() - 1),
        tempo=low + (high - low) * unit(),
        brightness=unit(),
        decay=unit(),
        drum=unit(),
    )


def render(
    genre: str,
    track: int,
    split: str = "train",
    *,
    sample_rate: int = 16000,
    seconds: float = 10.0,
    difficulty: Difficulty = PLAIN,
) -> np.ndarray:
    """Render a track as float32 (samples,) in (-0.95, 0.95). The result depends on the arguments alone.

    Args:
      genre: one of `GENRES`.
      track: number of the track, 0 or more, without upper limit.
      split: one of `SPLITS`, which share neither tracks nor draws (see `draw`).
      sample_rate: sample rate in Hz, 8000 or more.
      seconds: length in seconds; a shorter rendering is the beginning of a longer one.
      difficulty: the ranges that the track draws from, and the scene in which it is heard.

    Raises:
      UserError: unknown genre or split, negative track, or a sample rate or length that is too small.
    """
    samples = count_samples(sample_rate, seconds)
    drawn = draw(genre, track, split, difficulty)
    recipe = RECIPES[genre]
    rng, scene_rng = (_random(stream, *_identity(genre, track, split)) for stream in (_PERFORMANCE, _SCENE))
    scene = Scene.draw(difficulty, recipe, scene_rng, sample_rate)
    phrase = PHRASE * _bar_seconds(recipe, drawn)
    first = int(rng.integers(len(recipe.harmony.progression)))  # chord of the first bar
    start = rng.uniform() * phrase / PHRASE  # time in the first bar at which the track begins
    ranges = (difficulty.tilt_db, GAIN_DB, SWELL_DB)
    tilt_db, gain_db, swell_db = rng.uniform((-ranges[0], -ranges[1], 0.0), ranges)
    swell_seconds, swell_phase = rng.uniform((3.0, 0.0), (8.0, 2 * np.pi))
    mix, spread = dataclasses.asdict(recipe.mix), difficulty.level_db
    levels = {part: 10 ** ((level + rng.uniform(-spread, spread)) / 20) for part, level in mix.items()}

    audio = np.zeros(scene.whole(samples))
    for instrument, instrument_rng in zip(INSTRUMENTS, rng.spawn(len(INSTRUMENTS)), strict=True):
        notes = list(_compose(instrument, recipe, scene.timbres, drawn, first, instrument_rng, sample_rate))
        power = sum(float(wave @ wave) for _, wave in notes) / (phrase * sample_rate)
        stem = np.zeros(len(audio))
        for repeat in range(
            int((start + len(audio) / sample_rate) / phrase) + 2
        ):  # one more, because its first notes may come early
            for onset, wave in notes:
                _add(stem, wave, round(scene.performed(repeat * phrase + onset - start) * sample_rate))
        audio += levels[instrument] / np.sqrt(power) * stem
    audio += levels["hiss"] * signal.lfilter([0.4], [1.0, -0.9], rng.standard_normal(len(audio)))
    loudness = np.sqrt(sum(level**2 for level in levels.values()))
    audio = scene.heard(audio, loudness, scene_rng, sample_rate)[:samples]
    audio = tilt(audio, tilt_db, sample_rate) / loudness
    swell = swell_db * np.sin(2 * np.pi / (swell_seconds * sample_rate) * np.arange(samples) + swell_phase)
    return limit(LOUDNESS * audio * 10 ** ((gain_db + swell) / 20))


def render_multilabel(
    track: int, split: str = "train", *, sample_rate: int = 16000, seconds: float = 10.0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Render a mixture of one to three genres at equal loudness; returns it with the names of the genres in `GENRES` order.

    The mixture is made of the tracks of these genres with the same number and split. Therefore the splits of mixtures are
    disjoint too. Arguments and errors are those of `render`.
    """
    rng = _random(_OVERLAY, *_identity(GENRES[0], track, split))
    chosen = sorted(rng.choice(len(GENRES), size=rng.integers(1, 4), replace=False))
    parts = [render(GENRES[i], track, split, sample_rate=sample_rate, seconds=seconds) for i in chosen]
    audio = np.sum([part / np.sqrt(np.mean(part**2)) for part in parts], axis=0)
    return limit(audio * (LOUDNESS / np.sqrt(len(parts)))), tuple(GENRES[i] for i in chosen)


def _random(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))


def _identity(genre: str, track: int, split: str) -> tuple[int, int, int]:
    """Returns the numbers that seed a track."""
    if genre not in RECIPES:
        raise unknown("genre", genre, GENRES)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    return GENRES.index(genre), SPLITS.index(split), natural("track", track)


def natural(name: str, value: int) -> int:
    """Returns `value`. Raises `UserError` if it is negative."""
    if value < 0:
        raise UserError(f"{name} must be 0 or more, not {value}")
    return value


def count_samples(sample_rate: int, seconds: float) -> int:
    """Returns the number of samples. Raises `UserError` if the sample rate or the length is too small."""
    if sample_rate < 8000:
        raise UserError(f"sample_rate must be 8000 Hz or more, not {sample_rate}")
    if round(seconds * sample_rate) < 1:
        raise UserError(f"seconds must make at least one sample, not {seconds}")
    return round(seconds * sample_rate)


def _add(audio: np.ndarray, wave: np.ndarray, begin: int) -> None:
    """Add `wave` to `audio` in place from sample `begin` on. Samples outside `audio` are dropped."""
    skip = max(-begin, 0)
    part = audio[begin + skip : max(begin + len(wave), 0)]
    part += wave[skip : skip + len(part)]


def limit(audio: np.ndarray) -> np.ndarray:
    """Apply a soft limiter, which is nearly linear for most samples and never reaches 0.95."""
    return (0.95 * np.tanh(audio / 0.95)).astype(np.float32)


def _bar_seconds(recipe: Recipe, drawn: Draw) -> float:
    return recipe.rhythm.beats * 60.0 / drawn.tempo


def _strikes(pattern: str) -> list[tuple[float, float, float]]:
    """Returns (onset, length, gain) of the notes of a pattern, with times in bars."""
    strikes = []
    for i, mark in enumerate(pattern):
        if mark in "xo":
            held = len(pattern[i + 1 :]) - len(pattern[i + 1 :].lstrip("-"))
            strikes.append((i / len(pattern), (1 + held) / len(pattern), 1.0 if mark == "x" else 0.5))
    return strikes


def _score(instrument: str, recipe: Recipe, key: int, first: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Returns the MIDI pitches of every note of a phrase, no pitches for a drum; `first` is the index of the first chord."""
    progression, scale = recipe.harmony.progression, recipe.harmony.scale
    notes = len(_strikes(getattr(recipe.rhythm, instrument)))
    step = int(rng.integers(len(scale)))
    score: list[tuple[int, ...]] = []
    for note in range(PHRASE * notes):
        root, voices = progression[(note // notes + first) % len(progression)]
        if instrument == "bass":
            score.append((36 + (key + root) % 12 + recipe.bass[note % len(recipe.bass)],))
        elif instrument == "chords":
            score.append(tuple(55 + (key + root) % 12 + voice for voice in voices))
        elif instrument == "lead":
            step = (step + int(rng.integers(-2, 3))) % len(scale)
            score.append((72 + (key + scale[step]) % 12,))
        else:
            score.append(())
    return score


def _compose(
    instrument: str,
    recipe: Recipe,
    timbres: dict[str, Timbre],
    drawn: Draw,
    first: int,
    rng: np.random.Generator,
    sample_rate: int,
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (onset in seconds, waveform) of every note of an instrument in a phrase of `PHRASE` bars."""
    bar_seconds = _bar_seconds(recipe, drawn)
    strikes = _strikes(getattr(recipe.rhythm, instrument))
    waves: dict[tuple[tuple[int, ...], float], np.ndarray] = {}  # a cache, because each sound is used often
    for note, pitches in enumerate(_score(instrument, recipe, drawn.key, first, rng)):
        bar, strike = divmod(note, len(strikes))
        onset, length, gain = strikes[strike]
        if (pitches, length) not in waves:
            waves[pitches, length] = (
                _tone(pitches, length * bar_seconds, timbres[instrument], drawn, sample_rate)
                if pitches
                else _drum(instrument, drawn, rng.spawn(1)[0], sample_rate)
            )
        touch = gain * 10 ** (rng.normal(0.0, 1.0) / 20)
        yield (bar + onset) * bar_seconds + rng.normal(0.0, 0.003), touch * waves[pitches, length]


def _tone(
    pitches: tuple[int, ...], seconds: float, timbre: Timbre, drawn: Draw, sample_rate: int, table_size: int = 8192
) -> np.ndarray:
    """Render MIDI pitches that sound together for `seconds`, as wavetables without aliasing in one envelope."""
    time = np.arange(int(seconds * sample_rate), dtype=np.float32) / sample_rate
    wave = np.zeros(len(time), np.float32)
    slope = timbre.slope + 1.6 - drawn.brightness
    for pitch in pitches:
        for ratio in timbre.ratios:
            frequency = ratio * 440.0 * 2 ** ((pitch - 69 + drawn.tuning / 100) / 12)
            harmonics = np.arange(1, int(TOP_HZ / frequency) + 1, 2 if timbre.odd else 1)
            spectrum = np.zeros(table_size // 2 + 1, np.complex64)
            spectrum[harmonics] = harmonics**-slope * np.exp(1j * harmonics**2)  # phases that avoid a sharp peak
            table = np.fft.irfft(ratio**-slope * spectrum).astype(np.float32)
            phase = (time * np.float32(frequency) % 1.0) * table_size
            wave += table[phase.astype(np.int32) & (table_size - 1)]
    envelope = (1 - timbre.sustain) * np.exp(-time / (timbre.decay * 2 ** (drawn.decay - 0.5))) + timbre.sustain
    envelope *= 1 - timbre.tremolo * (0.5 + 0.5 * np.cos(2 * np.pi * TREMOLO_HZ * time))
    return wave * envelope * np.minimum(1.0, time / timbre.attack) * np.minimum(1.0, (seconds - time) / RELEASE)


def _drum(kind: str, drawn: Draw, rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Render one stroke: a falling sine (kick), a tone and a wide band of noise (snare), or a high band of noise (hat)."""
    tuning = 2 ** (0.8 * (drawn.drum - 0.5))
    time = np.arange(int(0.25 * sample_rate), dtype=np.float32) / sample_rate
    if kind == "kick":
        phase = tuning * (50.0 * time + 2.7 * (1 - np.exp(-time / 0.03)))  # from 140 Hz down to 50 Hz
        return np.sin(2 * np.pi * phase) * np.exp(-time / 0.06)
    low, high, decay = (300.0, 2000.0, 0.04) if kind == "snare" else (2000.0, 3300.0, 0.02)
    frequencies = np.fft.rfftfreq(len(time), 1 / sample_rate)
    band = (frequencies > low * tuning) & (frequencies < min(high * tuning, TOP_HZ))
    stroke = np.fft.irfft(np.fft.rfft(rng.standard_normal(len(time))) * band, len(time))
    stroke /= np.sqrt(np.mean(stroke**2))
    if kind == "snare":
        stroke += np.sin(2 * np.pi * 190.0 * tuning * time)
    return stroke * np.exp(-time / decay)


def noise(seed: int, *, sample_rate: int = 16000, seconds: float = 10.0, colour: str = "white") -> np.ndarray:
    """Render Gaussian noise, float32 (samples,) in [-0.9, 0.9].

    Args:
      seed: seed, 0 or more.
      sample_rate: sample rate in Hz, 8000 or more.
      seconds: length in seconds.
      colour: "white", "pink" or "brown"; above 20 Hz the power falls by 0, 3 or 6 dB per octave.

    Raises:
      UserError: unknown colour, negative seed, or a sample rate or length that is too small.
    """
    samples = count_samples(sample_rate, seconds)
    exponents = {"white": 0.0, "pink": 0.5, "brown": 1.0}
    if colour not in exponents:
        raise unknown("noise colour", colour, exponents)
    spectrum = np.fft.rfft(_random(_NOISE, natural("seed", seed)).standard_normal(samples))
    spectrum *= np.maximum(np.fft.rfftfreq(samples, 1 / sample_rate), 20.0) ** -exponents[colour]
    audio = np.fft.irfft(spectrum, samples)
    return (0.9 * audio / np.abs(audio).max()).astype(np.float32)


def babble(seed: int, *, sample_rate: int = 16000, seconds: float = 10.0, speakers: int = 3) -> np.ndarray:
    """Render speech-like babble, float32 (samples,) in [-0.9, 0.9]: voices that speak syllables and pause.

    A voice speaks four to six syllables per second. A syllable is a glottal pulse train with a gliding pitch and with breath
    noise at its onset, filtered by three formant resonators. `speakers` is the number of voices, 1 or more. The other
    arguments and the errors are those of `noise`.
    """
    samples = count_samples(sample_rate, seconds)
    if speakers < 1:
        raise UserError(f"speakers must be 1 or more, not {speakers}")
    rng = _random(_BABBLE, natural("seed", seed))
    audio = np.zeros(samples)
    for _ in range(speakers):
        pitch, tract, begin = rng.uniform(90.0, 220.0), rng.uniform(0.9, 1.15), -int(rng.uniform(0, 0.3) * sample_rate)
        while begin < samples:
            voice = _syllable(pitch * 2 ** rng.normal(0.0, 0.15), tract, rng, sample_rate)
            _add(audio, voice, begin)
            pause = rng.uniform(0.1, 0.3) if rng.uniform() < 0.12 else 0.0
            begin += len(voice) + int(pause * sample_rate)
    return (0.9 * audio / np.abs(audio).max()).astype(np.float32)


_VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))  # formants, Hz


def _syllable(pitch: float, tract: float, rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Render a vowel of 160 to 240 ms at about `pitch` Hz, with formants scaled by `tract` and about unit mean power."""
    time = np.arange(int(rng.uniform(0.16, 0.24) * sample_rate)) / sample_rate
    phase = pitch * (time + 0.5 * rng.uniform(-0.8, 0.8) * time**2)
    sound = (np.diff(np.floor(phase), prepend=-1.0) > 0).astype(float)  # one pulse whenever the glottis closes
    sound += 0.1 * rng.standard_normal(len(time)) * np.exp(-time / 0.03)
    for formant in _VOWELS[rng.integers(len(_VOWELS))]:
        radius, angle = np.exp(-np.pi * 90.0 / sample_rate), 2 * np.pi * formant * tract / sample_rate
        sound = signal.lfilter([1 - radius], [1.0, -2 * radius * np.cos(angle), radius**2], sound)
    sound *= np.hanning(len(time))
    return sound * 10 ** (rng.normal(0.0, 2.0) / 20) / np.sqrt(np.mean(sound**2))
