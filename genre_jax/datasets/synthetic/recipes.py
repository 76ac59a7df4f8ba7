"""Procedural music: ten genres that must be listened to, made in NumPy from a seed, with no download.

A genre is a `Recipe`; a track is the recipe played with its own `Draw` (key, tempo, timbre) and performance (melody,
timing, levels, equaliser). What a spectrum's average gives away is balanced on purpose, the same way for all genres:

- every instrument's energy is scaled to its level in the mix, however many notes it plays;
- levels (+-LEVEL_DB per instrument), loudness (+-GAIN_DB), a slow swell (to +-SWELL_DB), spectral tilt (+-TILT_DB) and
  the brightness of every tone are drawn per track from the same ranges, whatever the genre.

`march` and `swing` as well as `house` and `jungle` differ in rhythm alone, `hymn` and `noir` in harmony alone: all
other fields of their recipes are equal. In the rhythm pairs each instrument strikes equally often in a bar.

All but a little hiss lies below 3.7 kHz, so that sampling at 8 kHz suffices; the music is the same at every rate, noise
aside. Nothing depends on the length asked for: a shorter rendering is the beginning of a longer one.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """When each instrument plays: a bar of `beats` quarter notes, cut evenly into the characters of each pattern.

    `x` strikes, `o` strikes softly, `-` holds the note before it, `.` is a rest.
    """

    beats: int
    kick: str
    snare: str
    hat: str
    bass: str
    chords: str
    lead: str


@dataclasses.dataclass(frozen=True)
class Harmony:
    """Chord progression, one a bar: (root above the key, voices above the root) in semitones; scale of the lead."""

    progression: tuple[tuple[int, tuple[int, ...]], ...]
    scale: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Timbre:
    """How notes sound: a wavetable sounded at each of `ratios` times the pitch, in an attack-decay-sustain envelope."""

    odd: bool  # odd harmonics alone (hollow) or all of them
    slope: float  # extra roll-off: harmonic n is n ** -(slope + what the track drew)
    ratios: tuple[float, ...]
    attack: float  # seconds
    decay: float  # seconds, times what the track drew
    sustain: float  # level after the decay
    tremolo: float  # depth of amplitude modulation, 0 to 1


@dataclasses.dataclass(frozen=True)
class Mix:
    """Level of each instrument and of the background hiss, dB of mean energy."""

    kick: float = -5.0
    snare: float = -8.0
    hat: float = -12.0
    bass: float = -5.0
    chords: float = 0.0
    lead: float = -4.0
    hiss: float = -26.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A genre: `tempo` range in beats per minute; `bass`, the semitones above the chord's root it cycles through."""

    tempo: tuple[float, float]
    rhythm: Rhythm
    harmony: Harmony
    bass: tuple[int, ...]
    timbre: Timbre
    mix: Mix = Mix()


MAJOR, MINOR, FIFTHS = (0, 4, 7, 12), (0, 3, 7, 12), (0, 7, 12, 19)
SEVENTH, QUARTAL, CLUSTER, TRITONES = (0, 4, 7, 10), (0, 5, 10, 15), (0, 1, 6, 7), (0, 6, 7, 13)

SYNTH = Timbre(odd=False, slope=0.0, ratios=(0.997, 1.003), attack=0.004, decay=0.5, sustain=0.4, tremolo=0.0)
REED = Timbre(odd=True, slope=0.0, ratios=(1.0,), attack=0.02, decay=0.8, sustain=0.6, tremolo=0.0)
ORGAN = Timbre(odd=False, slope=0.2, ratios=(1.0, 2.0), attack=0.015, decay=1.0, sustain=0.8, tremolo=0.0)
PLUCK = Timbre(odd=False, slope=0.0, ratios=(1.0,), attack=0.003, decay=0.2, sustain=0.2, tremolo=0.0)
BELL = Timbre(odd=True, slope=1.0, ratios=(1.0, 2.76, 5.4), attack=0.002, decay=0.3, sustain=0.0, tremolo=0.0)
SITAR = Timbre(odd=False, slope=0.0, ratios=(1.0, 1.004), attack=0.03, decay=1.0, sustain=0.8, tremolo=0.9)
CHIP = Timbre(odd=True, slope=0.0, ratios=(1.0,), attack=0.002, decay=0.4, sustain=0.7, tremolo=0.0)

