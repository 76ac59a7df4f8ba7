"""Gaussian mixtures on MFCCs: the baseline of SwishNet's paper (Hussain & Haque 2018, arXiv 1812.00149; document 003).

    python -m genre_jax.prepare --dataset=musan --source=MUSAN --data_dir=data --sample_rate=16000
    python -m genre_jax.main --config=configs/gmm.py --config.data.name=musan
    python -m genre_jax.main --config=configs/gmm.py:demo       embedded data, minutes on two CPU cores

Source: the paper: 3 × 256 diagonal Gaussians on 20 MFCCs of 32 mels with delta and delta-delta, equalised loudness, windows
of 200 frames with 50 % overlap. Its accuracy is 97.79 % for clips of 2 s of MUSAN, split by file into 65 / 10 / 25 %.
Missing here: removal of silence. The paper does not state the following choices: features are standardised, which changes no
likelihood ratio and keeps float32 exact; 100,000 frames per class are fitted; the start and the end of the fit; the
log-likelihoods of a clip's frames are averaged. scikit-learn fits the mixtures, therefore one process trains.
Hardware, time, score: the full run was not measured here.
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
    """Embedded data, fewer Gaussians and frames."""
    config.model.update(components=32, frames=20_000)
    config.evaluate.hop = 0
