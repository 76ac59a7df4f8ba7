"""Document 003, first half: SwishNet and its rivals on MUSAN and GTZAN music/speech (Hussain & Haque, arXiv 1812.00149).

    python -m genre_jax.prepare --dataset=musan --condition=remove_silence,equalise_loudness --name=musan --source=MUSAN
    python -m genre_jax.main --config=configs/swishnet.py                  slim, clips of 2 s
    python -m genre_jax.main --config=configs/swishnet.py:wide,half_second
    python -m genre_jax.main --config=configs/swishnet.py:snn
    python -m genre_jax.main --config=configs/swishnet.py:mobilenet
    python -m genre_jax.prepare --dataset=gtzan_music_speech --split=25_75 --name=gtzan_music_speech --source=MUSIC_SPEECH \
        --condition=log_mmse,remove_silence,equalise_loudness
    python -m genre_jax.main --config=configs/swishnet.py:gtzan --config.init_from=runs/swishnet
    python -m genre_jax.main --config=configs/swishnet.py:demo       embedded data, minutes on two CPU cores

Presets, which can be combined: `wide` (twice the width), `snn` (the frame-wise baseline), `mobilenet` (the teacher);
`one_second`, `half_second` (shorter clips; the batch grows, so that the steps of an epoch stay); `gtzan` (fine-tuning on 25 %
of the files of GTZAN music/speech). The Gaussian mixtures are in gmm.py.

Source: the paper, and its first author's earlier code for what the paper does not state: 20 MFCCs of 32 mels (MobileNet: 64
log mels), frames of 25 ms every 10 ms, all windows of 200 frames with 50 % overlap, batches of 128, Adam from 5e-4 to 1e-5
with warm restarts (periods of 1, 2, 4 … epochs), 120 epochs; MobileNet 10 epochs, 0.6 times the rate every epoch from the
fifth. Files are split 65 / 10 / 25 %. The paper's accuracies for clips of 2 s of MUSAN are: slim 98.41 %, wide 98.65 %, SNN
97.71 %, MobileNet 98.95 % (99.38 % from ImageNet weights). The table for GTZAN (third_party/published_results.csv) is of
distilled networks.
Missing here: distillation. Choices: the threshold of silence, the SNN's standardised input and dropout rate, the learning
rate and the batch of the fine-tuning.
ImageNet weights for MobileNet: --config.init_from=FILE; without it the run is from scratch.
Hardware, time, score: the full runs were not measured here.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("swishnet")
    config.data.update(name="musan", conditioning=["remove_silence", "equalise_loudness"], segments="consecutive")
    config.train.update(duration="120 epochs", evaluate_every="1 epochs", checkpoint_every="5 epochs")
    seconds(config, 2.0)
    choose(config, "frontend", "swishnet_mfcc")
    choose(config, "model", "swishnet_slim")
    choose(config, "optimizer", "adam")
    choose(config, "schedule", "cosine_restarts", learning_rate=5e-4, final=0.02, period="1 epochs")
    return with_argument(
        config, argument, wide=wide, snn=snn, mobilenet=mobilenet, one_second=one_second, half_second=half_second, gtzan=gtzan,
        demo=demo,
    )  # fmt: skip


def seconds(config, length: float) -> None:
    """Clips of 100 frames a second and 15 ms more, half of them overlapping; batches of 256 s."""
    config.data.update(samples=int(16_000 * length) + 240, segment_hop=int(8_000 * length))
    config.train.batch_size = config.evaluate.batch_size = int(256 / length)
    config.evaluate.hop = config.data.segment_hop


def wide(config):
    """Twice the width."""
    choose(config, "model", "swishnet_wide")


def snn(config):
    """The frame-wise baseline on MFCCs with delta and delta-delta; its frames vote."""
    choose(config, "frontend", "swishnet_mfcc", deltas=2, scale="standardise")
    choose(config, "model", "snn")


def mobilenet(config):
    """MobileNet v1 with a quarter of the channels on an image of log mel energies."""
    config.train.duration = "10 epochs"
    choose(config, "frontend", "swishnet_log_mel", image=True)
    choose(config, "model", "mobilenet_v1")
    epochs = [f"{epoch} epochs" for epoch in range(5, 10)]
    choose(config, "schedule", "multistep", learning_rate=5e-4, boundaries=epochs, gamma=0.6)


def one_second(config):
    """Clips of 1 s."""
    seconds(config, 1.0)


def half_second(config):
    """Clips of 0.5 s."""
    seconds(config, 0.5)


def gtzan(config):
    """Fine-tuning on a quarter of the files of GTZAN music/speech: 50 epochs at a low rate, no validation split."""
    config.data.update(name="gtzan_music_speech", validation="")
    config.data.conditioning = ["log_mmse", *config.data.conditioning]
    config.train.update(batch_size=config.train.batch_size // 4, duration="50 epochs")
    config.evaluate.weights = "last"
    choose(config, "schedule", "constant", learning_rate=1e-4)


def demo(config):
    """Embedded data, standardised MFCCs, random cuts, a higher learning rate."""
    config.data.update(name="synthetic", conditioning=[], segments="random")
    config.frontend.scale = "standardise"
    config.train.update(batch_size=16, duration="40 epochs", evaluate_every="5 epochs", checkpoint_every="5 epochs")
    config.evaluate.update(batch_size=16, hop=0)
    choose(config, "schedule", "cosine", learning_rate=5e-3, final=0.02)
