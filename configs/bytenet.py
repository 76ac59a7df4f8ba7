"""Dilated ByteNet on raw waveforms, after document 000 (Pollack 2018), section 3.1.4.

    python -m genre_jax.prepare --dataset=audioset_music --source=AUDIOSET
    python -m genre_jax.main --config=configs/bytenet.py        AudioSet's unbalanced music set, all devices, deep and lean
    python -m genre_jax.main --config=configs/bytenet.py:thesis the printed row: 2.45 %
    python -m genre_jax.main --config=configs/bytenet.py:demo   embedded data, minutes on two CPU cores
    python -m genre_jax.main --config=configs/bytenet.py:single --config.data.name=my_music    your data, one label per clip
    python -m genre_jax.main --config=configs/bytenet.py:multi --config.data.name=my_music     your data, several labels

The network: 57,344 samples at 16 kHz, d = 112, kernel 3, 6 + 6 sets of blocks. Without a preset it is the network that the
thesis could not train: dilations 1, 2, 4 … 512 in each set, with the memory of dilation 16 (docs/dilation.md); all labels,
classes drawn equally often (as PANNs does), the gain capped at 0.7.

Batch, rate and steps for other numbers of devices (choices, not measured): 8 clips a device; train.batch_size = 8 × devices;
learning_rate = 1e-4 · sqrt(batch / 64), the square-root rule for Adam; durations are in epochs, so that the steps follow.
    devices                8        32         64        256
    train.batch_size      64       256        512      2,048
    learning_rate     1.0e-4    2.0e-4     2.8e-4     5.7e-4
    steps an epoch     3,502       876        438        109

Source: the thesis and its code (`thesis`): dilations 1 … 16, the balanced set, first label of each clip, softmax
cross-entropy, batches of 10 (on one device), AMSGrad at 1e-4 and 0.4 times this rate from epoch 70 of 100, random cuts, at
evaluation too, half a second at both ends unused, 100 validation clips that the test set does not leave out, the weights
after the last epoch. Its score is the number of labels among the top k predictions (k = number of labels of the clip),
divided by the number of all labels (raw/top_k_accuracy).
Hardware, time, score: the full runs were not measured here; README.md has the demo's.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("bytenet")
    config.data.update(name="audioset_music", train="unbalanced", validation="balanced", test="eval", sampling="balanced")
    config.loss.name = "sigmoid"
    config.augment.gain_cap = 0.7
    config.train.update(batch_size=64, duration="70 epochs", checkpoint_every="5000 steps")
    config.evaluate.batch_size = 64
    choose(config, "model", "bytenet", max_dilation=512, remat="lean")
    choose(config, "optimizer", "amsgrad")
    choose(config, "schedule", "cosine", learning_rate=1e-4, warmup="1 epochs")
    return with_argument(config, argument, thesis=thesis, multi=multi, single=single, demo=demo)


def thesis(config):
    """The printed row."""
    config.devices = 1
    config.data.update(train="balanced", validation="eval[:100@12345]", test="eval[:-100]", margin=8_000)
    config.data.update(labels="first", sampling="uniform")
    config.loss.name = "softmax"
    config.train.update(batch_size=10, duration="100 epochs", checkpoint_every="5 epochs")
    config.evaluate.update(batch_size=10, windows="random", weights="last")
    choose(config, "model", "bytenet", remat="lean")
    choose(config, "schedule", "multistep", learning_rate=1e-4, boundaries=["70 epochs"], gamma=0.4)


def multi(config):
    """Your data (a prepared folder), several labels per clip; the faithful network, batches that fit one device."""
    config.data.update(train="train", validation="validation", test="test", sampling="uniform")
    config.train.update(batch_size=16, checkpoint_every="1 epochs")
    config.evaluate.batch_size = 16
    choose(config, "model", "bytenet", remat="lean")


def single(config):
    """Your data (a prepared folder), one label per clip."""
    multi(config)
    config.data.labels = "first"
    config.loss.name = "softmax"


def demo(config):
    """Embedded data, cuts of 3 s at 8 kHz, a small network. A strided stem replaces the first set, which costs most."""
    single(config)
    config.data.update(name="synthetic_hard", sample_rate=8_000, samples=24_576)
    config.augment.update(gain_cap=0.0, polarity=0.5, shift=0.5)
    config.train.update(duration="40 epochs", evaluate_every="4 epochs", checkpoint_every="4 epochs", log_every="25 steps")
    choose(
        config, "model", "bytenet", width=32, max_dilation=32, stem_kernel=64, stem_stride=16, strides=[4, 4],
        decoder_sets=1, head="pooled", remat="dots",
    )  # fmt: skip
    choose(config, "schedule", "cosine", learning_rate=3e-3, warmup="50 steps")
