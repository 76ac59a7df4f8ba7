"""The recipes of ten synthetic genres. `music.py` renders them.

The mean spectrum of a track must not reveal its genre. Therefore the following is the same for all genres:

- The energy of every instrument is scaled to its level in the mix, for any number of notes.
- Each track draws from the same ranges: levels of the instruments, loudness, a slow swell, spectral tilt and the brightness of
  every tone.

`march` and `swing` differ in rhythm alone, as do `house` and `jungle`. `hymn` and `noir` differ in harmony alone. All other
fields of their recipes are equal. In the rhythm pairs, each instrument strikes equally often in a bar.

Except for a little hiss, all sound is below 3.7 kHz, so that a sample rate of 8 kHz is enough. Apart from the noise, the
music is the same at every sample rate.
"""

import dataclasses

PITCHED = ("bass", "chords", "lead")
INSTRUMENTS = ("kick", "snare", "hat", *PITCHED)


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """The pattern of each instrument in a bar of `beats` quarter notes. The characters of a pattern have equal lengths.

    `x` is a stroke, `o` is a soft stroke, `-` holds the note before it, `.` is a rest.
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
    """Chord progression with one chord per bar, (root above the key, voices above the root), and scale of the lead.

    All values are in semitones.
    """

    progression: tuple[tuple[int, tuple[int, ...]], ...]
    scale: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Timbre:
    """The sound of notes: a wavetable at each of `ratios` times the pitch, with an attack-decay-sustain envelope."""

    odd: bool  # only odd harmonics (a hollow sound), or all harmonics
    slope: float  # roll-off: the amplitude of harmonic n is n ** -(slope + a value drawn for the track)
    ratios: tuple[float, ...]
    attack: float  # seconds
    decay: float  # seconds, multiplied by a value drawn for the track
    sustain: float  # level after the decay
    tremolo: float  # depth of amplitude modulation, 0 to 1


@dataclasses.dataclass(frozen=True)
class Mix:
    """Level of each instrument and of the background hiss, in dB of mean energy."""

    kick: float = -5.0
    snare: float = -8.0
    hat: float = -12.0
    bass: float = -5.0
    chords: float = 0.0
    lead: float = -4.0
    hiss: float = -26.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A genre: `tempo` is a range in beats per minute; `bass` are the semitones above the root that the bass cycles through."""

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
    rhythm=Rhythm(  # four on the floor: even spacing, with the hat and the bass between the kicks
        beats=4, kick="x...x...x...x...", snare="....x.......x...", hat="..x...x...x...x.",
        bass="..x-..x-..x-..x-", chords="x-------x-------", lead="x-..x-..x-..x-..",
    ),
    harmony=Harmony(((0, MINOR), (8, MAJOR), (3, MAJOR), (10, MAJOR)), (0, 2, 3, 5, 7, 8, 10)),
    bass=(0, 0, 12, 0),
    timbre=SYNTH,
)
BAND = Recipe(
    tempo=(100.0, 118.0),
    rhythm=Rhythm(  # all instruments on the beat
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
    "jungle": dataclasses.replace(  # half time: rolls of thirty-second notes, then rests
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
