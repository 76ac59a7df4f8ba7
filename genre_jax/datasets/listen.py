"""Write a track of the synthetic music as a WAV file: `python -m genre_jax.datasets.listen --genre=waltz`.

With `--dataset=synthetic_hard` it is heard as in this data set.
"""

from pathlib import Path

import soundfile
from absl import flags

from genre_jax.console import pick, run, say
from genre_jax.datasets.synthetic.difficulty import DIFFICULTIES
from genre_jax.datasets.synthetic.music import render
from genre_jax.datasets.synthetic.recipes import GENRES

DATASET = flags.DEFINE_string("dataset", "synthetic", f"Data set: {' or '.join(DIFFICULTIES)}.")
GENRE = flags.DEFINE_string("genre", "house", f"Genre: one of {', '.join(sorted(GENRES))}.")
TRACK = flags.DEFINE_integer("track", 0, "Number of the track, 0 or more.")
SPLIT = flags.DEFINE_string("split", "test", "Split: train, validation or test.")
SAMPLE_RATE = flags.DEFINE_integer("sample_rate", 16_000, "Sample rate in Hz, 8000 or more.")
SECONDS = flags.DEFINE_float("seconds", 20.0, "Length in seconds.")
OUTPUT = flags.DEFINE_string("output", "embedded.wav", "Path of the WAV file.")


def main(argv: list[str]) -> None:
    """Render and write one track."""
    del argv
    difficulty, rate, seconds = pick("data set", DATASET.value, DIFFICULTIES), SAMPLE_RATE.value, SECONDS.value
    samples = render(GENRE.value, TRACK.value, SPLIT.value, sample_rate=rate, seconds=seconds, difficulty=difficulty)
    Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(OUTPUT.value, samples, rate)
    say(f"{OUTPUT.value}: {seconds:g} s of {GENRE.value}")


if __name__ == "__main__":
    run(main)
