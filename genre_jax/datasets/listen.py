"""Write a track of the embedded music as a WAV file: `python -m genre_jax.datasets.listen --genre=waltz`."""

from pathlib import Path

import soundfile
from absl import flags

from genre_jax.console import run, say
from genre_jax.datasets.synthetic.music import render

GENRE = flags.DEFINE_string("genre", "house", "One of the ten genres.")
TRACK = flags.DEFINE_integer("track", 0, "Number of the track.")
SPLIT = flags.DEFINE_string("split", "test", "train, validation or test.")
SAMPLE_RATE = flags.DEFINE_integer("sample_rate", 16_000, "Hz.")
SECONDS = flags.DEFINE_float("seconds", 20.0, "Length.")
OUTPUT = flags.DEFINE_string("output", "embedded.wav", "The WAV file to write.")


def main(argv: list[str]) -> None:
    """Render and write one track."""
    del argv
    samples = render(GENRE.value, TRACK.value, SPLIT.value, sample_rate=SAMPLE_RATE.value, seconds=SECONDS.value)
    Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(OUTPUT.value, samples, SAMPLE_RATE.value)
    say(f"{OUTPUT.value}: {SECONDS.value:g} s of {GENRE.value}")


if __name__ == "__main__":
    run(main)
