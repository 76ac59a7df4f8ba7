"""GRU encoder-decoder with attention on log-mel frames. The published runs of document 000 (Pollack 2018) are in pollack.py.

    python -m genre_jax.main --config=configs/gru_attention.py              AudioSet's unbalanced music set, all devices
    python -m genre_jax.main --config=configs/gru_attention.py:demo         embedded data, minutes on two CPU cores
    python -m genre_jax.main --config=configs/gru_attention.py:single --config.data.name=my_music  your data, one label per clip

Source: network and features of the thesis and its code: cuts of 3 s at 16 kHz, 161 frames of 112 mels in dB below the
maximum, not scaled; hidden size 2500, "general" score, 61,284,567 parameters; SGD with momentum 0.9 at 1e-4 and 0.4 times
this rate from epoch 20, 70 epochs, gain capped at 0.7. Batches of 96 can be divided over devices. Evaluation covers the whole
clip.
Hardware, time, score: the full run was not measured here.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("gru_attention")
    config.data.update(name="audioset_music", train="unbalanced", validation="balanced", test="eval", samples=48_000)
    config.loss.name = "sigmoid"
    config.augment.gain_cap = 0.7
    config.train.update(batch_size=96, duration="70 epochs", checkpoint_every="1000 steps")
    config.evaluate.batch_size = 96
    choose(config, "frontend", "log_mel")
    choose(config, "model", "gru_attention")
    choose(config, "optimizer", "sgd", momentum=0.9)
    choose(config, "schedule", "multistep", learning_rate=1e-4, boundaries=["20 epochs"], gamma=0.4)
    return with_argument(config, argument, demo=demo, single=single, multi=multi)


def single(config):
    """Your data (a prepared folder), one label per clip."""
    multi(config)
    config.data.labels = "first"
    config.loss.name = "softmax"


def multi(config):
    """Your data (a prepared folder), several labels per clip; batches that fit one device, standardised features, Adam."""
    config.data.update(train="train", validation="validation", test="test")
    config.train.update(batch_size=32, duration="30 epochs", checkpoint_every="1 epochs")
    config.evaluate.batch_size = 32
    choose(config, "frontend", "log_mel", scale="standardise")
    choose(config, "optimizer", "adam")
    choose(config, "schedule", "cosine", learning_rate=3e-4, warmup="1 epochs")
    config.gradient_clip = 1.0


def demo(config):
    """Embedded data, a small network that accepts any length."""
    single(config)
    config.data.name = "synthetic"
    config.augment.gain_cap = 0.0
    config.train.update(batch_size=16, duration="20 epochs", evaluate_every="4 epochs", checkpoint_every="4 epochs")
    choose(config, "model", "gru_attention", hidden=128, features=64, head="pooled")
    choose(config, "schedule", "cosine", learning_rate=2e-3, warmup="1 epochs")
