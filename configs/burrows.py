"""The three Keras networks of Burrows, Jackson & Zamora (document 002) on FMA small.

    python -m genre_jax.prepare --dataset=fma_small --split=70_30 --name=fma --source=FMA --sample_rate=44100
    python -m genre_jax.main --config=configs/burrows.py --config.data.name=fma           MLP on means of 80 MFCCs
    python -m genre_jax.main --config=configs/burrows.py:conv1d --config.data.name=fma    1-D CNN on 80 MFCCs, 2,500 frames
    python -m genre_jax.main --config=configs/burrows.py:conv2d --config.data.name=fma    2-D CNN on mel spectrograms, 12,000 Hz
    python -m genre_jax.main --config=configs/burrows.py:demo        MLP on embedded data, minutes on two CPU cores

Source: the document. It uses whole clips of 30 s, eight genres, a split of 70 % / 30 %, 100 epochs for the MLP and 50 epochs
for the other networks. Its accuracies (training / validation) are 69.1 / 48.3 %, 52 / 44 % and 96.8 / 42 %, in the order of
the commands. It does not name optimiser, learning rate, batch size and L2 factor. This config chooses Keras's Adam at 1e-3,
batches of 32, no L2 penalty, and the sample rates.
Hardware, time, score: the full run was not measured here.
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
    """The document's "3D" network: 1-D convolutions along the coefficients; the frames are the channels."""
    config.train.duration = "50 epochs"
    choose(config, "frontend", "burrows_mfcc")
    choose(config, "model", "burrows_conv1d")


def conv2d(config):
    """The document's "4D" network: 2-D convolutions on 96 × 1366 spectrograms of 29.12 s."""
    config.data.update(sample_rate=12_000, samples=349_440)
    config.train.duration = "50 epochs"
    choose(config, "frontend", "burrows_melgram")
    choose(config, "model", "burrows_conv2d")


def demo(config):
    """Embedded data, cuts of 10 s."""
    config.data.update(sample_rate=16_000, samples=160_000)
    config.train.update(batch_size=16, duration="40 epochs", evaluate_every="5 epochs", checkpoint_every="5 epochs")
    config.evaluate.batch_size = 16
