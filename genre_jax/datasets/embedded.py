"""The embedded data sets: procedural music of `datasets.synthetic`, made on the spot, for the demo and the tests."""

from pathlib import Path

from genre_jax.audio import Audio, Format
from genre_jax.console import UserError
from genre_jax.datasets.source import Item, Render, Source

TRACKS = {"train": 40, "validation": 10, "test": 15}  # per genre; one clip a track
SECONDS = 10.0


def synthetic(source: Path | None = None) -> Source:
    """Ten genres, one label a clip; splits disjoint in tracks and in the draws behind them."""
    from genre_jax.datasets.synthetic import GENRES  # it needs SciPy, which other data sets do not

    _no_source("synthetic", source)
    items = tuple(
        Item(name=_name(split, genre, track), track=_name(split, genre, track), labels=(genre,), split=split)
        for split, tracks in TRACKS.items()
        for genre in GENRES
        for track in range(tracks)
    )
    return Source("synthetic", GENRES, items, render_genre)


def synthetic_multilabel(source: Path | None = None) -> Source:
    """The same music with several labels a clip, for binary cross-entropy."""
    from genre_jax.datasets.synthetic import GENRES

    _no_source("synthetic_multilabel", source)
    items = tuple(
        Item(name=_name(split, "mix", track), track=_name(split, "mix", track), labels=(), split=split)
        for split, tracks in TRACKS.items()
        for track in range(tracks * len(GENRES))
    )
    return Source("synthetic_multilabel", GENRES, items, render_mix)


def render_genre(item: Item, sample_rate: int) -> Render:
    """The track of its genre that an item of `synthetic` names."""
    from genre_jax.datasets.synthetic import render

    split, genre, track = item.name.split("/")
    samples = render(genre, int(track), split, sample_rate=sample_rate, seconds=SECONDS)
    return Render(Audio(samples, sample_rate, Format("synthetic", sample_rate, 1)))


def render_mix(item: Item, sample_rate: int) -> Render:
    """The track that an item of `synthetic_multilabel` names, with the labels that come of making it."""
    from genre_jax.datasets.synthetic import render_multilabel

    split, _, track = item.name.split("/")
    samples, labels = render_multilabel(int(track), split, sample_rate=sample_rate, seconds=SECONDS)
    return Render(Audio(samples, sample_rate, Format("synthetic", sample_rate, 1)), tuple(labels))


def _name(split: str, group: str, track: int) -> str:
    return f"{split}/{group}/{track:04d}"


def _no_source(name: str, source: Path | None) -> None:
    if source is not None:
        raise UserError(f"data set {name!r} is made, not read: leave out --source={source}")
