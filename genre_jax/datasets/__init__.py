"""The data sets: name → where its clips, labels, tracks and splits are. `builder` makes shards of any of them.

The keyword arguments of a finder are the options that `prepare` takes for it: `split`, `labels`, `subset`.
"""

from genre_jax.datasets import audioset, fma, folder, gtzan, musan, synthetic
from genre_jax.datasets.types import Finder, Item, Render, Source

__all__ = ["DATASETS", "EMBEDDED", "Finder", "Item", "Render", "Source"]

DATASETS: dict[str, Finder] = {
    "audioset_music": audioset.audioset_music,
    "fma_medium": fma.fma_medium,
    "fma_small": fma.fma_small,
    "folder": folder.folder,
    "gtzan": gtzan.gtzan,
    "gtzan_music_speech": musan.gtzan_music_speech,
    "hunonspeech": musan.hunonspeech,
    "musan": musan.musan,
    "synthetic": synthetic.synthetic,
    "synthetic_multilabel": synthetic.synthetic_multilabel,
}

EMBEDDED = ("synthetic", "synthetic_multilabel")  # made on the spot, from no source
