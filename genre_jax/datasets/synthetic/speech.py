"""Speech without words: a source–filter synthesiser, and the voice of a speaker that it is drawn from.

The source is the flow through the glottis, with a pitch that follows an intonation, and breath. It passes four formant
resonators, which glide from the target of one sound to the target of the next. Fricatives and bursts are noise beside them
(Klatt, "Software for a cascade/parallel formant synthesizer", 1980). The sounds are random syllables in phrases with pauses.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import signal

RATE = 16_000  # Hz
FRAME = 80  # samples (5 ms) in which the filters stay as they are
GLIDE = 11  # frames over which a target changes into the next one
BANDWIDTHS = (70.0, 100.0, 150.0, 250.0)  # Hz, of the four formants
HIGHEST = 7_600.0  # Hz; resonances are kept below half the sample rate
VOWELS = np.array(  # formants of a man's vowels in Hz (Peterson and Barney 1952); the fourth one is not from there
    [
        *((270, 2290, 3010, 3500), (390, 1990, 2550, 3500), (530, 1840, 2480, 3500), (660, 1720, 2410, 3500)),
        *((730, 1090, 2440, 3400), (570, 840, 2410, 3300), (440, 1020, 2240, 3300), (300, 870, 2240, 3300)),
        *((640, 1190, 2390, 3400), (490, 1350, 1690, 3300)),
    ],
    float,
)


@dataclasses.dataclass(frozen=True)
class Voice:
    """A speaker.

    Attributes:
      pitch: mean pitch in Hz.
      tract: factor of all formants: a short vocal tract has more than 1.
      tempo: syllables per second.
      breath: level of the breath noise relative to the voice.
      melody: range of the intonation in semitones.
      roughness: relative deviation of the pitch from one frame to the next (jitter).
      opening: share of a period in which the glottis is open.
    """

    pitch: float
    tract: float
    tempo: float
    breath: float
    melody: float
    roughness: float
    opening: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Voice":
        """Draw a speaker. High voices tend to have short vocal tracts."""
        height = rng.uniform()
        return cls(
            pitch=80.0 * (300.0 / 80.0) ** height,
            tract=float(np.clip(0.88 + 0.34 * height + rng.normal(0.0, 0.05), 0.85, 1.3)),
            tempo=rng.uniform(3.0, 6.0),
            breath=10 ** rng.uniform(-1.6, -0.5),
            melody=rng.uniform(1.0, 6.0),
            roughness=rng.uniform(0.003, 0.02),
            opening=rng.uniform(0.45, 0.75),
        )


@dataclasses.dataclass(frozen=True)
class Sound:
    """A part of a syllable: its length in frames, the levels of its sources, and where it resonates in Hz."""

    frames: int
    formants: np.ndarray
    voiced: float = 0.0
    breath: float = 0.0
    friction: float = 0.0
    friction_hz: float = 3_000.0


def speak(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Render one speaker at `RATE`, float64 `(samples,)` of root mean square 1. The voice is drawn from `rng` first."""
    voice = Voice.draw(rng)
    frames = samples // FRAME + 1
    phrases = _phrases(voice, rng, frames)
    lengths = [sound.frames for sound, _ in phrases]
    rows = [(s.voiced, s.breath, s.friction, s.friction_hz, accent, *s.formants) for s, accent in phrases]
    targets = np.repeat(np.array(rows), lengths, axis=0)[: frames + GLIDE - 1]
    kernel = np.hanning(GLIDE + 2)[1:-1, None]
    tracks = signal.convolve(targets, kernel / kernel.sum(), mode="valid", method="direct").T
    voiced, breath, friction, friction_hz, accent = tracks[:5]
    pitch = voice.pitch * 2 ** (voice.melody * accent / 12) * (1 + voice.roughness * rng.standard_normal(frames))
    flow = _flow(np.cumsum(_at_samples(pitch)) / RATE, voice.opening)
    source = np.diff(flow, prepend=0.0) * RATE / voice.pitch * _at_samples(voiced)
    source += _at_samples(breath) * (0.3 + flow) * rng.standard_normal(len(flow))
    for formant, bandwidth in zip(tracks[5:], BANDWIDTHS, strict=True):
        source = _resonate(source, voice.tract * formant, np.full(frames, bandwidth * voice.tract))
    hiss = _at_samples(friction) * rng.standard_normal(len(flow))
    audio = (source + _resonate(hiss, friction_hz, 0.35 * friction_hz))[:samples]
    return audio / np.sqrt(np.mean(audio**2))


