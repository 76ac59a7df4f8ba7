"""Dilated ByteNet on raw waveforms, after document 000 (Pollack 2018), section 3.1.4.

    python -m genre_jax.main --config=configs/bytenet.py        AudioSet's unbalanced music set on all devices
    python -m genre_jax.main --config=configs/bytenet.py:demo   embedded data, minutes on two CPU cores
    python -m genre_jax.main --config=configs/bytenet.py:single --config.data.name=my_music    own data, one label a clip

Source: the thesis and its code: 57,344 samples at 16 kHz, d = 112, kernel 3, dilations 1 … 16 in 6 + 6 sets, first label,
softmax cross-entropy, AMSGrad at 1e-4 times 0.4 at epoch 20, 70 epochs, batches of 10 (16 here, to divide over devices), gain
capped at 0.7. The printed accuracy (2.45 %, balanced set) counts hits among the top k, k = number of labels, over all labels.
Hardware, time, score: full run not measured here; the demo's are in README.md.
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
    """A prepared folder, one label a clip."""
    config.data.update(train="train", validation="validation", test="test")


def multi(config):
    """A prepared folder, several labels a clip."""
    single(config)
    config.data.labels = "multi"
    config.loss.name = "sigmoid"


def demo(config):
    """Small network on 3-s cuts at 8 kHz, embedded data. The strided stem takes the place of the first, costliest set."""
    single(config)
    config.data.update(name="synthetic", sample_rate=8_000, samples=24_576)
    config.augment.update(gain_cap=0.0, polarity=0.5, shift=0.5)
    config.train.update(duration="40 epochs", evaluate_every="4 epochs", checkpoint_every="4 epochs", log_every="25 steps")
    choose(
        config, "model", "bytenet", width=32, max_dilation=32, stem_kernel=64, stem_stride=16, strides=[4, 4],
        decoder_sets=1, head="pooled", remat="dots",
    )  # fmt: skip
    choose(config, "schedule", "cosine", learning_rate=3e-3, warmup="50 steps")
