"""ResNet34 on log-mel spectrograms. The published runs of document 000 (Pollack 2018) are in pollack.py.

    python -m genre_jax.main --config=configs/resnet34_spectrogram.py              AudioSet's unbalanced music set
    python -m genre_jax.main --config=configs/resnet34_spectrogram.py:demo         embedded data
    python -m genre_jax.main --config=configs/resnet34_spectrogram.py:single --config.data.name=my_music    your data

Source: features and optimiser of the thesis and its code: cuts of 3 s at 16 kHz, n_fft 600, hop length 300, 112 mels in dB
below the maximum, resized to 224 × 224 with aligned corners, AMSGrad at 1e-4. Batches of 96 can be divided over devices.
Evaluation covers the whole clip; training starts from random weights.
Hardware, time, score: the full run was not measured here; README.md has the demo's.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("resnet34_spectrogram")
    config.data.update(name="audioset_music", train="unbalanced", validation="balanced", test="eval", samples=48_000)
    config.loss.name = "sigmoid"
    config.augment.gain_cap = 0.7
    config.train.update(batch_size=96, duration="50 epochs", checkpoint_every="1000 steps")
    config.evaluate.batch_size = 96
    choose(config, "frontend", "log_mel_image")
    choose(config, "model", "resnet34")
    choose(config, "optimizer", "amsgrad")
    choose(config, "schedule", "multistep", learning_rate=1e-4, boundaries=["25 epochs", "40 epochs"], gamma=0.4)
    return with_argument(config, argument, demo=demo, single=single, multi=multi)


def single(config):
    """Your data (a prepared folder), one label per clip."""
    multi(config)
    config.data.labels = "first"
    config.loss.name = "softmax"


def multi(config):
    """Your data (a prepared folder), several labels per clip; batches that fit one device."""
    config.data.update(train="train", validation="validation", test="test")
    config.train.update(batch_size=32, duration="30 epochs", checkpoint_every="1 epochs")
    config.evaluate.batch_size = 32
    choose(config, "schedule", "cosine", learning_rate=1e-3, warmup="1 epochs")


def demo(config):
    """Embedded data, small images."""
    single(config)
    config.data.name = "synthetic"
    config.augment.gain_cap = 0.0
    config.train.update(batch_size=16, duration="10 epochs")
    choose(config, "frontend", "log_mel_image", height=64, width=128)
    choose(config, "model", "resnet34", width=32)
