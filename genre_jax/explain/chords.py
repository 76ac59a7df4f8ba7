"""How filters respond to chords on other roots and other instruments (the conclusion of document 003).

The chords are synthesised. All chords raise much the same filters, and this common part would make each two of them alike. It
is therefore subtracted: what is correlated is how a chord differs from the mean chord. If layers become more invariant with
depth, these differences correlate more between chords that differ in root or in instrument alone. An untrained network of the
same architecture shows how much of that the training brought.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

ROOTS = {"C": 60, "E♭": 63, "G♭": 66, "A": 69}  # MIDI numbers
QUALITIES = {"major": (0, 4, 7), "minor": (0, 3, 7)}  # semitones above the root
PAIRS = ("same instrument, other root", "other instrument, same root", "other instrument, other root")
_LEVEL = 0.1  # root mean square


class Timbre(NamedTuple):
    """The sound of an instrument.

    Attributes:
      partials: amplitude of each harmonic.
      decay: seconds in which a tone falls to 1 / e; the higher harmonics fall faster. 0: it lasts.
      attack: seconds in which a tone starts.
      vibrato: relative change of the pitch, 5.5 times a second.
    """

    partials: tuple[float, ...]
    decay: float
    attack: float
    vibrato: float


TIMBRES = {
    "organ": Timbre((1, 0.8, 0.5, 0.6, 0.1, 0.3, 0.05, 0.3), 0, 0.02, 0),
    "plucked string": Timbre(tuple(1 / n for n in range(1, 13)), 0.8, 0.003, 0),
    "clarinet": Timbre((1, 0, 0.7, 0, 0.5, 0, 0.3, 0, 0.2), 0, 0.05, 0.002),
    "strings": Timbre(tuple(1 / n**0.8 for n in range(1, 16)), 0, 0.15, 0.006),
}


class Chord(NamedTuple):
    """A chord: keys of `TIMBRES`, `ROOTS` and `QUALITIES`."""

    timbre: str
    root: str
    quality: str


CHORDS = tuple(itertools.starmap(Chord, itertools.product(TIMBRES, ROOTS, QUALITIES)))


def synthesise(chord: Chord, samples: int, sr: float) -> np.ndarray:
    """Return a chord as a waveform float32 (samples,); it begins anew every second. Harmonics above 0.45 sr are left out."""
    timbre = TIMBRES[chord.timbre]
    time = np.arange(samples) / sr
    since = time % 1
    envelope = np.minimum(since / timbre.attack, 1) * np.minimum((1 - since) / 0.02, 1)
    turns = time + timbre.vibrato / (2 * np.pi * 5.5) * np.sin(2 * np.pi * 5.5 * time)
    wave = np.zeros(samples)
    for interval in QUALITIES[chord.quality]:
        pitch = 440 * 2 ** ((ROOTS[chord.root] + interval - 69) / 12)
        for harmonic, amplitude in enumerate(timbre.partials, 1):
            if harmonic * pitch < 0.45 * sr:
                fading = np.exp(-since * harmonic**0.5 / timbre.decay) if timbre.decay else 1
                wave += amplitude * fading * np.sin(2 * np.pi * harmonic * pitch * turns)
    wave *= envelope
    return (wave * (_LEVEL / np.sqrt(np.mean(wave**2)))).astype(np.float32)


def correlations(responses: np.ndarray) -> np.ndarray:
    """Return the correlation over the filters between each two rows of (chords, filters), without what all rows share.

    The mean of each filter over the rows is subtracted first. The mean of all correlations of different rows is then slightly
    negative. A row whose rest is constant has the correlation 0.
    """
    centred = responses - responses.mean(0)
    centred -= centred.mean(1, keepdims=True)
    norms = np.sqrt((centred**2).sum(1))
    centred /= np.where(norms > 1e-6 * np.abs(responses).max(initial=0), norms, np.inf)[:, None]
    return np.asarray(centred @ centred.T)


def by_kind(matrix: np.ndarray) -> dict[str, float]:
    """Return the mean of a matrix (chords, chords) over the pairs of the same quality of each kind in `PAIRS`."""
    chords: dict[str, list[float]] = {kind: [] for kind in PAIRS}
    for (i, a), (j, b) in itertools.combinations(enumerate(CHORDS), 2):
        if a.quality == b.quality:
            same = a.timbre == b.timbre, a.root == b.root
            chords[PAIRS[0] if same[0] else PAIRS[1] if same[1] else PAIRS[2]].append(float(matrix[i, j]))
    return {kind: float(np.mean(values)) for kind, values in chords.items()}


def invariance(responses: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Return the correlations of each layer (chords, chords), and for each layer its name and the means of `by_kind`.

    Args:
      responses: layer → mean activation of each filter for each of `CHORDS`, (chords, filters).
    """
    matrices = {layer: correlations(values) for layer, values in responses.items()}
    return matrices, [{"layer": layer, **by_kind(matrix)} for layer, matrix in matrices.items()]