def _phrases(voice: Voice, rng: np.random.Generator, frames: int) -> list[tuple[Sound, float]]:
    """Returns the sounds of at least `frames` + `GLIDE` frames, each with its accent (-1 to 1), which raises the pitch."""
    sounds: list[tuple[Sound, float]] = [(_pause(rng.uniform(0.02, 0.2)), 0.0)]
    while sum(sound.frames for sound, _ in sounds) < frames + GLIDE:
        syllables = int(rng.integers(3, 12))
        question = rng.uniform() < 0.2
        for place in range(syllables):
            fall = 0.4 - 0.8 * place / syllables  # the pitch falls towards the end of a phrase
            accent = fall + rng.normal(0.0, 0.3) + (0.9 if question and place == syllables - 1 else 0.0)
            sounds += ((sound, accent) for sound in _syllable(voice, rng))
        sounds.append((_pause(rng.uniform(0.15, 0.7)), 0.4))
    return sounds


def _syllable(voice: Voice, rng: np.random.Generator) -> Iterator[Sound]:
    """Yield the sounds of a syllable: a consonant or none, a vowel or diphthong, and sometimes another consonant."""
    first, last = VOWELS[rng.integers(len(VOWELS), size=2)] * rng.uniform(0.93, 1.07, (2, 1))
    level = 10 ** (rng.normal(0.0, 2.0) / 20)
    onset = list(_consonant(rng, first)) if rng.uniform() < 0.85 else []
    coda = list(_consonant(rng, last)) if rng.uniform() < 0.3 else []
    seconds = rng.uniform(0.7, 1.3) / voice.tempo
    left = max(10, round(seconds * RATE / FRAME) - sum(sound.frames for sound in onset + coda))
    yield from onset
    if rng.uniform() < 0.3:
        yield Sound(left // 2, first, level, voice.breath * level)
        yield Sound(left - left // 2, last, 0.8 * level, voice.breath * level)
    else:
        yield Sound(left, first, level, voice.breath * level)
    yield from coda


def _consonant(rng: np.random.Generator, vowel: np.ndarray) -> Iterator[Sound]:
    """Yield a fricative, a stop with its burst, a nasal or a glide beside a vowel with the formants `vowel`."""
    kind = rng.choice(["fricative", "stop", "nasal", "glide"], p=[0.3, 0.35, 0.2, 0.15])
    voiced = 0.35 * (rng.uniform() < 0.4)
    if kind == "fricative":
        place = rng.choice([1_800.0, 2_900.0, 4_800.0, 6_200.0]) * rng.uniform(0.9, 1.1)
        yield Sound(int(rng.integers(12, 24)), vowel, voiced, friction=rng.uniform(0.25, 0.9), friction_hz=place)
    elif kind == "stop":
        place = rng.choice([700.0, 1_800.0, 3_800.0]) * rng.uniform(0.9, 1.1)
        yield Sound(int(rng.integers(8, 16)), vowel, 0.3 * voiced, friction_hz=place)
        yield Sound(int(rng.integers(3, 6)), vowel, voiced, friction=rng.uniform(0.5, 1.5), friction_hz=place)
        if not voiced:
            yield Sound(int(rng.integers(3, 9)), vowel, breath=rng.uniform(0.1, 0.4), friction_hz=place)
    elif kind == "nasal":
        yield Sound(int(rng.integers(10, 18)), np.array([260.0, rng.uniform(900, 1_900), 2_300.0, 3_300.0]), 0.35)
    else:
        yield Sound(int(rng.integers(8, 14)), np.array([310.0, rng.uniform(650, 2_200), 2_300.0, 3_300.0]), 0.6)


def _pause(seconds: float) -> Sound:
    return Sound(max(1, round(seconds * RATE / FRAME)), VOWELS[-1])


def _flow(phase: np.ndarray, opening: float) -> np.ndarray:
    """Returns Rosenberg's glottal flow, 0 to 1, at a phase in periods: it rises, falls faster, and stays closed."""
    place = phase % 1.0 / opening
    rise = 0.5 - 0.5 * np.cos(np.pi * np.minimum(place / 0.7, 1.0))
    return np.where(place < 0.7, rise, np.cos(0.5 * np.pi * np.clip((place - 0.7) / 0.3, 0.0, 1.0)))


def _at_samples(track: np.ndarray) -> np.ndarray:
    """Interpolate the value of each frame linearly to the samples of the frames."""
    return np.interp(np.arange(len(track) * FRAME) / FRAME, np.arange(len(track)), track)


def _resonate(audio: np.ndarray, hertz: np.ndarray, bandwidth: np.ndarray) -> np.ndarray:
    """Filter with Klatt's resonator, whose centre and bandwidth in Hz change from frame to frame, with gain 1 at 0 Hz.

    A resonator that is wide for its centre keeps its level there, and is therefore also the filter of fricatives.
    """
    radius = np.exp(-np.pi * bandwidth / RATE)
    b = 2 * radius * np.cos(2 * np.pi * np.minimum(hertz, HIGHEST) / RATE)
    c = -(radius**2)
    state, blocks = np.zeros(2), []
    for number, block in enumerate(audio.reshape(-1, FRAME)):
        filtered, state = signal.lfilter([1 - b[number] - c[number]], [1.0, -b[number], -c[number]], block, zi=state)
        blocks.append(filtered)
    return np.concatenate(blocks)
