"""Document 002 (Burrows, Jackson & Zamora): three Keras networks on FMA small.

    python -m genre_jax.prepare --dataset=fma_small --split=70_30 --source=FMA --sample_rate=44100
    python -m genre_jax.main --config=configs/burrows.py             MLP on means of 80 MFCCs
    python -m genre_jax.main --config=configs/burrows.py:conv1d      1-D CNN on 80 MFCCs, 2,500 frames
    python -m genre_jax.prepare --dataset=fma_small --split=70_30 --source=FMA --sample_rate=12000
    python -m genre_jax.main --config=configs/burrows.py:conv2d      2-D CNN on mel spectrograms
    python -m genre_jax.main --config=configs/burrows.py:demo        MLP on embedded data, minutes on two CPU cores

Source: the document: whole clips of 30 s, eight genres, 70 % for training and 30 % for validation (here "test"), standardised
features, 100 epochs for the MLP and 50 for the other networks, an L2 penalty on kernels in the convolutional networks, no
choice of a checkpoint. Its accuracies in % (training / validation), in the order of the commands: 69.1 / 48.3, 52 / 44, 96.8
/ 42.
Choices, because the document does not state them: Keras's Adam at 1e-3, batches of 32, an L2 factor of 0.01 (Keras's default)
on the kernels of the convolutions, and the sample rates. The split draws clips, so that an artist may be on both sides, as in
the document.
Hardware, time, score: the full runs were not measured here.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("burrows")
    config.data.update(name="fma_small_70_30", sample_rate=44_100, samples=1_323_000, validation="test")
    config.train.update(batch_size=32, duration="100 epochs")
    config.evaluate.update(batch_size=32, windows="centre", weights="last", train=True)
    choose(config, "frontend", "burrows_mfcc_mean")
    choose(config, "model", "burrows_mlp")
    choose(config, "optimizer", "adam", eps=1e-7)
    choose(config, "schedule", "constant", learning_rate=1e-3)
    return with_argument(config, argument, conv1d=conv1d, conv2d=conv2d, demo=demo)


def conv1d(config):
    """The document's "3D" network: 1-D convolutions along the coefficients; the frames are the channels."""
    config.train.duration = "50 epochs"
    config.optimizer.update(kernel_l2=0.01, kernel_l2_patterns=["*/conv/kernel"])
    choose(config, "frontend", "burrows_mfcc")
    choose(config, "model", "burrows_conv1d")


def conv2d(config):
    """The document's "4D" network: 2-D convolutions on 96 × 1366 spectrograms of 29.12 s."""
    conv1d(config)
    config.data.update(sample_rate=12_000, samples=349_440)
    choose(config, "frontend", "burrows_melgram")
    choose(config, "model", "burrows_conv2d")


def demo(config):
    """Embedded data, cuts of 10 s."""
    config.data.update(name="synthetic", sample_rate=16_000, samples=160_000, validation="validation")
    config.train.update(batch_size=16, duration="40 epochs", evaluate_every="5 epochs", checkpoint_every="5 epochs")
    config.evaluate.update(batch_size=16, weights="best")
