"""Document 001 (Folmer & Lung 2021): a small CNN, an MLP and DenseNet-121 on mel spectrograms of GTZAN.

    python -m genre_jax.prepare --dataset=gtzan --split=random --source=GTZAN --sample_rate=22050
    python -m genre_jax.main --config=configs/folmer.py                        CNN, 1000 tracks
    python -m genre_jax.main --config=configs/folmer.py:densenet121,pieces     the best score, 77.8 %
    python -m genre_jax.main --config=configs/folmer.py:demo       embedded data, minutes on two CPU cores

Presets, which can be combined: `densenet121`, `mlp` (instead of the CNN); `pitch` (each training track and a copy of it with
a shifted pitch: 1,600 examples), `pieces` (five pieces of 6 s of each track: 4,000 training examples, 500 and 500 for
validation and test), `pieces_5s` (the document's wish: six pieces of 5 s that overlap by 10 ms). More wishes are keys: other
features with --config.frontend.name, fewer genres with --config.data.classes='["jazz","rock"]', K folds with
launch/repeat.py, an ensemble with genre_jax.ensemble.

Source: the document: a random split of 80 / 10 / 10 % by track that is not stratified, n_fft 2048, hop 1024, 90 mels in dB,
images of 224 × 224, dropout 0.2, 30 epochs, the weights of the lowest validation loss. Its test accuracies in % (1000 tracks
/ with pitch / pieces): CNN 65 / 57 / 65.8, DenseNet-121 68 / 74 / 77.8.
Choices, because the document does not state them: filters and units of the CNN, the place of the dropout, Adam at 1e-3 (CNN,
MLP) and 1e-4 (DenseNet-121), batches of 32, the seed of the split, all layers of DenseNet-121 trained. ImageNet weights:
--config.init_from=FILE; without it the run is from scratch.
Hardware, time, score: the full runs were not measured here.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("folmer")
    config.data.update(name="gtzan_random", sample_rate=22_050, samples=661_500)
    config.data.update(segments="consecutive", last_window="dropped")
    config.train.update(batch_size=32, duration="30 epochs")
    config.evaluate.update(batch_size=32, select="min loss")
    choose(config, "frontend", "folmer_log_mel")
    choose(config, "model", "folmer_cnn")
    choose(config, "optimizer", "adam")
    choose(config, "schedule", "constant", learning_rate=1e-3)
    return with_argument(
        config, argument, mlp=mlp, densenet121=densenet121, pitch=pitch, pieces=pieces, pieces_5s=pieces_5s, demo=demo
    )  # fmt: skip


def mlp(config):
    """The document's first network."""
    choose(config, "model", "folmer_mlp")


def densenet121(config):
    """DenseNet-121."""
    choose(config, "model", "densenet121")
    config.schedule.learning_rate = 1e-4


def pitch(config):
    """One copy of each training track, shifted by 5 to 9 semitones up or down, drawn once."""
    config.data.copies.update(semitones=[-9, -8, -7, -6, -5, 5, 6, 7, 8, 9], draw="one")


def pieces(config):
    """Five pieces of 6 s of each track, in training, validation and test."""
    config.data.samples = 132_300


def pieces_5s(config):
    """Six pieces of 5 s of each track; neighbours overlap by 10 ms."""
    config.data.update(samples=110_250, segment_hop=110_030)
    config.evaluate.hop = 110_030


def demo(config):
    """Embedded data, whole clips of 10 s, images of 64 × 64."""
    config.data.update(name="synthetic", sample_rate=16_000, samples=160_000)
    choose(config, "frontend", "folmer_log_mel", height=64, width=64)
