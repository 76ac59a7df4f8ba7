"""SwishNet, slim or wide, and its self-normalising baseline network (Hussain & Haque 2018, arXiv 1812.00149; document 003).

    python -m genre_jax.prepare --dataset=musan --source=MUSAN --data_dir=data --sample_rate=16000
    python -m genre_jax.main --config=configs/swishnet.py --config.data.name=musan          slim, clips of 2 s
    python -m genre_jax.main --config=configs/swishnet.py:wide --config.data.name=musan
    python -m genre_jax.main --config=configs/swishnet.py:snn --config.data.name=musan
    python -m genre_jax.main --config=configs/swishnet.py:demo       embedded data, minutes on two CPU cores

Source: the paper, and its first author's earlier code for what the paper does not state: 20 MFCCs of 32 mels, frames of 25 ms
every 10 ms, equalised loudness, windows of 200 frames with 50 % overlap, batches of 128, Adam from 5e-4 to 1e-5, 120 epochs.
The paper's accuracies for clips of 2 s of MUSAN, split by file into 65 / 10 / 25 %, are: slim 98.41 %, wide 98.65 %, SNN
97.71 %.
Missing here: restarts of the cosine (this config uses one cosine over the run), distillation, removal of silence. The SNN's
standardised input and dropout rate are choices of this config.
Hardware, time, score: the full run was not measured here.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("swishnet")
    config.data.samples = 32_240
    config.train.update(batch_size=128, duration="120 epochs", checkpoint_every="5 epochs")
    config.evaluate.update(batch_size=128, hop=16_120)
    choose(config, "frontend", "swishnet_mfcc", conditioning=["equalise_loudness"])
    choose(config, "model", "swishnet_slim")
    choose(config, "optimizer", "adam")
    choose(config, "schedule", "cosine", learning_rate=5e-4, final=0.02)
    return with_argument(config, argument, wide=wide, snn=snn, demo=demo)


def wide(config):
    """Twice the width."""
    choose(config, "model", "swishnet_wide")


def snn(config):
    """The frame-wise baseline on MFCCs with delta and delta-delta."""
    choose(config, "frontend", "swishnet_mfcc", conditioning=["equalise_loudness"], deltas=2, scale="standardise")
    choose(config, "model", "snn")


def demo(config):
    """Embedded data, standardised MFCCs, a higher learning rate."""
    config.frontend.scale = "standardise"
    config.train.update(batch_size=16, duration="40 epochs", evaluate_every="5 epochs", checkpoint_every="5 epochs")
    config.evaluate.update(batch_size=16, hop=0)
    config.schedule.learning_rate = 5e-3
