"""Gaussian mixtures on MFCCs: the baseline of SwishNet's paper (Hussain & Haque 2018, arXiv 1812.00149; document 003).

    python -m genre_jax.prepare --dataset=musan --source=MUSAN --data_dir=data --sample_rate=16000
    python -m genre_jax.main --config=configs/gmm.py --config.data.name=musan
    python -m genre_jax.main --config=configs/gmm.py:demo       embedded data, minutes on two CPU cores

Source: the paper's 3 × 256 diagonal Gaussians on 20 MFCCs of 32 mels, delta and delta-delta, loudness equalised, windows of
200 frames with 50 % overlap. Printed for clips of 2 s of MUSAN, by file 65 / 10 / 25 %: 97.79 %.
Not here: removal of silence. Standardised features (they change no likelihood ratio, and keep float32 exact), the 100,000
frames a class, start and end of the fit, and that a clip's frames add up, are choices. scikit-learn fits: one process.
Hardware, time, score: full run not measured here.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("gmm")
    config.data.samples = 32_240
    config.train.duration = "1 steps"
    config.evaluate.update(batch_size=128, hop=16_120)
    choose(config, "frontend", "swishnet_mfcc", conditioning=["equalise_loudness"], deltas=2, scale="standardise")
    choose(config, "model", "gmm")
    return with_argument(config, argument, demo=demo)


def demo(config):
    """Fewer Gaussians and frames, embedded data."""
    config.model.update(components=32, frames=20_000)
    config.evaluate.hop = 0
