"""The embedded data sets for the demo and the tests: synthetic music, which needs no source files and no download."""

from pathlib import Path

from genre_jax.console import UserError
from genre_jax.datasets.synthetic.recipes import GENRES
from genre_jax.datasets.types import Item, Render, Source
from genre_jax.prepare.audio import Audio, Format

TRACKS = {"train": 40, "validation": 10, "test": 15}  # number of tracks per genre; a track is one clip
SECONDS = 10.0


def synthetic(source: Path | None = None) -> Source:
    """Returns ten genres with one label per clip. The splits share neither tracks nor the values drawn for them."""
    _no_source("synthetic", source)
    items = tuple(
        Item(name=_name(split, genre, track), track=_name(split, genre, track), labels=(genre,), split=split)
        for split, tracks in TRACKS.items()
        for genre in GENRES
        for track in range(tracks)
    )
    return Source("synthetic", GENRES, items, render_genre)


def synthetic_multilabel(source: Path | None = None) -> Source:
    """Returns mixtures of the same music with one to three labels per clip, for binary cross-entropy."""
    _no_source("synthetic_multilabel", source)
    items = tuple(
        Item(name=_name(split, "mix", track), track=_name(split, "mix", track), labels=(), split=split)
        for split, tracks in TRACKS.items()
        for track in range(tracks * len(GENRES))
    )
    return Source("synthetic_multilabel", GENRES, items, render_mix)


def render_genre(item: Item, sample_rate: int) -> Render:
    """Render the track that an item of `synthetic` names."""
    from genre_jax.datasets.synthetic.music import render

    split, genre, track = item.name.split("/")
    samples = render(genre, int(track), split, sample_rate=sample_rate, seconds=SECONDS)
    return Render(Audio(samples, sample_rate, Format("synthetic", sample_rate, 1)))


def render_mix(item: Item, sample_rate: int) -> Render:
    """Render the track that an item of `synthetic_multilabel` names, with its labels."""
    from genre_jax.datasets.synthetic.music import render_multilabel

    split, _, track = item.name.split("/")
    samples, labels = render_multilabel(int(track), split, sample_rate=sample_rate, seconds=SECONDS)
    return Render(Audio(samples, sample_rate, Format("synthetic", sample_rate, 1)), tuple(labels))


def _name(split: str, group: str, track: int) -> str:
    return f"{split}/{group}/{track:04d}"


def _no_source(name: str, source: Path | None) -> None:
    if source is not None:
        raise UserError(f"data set {name!r} is synthesised and needs no source: remove --source={source}")
