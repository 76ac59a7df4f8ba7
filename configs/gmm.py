"""Gaussian mixtures on MFCCs: the baseline of SwishNet's paper (Hussain & Haque 2018, arXiv 1812.00149; document 003).

    python -m genre_jax.prepare --dataset=musan --condition=remove_silence,equalise_loudness --name=musan --source=MUSAN
    python -m genre_jax.main --config=configs/gmm.py
    python -m genre_jax.main --config=configs/gmm.py:demo       embedded data, minutes on two CPU cores

Source: the paper: 3 × 256 diagonal Gaussians on 20 MFCCs of 32 mels with delta and delta-delta, windows of 200 frames with 50
% overlap; the frames of a window vote. Its accuracy is 97.79 % for clips of 2 s of MUSAN, split by file into 65 / 10 / 25 %.
Choices, because the paper does not state them: the threshold of silence; features are standardised, which changes no
likelihood ratio and keeps float32 exact; 100,000 frames per class are fitted; the start and the end of the fit. scikit-learn
fits the mixtures, therefore one process trains.
Hardware, time, score: the full run was not measured here.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("gmm")
    config.data.update(name="musan", conditioning=["remove_silence", "equalise_loudness"], samples=32_240)
    config.train.duration = "1 steps"
    config.evaluate.update(batch_size=128, hop=16_000)
    choose(config, "frontend", "swishnet_mfcc", deltas=2, scale="standardise")
    choose(config, "model", "gmm")
    return with_argument(config, argument, demo=demo)


def demo(config):
    """Embedded data, fewer Gaussians and frames."""
    config.data.update(name="synthetic_musan", conditioning=[])
    config.model.update(components=32, frames=20_000)
    config.evaluate.hop = 0
