"""Document 000 (Pollack 2018), table 3.1: ResNet34, ResNet101 and GRU attention on AudioSet's music clips. ByteNet: bytenet.py.

    python -m genre_jax.prepare --dataset=audioset_music --subset=19042 --source=AUDIOSET
    python -m genre_jax.prepare --dataset=hunonspeech --source=HUNONSPEECH
    python -m genre_jax.main --config=configs/pollack.py                            ResNet34, spectrogram, BCE, balanced set
    python -m genre_jax.main --config=configs/pollack.py:resnet101,unbalanced,ce           the best row of the table
    python -m genre_jax.main --config=configs/pollack.py:noise
    python -m genre_jax.main --config=configs/pollack.py:gru_attention,ce
    python -m genre_jax.main --config=configs/pollack.py:demo     embedded data, a small ResNet34, minutes on two CPU cores

Presets, which can be combined: `resnet101`, `gru_attention` (instead of ResNet34); `mfcc` (instead of the spectrogram); `ce`
(cross-entropy of the first label instead of binary cross-entropy of all); `unbalanced` (the subset of 19,042 clips); `noise`
(HuNonspeech in half of the clips), `noises` (three at once); `cached` (a clip keeps its cut and noise for 10 epochs); `text`
(what the thesis describes and its code does otherwise); `clean` (validation clips outside the test set); `crop_5s`,
`crop_10s`.

Source: the thesis and its code, which made the published rows: random cuts of 3 s at 16 kHz, at evaluation too, half a second
at both ends unused, gain capped at 0.7, batches of 100, AMSGrad at 1e-4, a frozen trunk first, the weights after the last
epoch. The 100 validation clips are drawn from the evaluation set; the test set of 2,474 clips does not leave them out.
`text`: spectrograms in [0, 1], the first 10 epochs without noise, noise drawn again every 10 epochs, other schedules. Scores:
third_party/ published_results.csv; each is the number of labels among the top k predictions, divided by the number of all
labels (raw/top_k_accuracy).
Choices: the seed of the validation clips (the code's depends on its file order), and the subset (its list is not published).
ImageNet weights: --config.init_from=FILE, as the thesis has it; without it the run is from scratch.
Hardware, time, score: the full runs were not measured here.
"""

from genre_jax.config import base, choose, with_argument

# Epochs: end of the freeze, changes of the learning rate by 0.4, end. "text" describes the unbalanced set alone.
SCHEDULES = {
    "resnet34": {"balanced": (20, [60, 100], 120), "unbalanced": (10, [25, 40], 50), "text": (10, [10, 25, 40], 50)},
    "resnet101": {"balanced": (20, [40], 80), "unbalanced": (10, [20, 28], 33), "text": (10, [10, 20, 28], 33)},
    "gru_attention": {"balanced": (0, [70], 100), "unbalanced": (0, [20], 70), "text": (0, [25], 40)},
}


def get_config(argument: str = ""):
    config = base("pollack")
    config.data.update(name="audioset_music_subset_19042", samples=48_000, margin=8_000)
    config.data.update(train="balanced", validation="eval[:100@12345]", test="eval[:-100]")
    config.loss.name = "sigmoid"
    config.augment.gain_cap = 0.7
    config.train.update(batch_size=100, checkpoint_every="5 epochs")
    config.evaluate.update(batch_size=100, windows="random", weights="last")
    choose(config, "frontend", "log_mel_image")
    choose(config, "model", "resnet34")
    config.freeze.update(patterns=["*", "!fc/*"], optimizer_from="start")
    choose(config, "optimizer", "amsgrad")
    schedule(config, "balanced")
    return with_argument(
        config, argument, resnet101=resnet101, gru_attention=gru_attention, mfcc=mfcc, ce=ce, unbalanced=unbalanced,
        noise=noise, noises=noises, cached=cached, text=text, clean=clean, crop_5s=crop_5s, crop_10s=crop_10s, demo=demo,
    )  # fmt: skip


def schedule(config, name: str) -> None:
    """Set the epochs and the learning rate from a row of `SCHEDULES`."""
    freeze, boundaries, end = SCHEDULES[config.model.name][name]
    config.train.duration = f"{end} epochs"
    config.freeze.until = f"{freeze} epochs" if freeze else ""
    epochs = [f"{epoch} epochs" for epoch in boundaries]
    choose(config, "schedule", "multistep", learning_rate=1e-4, boundaries=epochs, gamma=0.4)


def resnet101(config):
    """ResNet101; the code normalises the image of ResNet34 alone."""
    choose(config, "model", "resnet101", instance_norm=False)
    schedule(config, "balanced")


def gru_attention(config):
    """The GRU encoder-decoder with attention on unscaled frames in dB: no ImageNet weights, no freeze, SGD with momentum."""
    choose(config, "frontend", "log_mel")
    choose(config, "model", "gru_attention")
    choose(config, "optimizer", "sgd", momentum=0.9)
    config.freeze.patterns = []
    schedule(config, "balanced")


def mfcc(config):
    """12 MFCCs as an image."""
    choose(config, "frontend", "pollack_mfcc")


def ce(config):
    """Cross-entropy of the first label of each clip. The scores still count all labels."""
    config.data.labels = "first"
    config.loss.name = "softmax"


def unbalanced(config):
    """The subset of the unbalanced set, with its schedules."""
    config.data.train = "unbalanced"
    schedule(config, "unbalanced")


def noise(config):
    """One of 100 noises in half of the training clips, with a factor of 0.14 to 0.26."""
    config.augment.noise.data_set = "hunonspeech"


def noises(config):
    """Three noises at once."""
    noise(config)
    config.augment.noise.count = 3


def cached(config):
    """Cuts and noises are drawn again every 10 epochs, as with the code's cache."""
    config.data.refresh_epochs = 10


def text(config):
    """The protocol that the thesis describes."""
    schedule(config, "text")
    cached(config)
    if config.frontend.name == "log_mel_image":
        config.frontend.scale = "min_max"
    if config.augment.noise.data_set:
        config.augment.start = ["noise=10 epochs"]


def clean(config):
    """The validation clips are not in the test set."""
    config.data.test = "eval[100:@12345]"


def crop_5s(config):
    """Cuts of 5 s."""
    config.data.samples = 80_000


def crop_10s(config):
    """Whole clips of 10 s."""
    config.data.update(samples=160_000, margin=0)


def demo(config):
    """Embedded data, a small ResNet34 whose trunk is frozen for 2 of 12 epochs."""
    config.data.update(name="synthetic", train="train", validation="validation", test="test")
    config.augment.gain_cap = 0.0
    config.train.update(batch_size=16, duration="12 epochs")
    config.evaluate.batch_size = 16
    config.freeze.until = "2 epochs"
    choose(config, "frontend", "log_mel_image", height=64, width=128)
    choose(config, "model", "resnet34", width=32)
    choose(config, "schedule", "multistep", learning_rate=1e-3, boundaries=["8 epochs", "10 epochs"], gamma=0.4)
