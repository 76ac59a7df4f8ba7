"""The data sets: name → where its clips, labels, tracks and splits are. `builder` makes shards of any of them."""

from genre_jax.datasets import audioset, embedded, folder
from genre_jax.datasets.source import Finder, Item, Render, Source

__all__ = ["DATASETS", "EMBEDDED", "Finder", "Item", "Render", "Source"]

DATASETS: dict[str, Finder] = {
    "audioset_music": audioset.audioset_music,
    "folder": folder.folder,
    "synthetic": embedded.synthetic,
    "synthetic_multilabel": embedded.synthetic_multilabel,
}

EMBEDDED = ("synthetic", "synthetic_multilabel")  # made on the spot, from no source
