"""Config file for runs of a few seconds on the data set "tones".

Usage: `--config=tests/small_run.py:resnet --config.data.data_dir=…`.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = "bytenet"):
    config = base("small")
    config.data.update(name="tones", sample_rate=8000, samples=2000, reader="threads")
    config.train.update(
        batch_size=8, duration="6 steps", log_every="2 steps", evaluate_every="3 steps", checkpoint_every="2 steps"
    )
    config.evaluate.batch_size = 8
    return with_argument(config, argument, bytenet=bytenet, resnet=resnet, snn=snn)


def bytenet(config):
    choose(config, "model", "bytenet", width=4, max_dilation=2, strides=[16], decoder_sets=1, head="pooled", dropout=0.1)


def snn(config):
    """Choose the network that compiles fastest."""
    choose(config, "frontend", "log_mel", n_fft=256, hop_length=128, n_mels=16)
    choose(config, "model", "snn", hidden=[16], dropout=0.2)


def resnet(config):
    choose(config, "frontend", "log_mel_image", n_fft=256, hop_length=128, n_mels=16, height=16, width=16)
    choose(config, "model", "resnet18", width=4, stages=[1, 1])