# fmt: off
CLUB = Recipe(
    tempo=(114.0, 130.0),
    rhythm=Rhythm(  # four on the floor: evenly spread, the hat and the bass between the kicks
        beats=4, kick="x...x...x...x...", snare="....x.......x...", hat="..x...x...x...x.",
        bass="..x-..x-..x-..x-", chords="x-------x-------", lead="x-..x-..x-..x-..",
    ),
    harmony=Harmony(((0, MINOR), (8, MAJOR), (3, MAJOR), (10, MAJOR)), (0, 2, 3, 5, 7, 8, 10)),
    bass=(0, 0, 12, 0),
    timbre=SYNTH,
)
BAND = Recipe(
    tempo=(100.0, 118.0),
    rhythm=Rhythm(  # everybody on the beat
        beats=4, kick="x.x.", snare="xxxx", hat="xxxx",
        bass="x---x---x---x---", chords="x---x---x---x---", lead="x--.x--.x--.x--.",
    ),
    harmony=Harmony(((0, MAJOR), (5, MAJOR), (7, SEVENTH), (0, MAJOR)), (0, 2, 4, 5, 7, 9, 11)),
    bass=(0, 7),
    timbre=REED,
)
CHOIR = Recipe(
    tempo=(88.0, 106.0),
    rhythm=Rhythm(
        beats=4, kick="x.......x.......", snare="....x.......x...", hat="x.o.x.o.x.o.x.o.",
        bass="x---x---x---x---", chords="x-------x-------", lead="x---x-x-x---x---",
    ),
    harmony=Harmony(((0, MAJOR), (9, MINOR), (5, MAJOR), (7, MAJOR)), (0, 2, 4, 7, 9)),
    bass=(0, 7, 0, 12),
    timbre=ORGAN,
)

RECIPES: dict[str, Recipe] = {
    "house": CLUB,
    "jungle": dataclasses.replace(  # half time: rolls of thirty-seconds, then air
        CLUB,
        rhythm=Rhythm(
            beats=4,
            kick="xxxx............................", snare="........xx......", hat="....................xxxx........",
            bass="x-x-....x-x-....", chords="x-------x-------", lead="x-x-x-x-........",
        ),
    ),
    "march": BAND,
    "swing": dataclasses.replace(  # triplets: kick and bass on the beat, hat and chords after it, then snare and lead
        BAND,
        rhythm=Rhythm(
            beats=4, kick="x.....x.....", snare="..x..x..x..x", hat=".x..x..x..x.",
            bass="x--x--x--x--", chords=".x--x--x--x-", lead="..x-.x-.x-.x",
        ),
    ),
    "hymn": CHOIR,
    "noir": dataclasses.replace(
        CHOIR,
        harmony=Harmony(((0, CLUSTER), (9, TRITONES), (5, CLUSTER), (7, TRITONES)), (0, 1, 3, 6, 7)),
    ),
    "waltz": Recipe(
        tempo=(138.0, 165.0),
        rhythm=Rhythm(
            beats=3, kick="x..", snare=".oo", hat="xx.xx.",
            bass="x-----", chords="x-x-x-", lead="x---x-",
        ),
        harmony=Harmony(((0, MAJOR), (0, MAJOR), (7, SEVENTH), (7, SEVENTH)), (0, 2, 4, 5, 7, 9, 11)),
        bass=(0, 7),
        timbre=PLUCK,
    ),
    "gamelan": Recipe(
        tempo=(92.0, 110.0),
        rhythm=Rhythm(
            beats=4, kick="x.......x.......", snare="..x..x..x..x..x.", hat="x.x.x.x.x.x.x.x.",
            bass="x-------x-------", chords="x.x.x.xxx.x.x.xx", lead="xxxxxxxxxxxxxxxx",
        ),
        harmony=Harmony(((0, QUARTAL), (5, QUARTAL)), (0, 1, 3, 7, 8)),
        bass=(0,),
        timbre=BELL,
    ),
    "raga": Recipe(
        tempo=(84.0, 100.0),
        rhythm=Rhythm(
            beats=7, kick="x..x.x.x.x....", snare=".xx.x.xx.xxxxx", hat="x.x.x.x.x.x.x.",
            bass="x-------------", chords="x-------------", lead="x-x-x---x-xxx-",
        ),
        harmony=Harmony(((0, FIFTHS),), (0, 1, 4, 5, 7, 8, 10)),
        bass=(0,),
        timbre=SITAR,
    ),
    "arcade": Recipe(
        tempo=(136.0, 160.0),
        rhythm=Rhythm(
            beats=4, kick="x.....x...x.....", snare="....x.......x..x", hat="..xx..xx..xx..xx",
            bass="x.x.x.x.x.x.x.x.", chords="x.xx.xx.x.xx.xx.", lead="xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        ),
        harmony=Harmony(((0, MAJOR), (10, MAJOR), (8, MAJOR), (10, MAJOR)), (0, 4, 7)),
        bass=(0, 12),
        timbre=CHIP,
    ),
}
# fmt: on
GENRES: tuple[str, ...] = tuple(RECIPES)
