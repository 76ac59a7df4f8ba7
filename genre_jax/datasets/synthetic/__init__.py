"""The embedded data sets for the demo and the tests: synthetic music, noise and speech, without source files or download."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from genre_jax.console import UserError
from genre_jax.datasets.synthetic.difficulty import HARD, PLAIN, Difficulty
from genre_jax.datasets.synthetic.recipes import GENRES
from genre_jax.datasets.types import Item, Render, Source
from genre_jax.prepare.audio import Audio, Format

TRACKS = {"train": 40, "validation": 10, "test": 15}  # number of tracks per genre; a track is one clip
SECONDS = 10.0
MUSAN_CLASSES = ("music", "noise", "speech")
MUSAN_FILES = {"train": 65, "validation": 10, "test": 25}  # number of files per class
WRONG_SEED = 0  # draws the tracks with wrong labels


def synthetic(source: Path | None = None) -> Source:
    """Returns ten genres with one label per clip. The splits share neither tracks nor the values drawn for them."""
    _no_source("synthetic", source)
    return Source("synthetic", GENRES, tuple(_items(PLAIN)), render_genre)


def synthetic_hard(source: Path | None = None) -> Source:
    """Returns the same genres, harder to tell apart (see `difficulty.HARD`), with a few wrong labels in each split.

    The name of a clip tells the genre that is played, also if its label is wrong.
    """
    _no_source("synthetic_hard", source)
    return Source("synthetic_hard", GENRES, tuple(_items(HARD)), render_hard_genre)


def synthetic_multilabel(source: Path | None = None) -> Source:
    """Returns mixtures of the same music with one to three labels per clip, for binary cross-entropy."""
    _no_source("synthetic_multilabel", source)
    items = tuple(
        Item(name=_name(split, "mix", track), track=_name(split, "mix", track), labels=(), split=split)
        for split, tracks in TRACKS.items()
        for track in range(tracks * len(GENRES))
    )
    return Source("synthetic_multilabel", GENRES, items, render_mix)


def synthetic_musan(source: Path | None = None) -> Source:
    """Returns music, noise and speech without words, 100 files of 6 to 12 s each. No two files share a voice or a piece."""
    _no_source("synthetic_musan", source)
    items = tuple(
        Item(name=_name(split, label, number), track=_name(split, label, number), labels=(label,), split=split)
        for split, count in MUSAN_FILES.items()
        for label in MUSAN_CLASSES
        for number in range(count)
    )
    return Source("synthetic_musan", MUSAN_CLASSES, items, render_sound)


def render_genre(item: Item, sample_rate: int) -> Render:
    """Render the track that an item of `synthetic` names."""
    return _render(item, sample_rate, PLAIN)


def render_hard_genre(item: Item, sample_rate: int) -> Render:
    """Render the track that an item of `synthetic_hard` names."""
    return _render(item, sample_rate, HARD)


def render_mix(item: Item, sample_rate: int) -> Render:
    """Render the track that an item of `synthetic_multilabel` names, with its labels."""
    from genre_jax.datasets.synthetic.music import render_multilabel

    split, _, track = item.name.split("/")
    samples, labels = render_multilabel(int(track), split, sample_rate=sample_rate, seconds=SECONDS)
    return Render(Audio(samples, sample_rate, Format("synthetic", sample_rate, 1)), tuple(labels))


def render_sound(item: Item, sample_rate: int) -> Render:
    """Render the file that an item of `synthetic_musan` names."""
    from genre_jax.datasets.synthetic.musan import render

    split, label, number = item.name.split("/")
    samples = render(label, int(number), split, sample_rate=sample_rate)
    return Render(Audio(samples, sample_rate, Format("synthetic", sample_rate, 1)))


def _items(difficulty: Difficulty) -> Iterator[Item]:
    """Yield the clips of every split, of which an exact share, drawn from the whole split, has a wrong label."""
    for split, tracks in TRACKS.items():
        rng = np.random.default_rng([WRONG_SEED, *split.encode()])
        count = tracks * len(GENRES)
        shifts = np.zeros(count, int)
        shifts[rng.choice(count, round(difficulty.wrong * count), replace=False)] = 1
        shifts *= rng.integers(1, len(GENRES), count)
        for number, shift in enumerate(shifts):
            genre, track = divmod(number, tracks)
            name = _name(split, GENRES[genre], track)
            yield Item(name=name, track=name, labels=(GENRES[(genre + shift) % len(GENRES)],), split=split)


def _render(item: Item, sample_rate: int, difficulty: Difficulty) -> Render:
    from genre_jax.datasets.synthetic.music import render

    split, genre, track = item.name.split("/")
    samples = render(genre, int(track), split, sample_rate=sample_rate, seconds=SECONDS, difficulty=difficulty)
    return Render(Audio(samples, sample_rate, Format("synthetic", sample_rate, 1)))


def _name(split: str, group: str, track: int) -> str:
    return f"{split}/{group}/{track:04d}"


def _no_source(name: str, source: Path | None) -> None:
    if source is not None:
        raise UserError(f"data set {name!r} is synthesised and needs no source: remove --source={source}")
