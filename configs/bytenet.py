"""Dilated ByteNet on raw waveforms, after document 000 (Pollack 2018), section 3.1.4.

    python -m genre_jax.main --config=configs/bytenet.py        AudioSet's unbalanced music set, all devices
    python -m genre_jax.main --config=configs/bytenet.py:demo   embedded data, minutes on two CPU cores
    python -m genre_jax.main --config=configs/bytenet.py:single --config.data.name=my_music    your data, one label per clip

Source: the thesis and its code: 57,344 samples at 16 kHz, d = 112, kernel 3, dilations 1 … 16 in 6 + 6 sets, first label of
each clip, softmax cross-entropy, AMSGrad at 1e-4 and 0.4 times this rate from epoch 20, 70 epochs, gain capped at 0.7. The
thesis uses batches of 10; this config uses 16, which can be divided over devices. The thesis's accuracy is 2.45 % on the
balanced set. It is the number of labels among the top k predictions (k = number of labels of the clip), divided by the number
of all labels.
Hardware, time, score: the full run was not measured here; README.md has the demo's.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("bytenet")
    config.data.update(name="audioset_music", train="unbalanced", validation="balanced", test="eval", labels="first")
    config.augment.gain_cap = 0.7
    config.train.update(batch_size=16, duration="70 epochs", checkpoint_every="5000 steps")
    choose(config, "model", "bytenet", remat="lean")
    choose(config, "optimizer", "amsgrad")
    choose(config, "schedule", "multistep", learning_rate=1e-4, boundaries=["20 epochs"], gamma=0.4)
    return with_argument(config, argument, demo=demo, single=single, multi=multi)


def single(config):
    """Your data (a prepared folder), one label per clip."""
    config.data.update(train="train", validation="validation", test="test")


def multi(config):
    """Your data (a prepared folder), several labels per clip."""
    single(config)
    config.data.labels = "multi"
    config.loss.name = "sigmoid"


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
