"""Your own genres from a few songs: a linear probe of musicnn, then its upper layers at a lower rate.

    python -m genre_jax.prepare --source=my_music --name=my_music --sample_rate=16000
    python -m genre_jax.main --config=configs/own_music.py

Source: weights of musicnn (Pons & Serra 2019, arXiv 1909.06654), which docs/weights.md describes. The classifier reads the
pooled features. It starts as a logistic regression (arXiv 2202.10054); then classifier and layers along time are trained on
augmented cuts, as long as the loss of the validation split falls. If it does not fall, the result is the probe of the training
and the validation split.
Data: 10 to 10,000 songs, 2 to 200 classes, one label or several labels a song, three songs a class at least.
Hardware, time, score: two CPU cores, minutes; docs/own_music.md has the scores on real songs.
"""

from genre_jax.config import base, choose, with_argument
from genre_jax.weights.musicnn import HOP, PATCH


def get_config(argument: str = ""):
    config = base("own_music")
    config.init_from = "musicnn"
    config.head.start = "logistic"
    config.data.update(name="my_music", samples=(PATCH + 1) * HOP, sampling="balanced")
    config.loss.name = "auto"
    config.freeze.update(patterns=["*", "!middle*", "!fc/*"], batch_stats=True)
    config.learning_rates = ["middle*=0.1"]
    config.augment.update(gain_db=6.0, equalise_db=6.0, polarity=0.5)
    config.train.update(duration="300 steps", evaluate_every="25 steps", checkpoint_every="25 steps", patience=2)
    config.evaluate.update(select="min loss", windows="fixed", hop=PATCH * HOP)
    choose(config, "frontend", "musicnn_log_mel")
    choose(config, "model", "musicnn", head="pools", dropout=0.0)
    choose(config, "optimizer", "adam")
    choose(config, "schedule", "cosine", learning_rate=2e-5)
    return with_argument(config, argument, demo=demo, frozen=frozen, scratch=scratch)


def demo(config):
    """Embedded data."""
    config.data.name = "synthetic"


def frozen(config):
    """The linear probe alone."""
    config.train.update(duration="0 steps", patience=0)


def scratch(config):
    """A small ResNet34 that starts from random weights."""
    config.init_from = ""
    config.head.start = "random"
    config.data.samples = 48_000
    config.freeze.update(patterns=[], batch_stats=False)
    config.learning_rates = []
    config.train.update(duration="30 epochs", evaluate_every="1 epochs", checkpoint_every="1 epochs", patience=0)
    choose(config, "frontend", "log_mel_image", height=64, width=128)
    choose(config, "model", "resnet34", width=32)
    choose(config, "optimizer", "amsgrad")
    choose(config, "schedule", "cosine", learning_rate=1e-3, warmup="1 epochs")
