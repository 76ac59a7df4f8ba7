"""Document 003, first strand: Choi's five-layer network, whose filters `genre_jax.explain` makes audible (arXiv 1607.02444).

    python -m genre_jax.prepare --dataset=gtzan --split=random --source=GTZAN --sample_rate=11025
    python -m genre_jax.main --config=configs/choi.py              ten genres of GTZAN
    python -m genre_jax.main --config=configs/choi.py:three        three genres
    python -m genre_jax.main --config=configs/choi.py:demo         embedded data, minutes on two CPU cores

Presets: `three` (pop, disco and hip-hop), `demo`. Then `genre-jax explain --workdir=runs/choi SONG.mp3` makes the filters
audible.

Source: the document, and for the sample rate the authors' code (11,025 Hz; the document states 22.5 kHz, which fits neither its
4-s clips of 173 frames nor its Table I): magnitude STFT 512 / 256, ten clips of 4 s of each song, five layers of 64 maps with
dropout 0.5, two dense layers. Its ten printed numbers are the sizes of the kernels (Table I), which need no training. The
document's accuracy is cut off after "75".
Choices: the data (the source has 8,000 songs: ballad, dance, hip-hop), the split, 256 units in the dense layer, Adam
at 1e-3, batches of 64, 60 epochs.
Hardware, time, score: the full runs were not measured here. `:demo`: 100 % of 150 test tracks of `synthetic`, seed 0, 375 s of
training on a 2-core CPU that other jobs shared.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("choi")
    config.data.update(name="gtzan_random", sample_rate=11_025, samples=44_100, segments="fixed", segments_per_track=10)
    config.train.update(batch_size=64, duration="60 epochs")
    config.evaluate.update(batch_size=64)
    choose(config, "frontend", "choi_stft")
    choose(config, "model", "choi_cnn")
    choose(config, "optimizer", "adam")
    choose(config, "schedule", "constant", learning_rate=1e-3)
    return with_argument(config, argument, three=three, demo=demo)


def three(config):
    """The genres of GTZAN that are nearest to the document's ballad, dance and hip-hop."""
    config.data.classes = ["pop", "disco", "hiphop"]


def demo(config):
    """Embedded data; fewer maps and less dropout, because the data are few."""
    config.data.update(name="synthetic", segments="random")
    config.model.update(maps=16, hidden=64, dropout=0.1)
    config.train.update(batch_size=16, duration="30 epochs", evaluate_every="5 epochs", checkpoint_every="5 epochs")
    config.evaluate.update(batch_size=16)
