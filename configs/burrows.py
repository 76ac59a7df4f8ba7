"""The three Keras networks of Burrows, Jackson & Zamora (document 002) on FMA small.

    python -m genre_jax.prepare --dataset=fma_small --split=70_30 --name=fma --source=FMA --sample_rate=44100
    python -m genre_jax.main --config=configs/burrows.py --config.data.name=fma           the MLP on means of 80 MFCCs
    python -m genre_jax.main --config=configs/burrows.py:conv1d --config.data.name=fma    on 80 MFCCs of 2,500 frames
    python -m genre_jax.main --config=configs/burrows.py:conv2d --config.data.name=fma    on mel spectrograms, 12,000 Hz
    python -m genre_jax.main --config=configs/burrows.py:demo        the MLP on embedded data, minutes on two CPU cores

Source: the document: whole clips of 30 s, eight genres, 70 % / 30 %, 100 epochs (MLP) and 50. Printed accuracy, training /
validation: 69.1 / 48.3, 52 / 44, 96.8 / 42 %. Its optimiser, rate, batch and L2 factor are unknown: Keras's Adam at 1e-3,
batches of 32 and no penalty are choices, as are the sample rates.
Hardware, time, score: full run not measured here.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("burrows")
    config.data.update(sample_rate=44_100, samples=1_323_000)
    config.train.update(batch_size=32, duration="100 epochs")
    config.evaluate.batch_size = 32
    choose(config, "frontend", "burrows_mfcc_mean")
    choose(config, "model", "burrows_mlp")
    choose(config, "optimizer", "adam", eps=1e-7)
    choose(config, "schedule", "constant", learning_rate=1e-3)
    return with_argument(config, argument, conv1d=conv1d, conv2d=conv2d, demo=demo)


def conv1d(config):
    """The "3D" network: convolutions along the coefficients, frames as channels."""
    config.train.duration = "50 epochs"
    choose(config, "frontend", "burrows_mfcc")
    choose(config, "model", "burrows_conv1d")


def conv2d(config):
    """The "4D" network: cuts of 29.12 s, 96 × 1366."""
    config.data.update(sample_rate=12_000, samples=349_440)
    config.train.duration = "50 epochs"
    choose(config, "frontend", "burrows_melgram")
    choose(config, "model", "burrows_conv2d")


def demo(config):
    """Clips of 10 s, embedded data."""
    config.data.update(sample_rate=16_000, samples=160_000)
    config.train.update(batch_size=16, duration="40 epochs", evaluate_every="5 epochs", checkpoint_every="5 epochs")
    config.evaluate.batch_size = 16
