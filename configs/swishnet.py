r"""Document 003, first half: SwishNet and its rivals on MUSAN and GTZAN music/speech (Hussain & Haque, arXiv 1812.00149).

    python -m genre_jax.prepare --dataset=musan --condition=remove_silence,equalise_loudness --name=musan --source=MUSAN
    python -m genre_jax.main --config=configs/swishnet.py                  slim, clips of 2 s
    python -m genre_jax.main --config=configs/swishnet.py:wide,half_second
    python -m genre_jax.main --config=configs/swishnet.py:snn
    python -m genre_jax.main --config=configs/swishnet.py:teacher
    python -m genre_jax.main --config=configs/swishnet.py:distilled        slim, learns from runs/swishnet_teacher
    python -m genre_jax.prepare --dataset=gtzan_music_speech --split=25_75 --name=gtzan_music_speech --source=MUSIC_SPEECH \
        --condition=log_mmse,remove_silence,equalise_loudness
    python -m genre_jax.main --config=configs/swishnet.py:gtzan --config.init_from=runs/swishnet_distilled
    python -m genre_jax.main --config=configs/swishnet.py:demo       embedded data, minutes on two CPU cores
    genre-jax segment --workdir=runs/swishnet FILE                   speech, music or noise, frame by frame (docs/segment.md)

Presets, which can be combined: `wide` (twice the width), `snn` (the frame-wise baseline), `teacher` (MobileNet);
`one_second`, `half_second` (shorter clips; the batch grows, so that the steps of an epoch stay); `distilled` (learns from the
teacher of the same clip length, at the temperature that the paper chose on validation data); `gtzan` (fine-tuning on 25 % of
the files of GTZAN music/speech). The Gaussian mixtures are in gmm.py. This command chooses the temperature anew, on the
validation split:

    python launch/sweep.py --config=swishnet:distilled --workdir=runs/temperature --noprune --trials=8 \
        --space=distill.temperature=choice:1,2,4,8,10

Source: the paper, and its first author's earlier code for what the paper does not state: 20 MFCCs of 32 mels (MobileNet: an
image of 64 log mels, time × mel), frames of 25 ms every 10 ms, all windows of 200 frames with 50 % overlap, batches of 128,
Adam from 5e-4 to 1e-5 with warm restarts (periods of 1, 2, 4 … epochs), 120 epochs; MobileNet 10 epochs, 0.6 times the rate
every epoch from the fifth. Files are split 65 / 10 / 25 %. Distillation: 0.9 of the soft loss and 0.1 of the loss on labels,
temperatures 4, 2, 1 (slim) and 10, 10, 8 (wide) for clips of 2, 1 and 0.5 s. The paper's accuracies for clips of 2 s of MUSAN
are: slim 98.41 % (distilled 98.57 %), wide 98.65 % (98.92 %), SNN 97.71 %, MobileNet 98.95 % (99.38 % from ImageNet weights).
The table for GTZAN (third_party/published_results.csv) is of distilled networks.
Choices: the soft loss is multiplied by T², which the paper leaves open (--config.distill.squared=false switches it off); the
threshold of silence, the SNN's standardised input and dropout rate, the normalisation of MobileNet's image, the learning rate
and the batch of the fine-tuning.
ImageNet weights for MobileNet: --config.init_from=FILE; without it the run is from scratch.
Hardware, time, score: the full runs were not measured here; docs/results.md has runs on a small set in MUSAN's layout.
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
        config, argument, wide=wide, snn=snn, teacher=teacher, one_second=one_second, half_second=half_second,
        distilled=distilled, gtzan=gtzan, demo=demo,
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


def teacher(config):
    """MobileNet v1 with a quarter of the channels on an image of log mel energies, time × mel."""
    config.train.duration = "10 epochs"
    choose(config, "frontend", "swishnet_log_mel", image=True, upright=True)
    choose(config, "model", "mobilenet_v1")
    epochs = [f"{epoch} epochs" for epoch in range(5, 10)]
    choose(config, "schedule", "multistep", learning_rate=5e-4, boundaries=epochs, gamma=0.6)


def one_second(config):
    """Clips of 1 s."""
    seconds(config, 1.0)


def half_second(config):
    """Clips of 0.5 s."""
    seconds(config, 0.5)


TEMPERATURES = {1: {2.0: 4.0, 1.0: 2.0, 0.5: 1.0}, 2: {2.0: 10.0, 1.0: 10.0, 0.5: 8.0}}  # by width and clip length in s
TEACHERS = {2.0: "runs/swishnet_teacher", 1.0: "runs/swishnet_teacher_one_second", 0.5: "runs/swishnet_teacher_half_second"}


def distilled(config):
    """The loss on labels, and on the logits of a teacher that was trained before on clips of the same length."""
    length = config.data.segment_hop / 8_000
    config.distill.update(teacher=TEACHERS[length], temperature=TEMPERATURES[config.model.width][length])


def gtzan(config):
    """Fine-tuning on a quarter of the files of GTZAN music/speech: 50 epochs at a low rate, no validation split."""
    config.data.update(name="gtzan_music_speech", validation="")
    config.data.conditioning = ["log_mmse", *config.data.conditioning]
    config.train.update(batch_size=config.train.batch_size // 4, duration="50 epochs")
    config.evaluate.weights = "last"
    choose(config, "schedule", "constant", learning_rate=1e-4)


def demo(config):
    """Embedded data, standardised features, random cuts, a higher learning rate. The teacher of a demo is a demo, too."""
    config.data.update(name="synthetic_musan", conditioning=[], segments="random")
    config.frontend.scale = "standardise"
    config.train.update(batch_size=16, duration="40 epochs", evaluate_every="5 epochs", checkpoint_every="5 epochs")
    config.evaluate.update(batch_size=16, hop=0)
    choose(config, "schedule", "cosine", learning_rate=5e-3, final=0.02)
    if config.distill.teacher:
        config.distill.teacher += "_demo"
    if config.model.name == "mobilenet_v1":
        config.train.duration = "10 epochs"
        config.schedule.learning_rate = 1e-3
