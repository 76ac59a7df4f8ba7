"""How difficult the synthetic genres are: `PLAIN` is the data set `synthetic`, `HARD` is `synthetic_hard`.

Both have the same recipes of the genres. They differ in the ranges that tracks draw from, and in the scene in which a track is
heard (`scene.py`).
"""

import dataclasses

from genre_jax.datasets.synthetic.recipes import BELL, CHIP, ORGAN, PLUCK, REED, SITAR, SYNTH, Recipe, Timbre


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """The ranges that the tracks of a data set draw from, beside those in `music.py`.

    Attributes:
      tempo: range in beats per minute that all genres share; None: each genre has the range of its recipe.
      timbres: the timbres that all genres share.
      shared: probability that a pitched instrument of a track has one of `timbres`, and not the timbre of its genre.
      level_db: largest deviation of the level of an instrument from the recipe, in dB.
      tilt_db: largest spectral tilt in dB.
      drift: largest relative deviation of the tempo within a track.
      room: range of the time in seconds in which the sound of the room falls by 60 dB; None: no room.
      room_db: range of the energy of the room's sound relative to the direct sound, in dB.
      noise_db: range of the energy of the noise below 4 kHz relative to the music, in dB; None: no noise.
      noise_tilt_db: largest spectral tilt of the noise in dB.
      wrong: share of the tracks of each split that have a wrong label.
    """

    tempo: tuple[float, float] | None = None
    timbres: tuple[Timbre, ...] = ()
    shared: float = 0.0
    level_db: float = 4.0
    tilt_db: float = 5.0
    drift: float = 0.0
    room: tuple[float, float] | None = None
    room_db: tuple[float, float] = (0.0, 0.0)
    noise_db: tuple[float, float] | None = None
    noise_tilt_db: float = 0.0
    wrong: float = 0.0

    def tempi(self, recipe: Recipe) -> tuple[float, float]:
        """Returns the range of the tempo of a genre, in beats per minute."""
        return self.tempo or recipe.tempo


PLAIN = Difficulty()
HARD = Difficulty(
    tempo=(88.0, 152.0),
    timbres=(SYNTH, REED, ORGAN, PLUCK, BELL, SITAR, CHIP),
    shared=0.5,
    level_db=5.0,
    tilt_db=6.0,
    drift=0.05,
    room=(0.2, 1.0),
    room_db=(-20.0, -4.0),
    noise_db=(-26.0, -8.0),
    noise_tilt_db=8.0,
    wrong=0.04,
)
DIFFICULTIES = {"synthetic": PLAIN, "synthetic_hard": HARD}  # by the names of the data sets
