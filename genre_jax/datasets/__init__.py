"""The data sets that `prepare` can make; `prepare/build.py` turns each of them into shards.

`DATASETS` maps a name to a finder. A finder takes the path of the source, finds the clips there, and returns a `Source`
with their labels, tracks and splits. The keyword arguments of a finder are the options of its data set on the command line
of `prepare`: `split`, `labels`, `subset`.
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
    "synthetic_hard": synthetic.synthetic_hard,
    "synthetic_multilabel": synthetic.synthetic_multilabel,
    "synthetic_musan": synthetic.synthetic_musan,
}

EMBEDDED = ("synthetic", "synthetic_hard", "synthetic_multilabel", "synthetic_musan")  # synthesised, without source files
