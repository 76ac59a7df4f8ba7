"""Options and inputs that the small networks refuse with a sentence, and the front ends that they are paired with."""

import pytest

from genre_jax import config as configs
from genre_jax import models
from genre_jax.console import UserError


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("gru_attention", {"score": "genral"}, "unknown model.score 'genral'.*: choose one of concat, dot, general"),
        ("gru_attention", {"head": "flat"}, "unknown model.head 'flat'.*: choose one of fixed, pooled"),
        ("schindler_deep", {"activation": "elu"}, "unknown model.activation 'elu'.*: choose one of leaky_relu, relu"),
        ("schindler_deep", {"dropout_at": "end"}, "unknown model.dropout_at 'end'.*: choose one of hidden, merge"),
        ("swishnet_slim", {"readout": "first"}, "unknown model.readout 'first'.*: choose one of frames, last, random"),
        ("mobilenet_v1", {"library": "tim"}, "unknown model.library 'tim'.*: choose one of keras, timm"),
        ("folmer_cnn", {"head": "flat"}, "unknown model.head 'flat'.*: choose one of fixed, pooled"),
    ],
)
def test_unknown_options(name, options, sentence):
    with pytest.raises(UserError, match=sentence):
        models.build(name, num_classes=3, **options)


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("schindler_shallow", (80, 19, 1), "the input is too small: a pooling in windows of 1 × 20 is left with 80 × 19"),
        ("schindler_deep", (39, 80, 1), "a pooling in windows of 5 × 1 is left with 4 × 10"),
        ("burrows_conv1d", (100, 2), "a pooling in windows of 2 × 1 is left with 0 × 1"),
        ("choi_cnn", (31, 173, 1), "a pooling in windows of 2 × 2 is left with 1 × 10"),
    ],
)
def test_inputs_that_are_too_small(name, shape, sentence):
    with pytest.raises(UserError, match=sentence):
        models.abstract_variables(models.build(name, num_classes=3), shape)


PAIRS = {  # network → its front end, sample rate and samples
    "gru_attention": ("log_mel", 16_000, 48_000),
    "schindler_shallow": ("schindler_log_mel", 22_050, 20_462),
    "schindler_deep": ("schindler_cqt", 22_050, 20_462),
    "swishnet_slim": ("swishnet_mfcc", 16_000, 32_240),
    "snn": ("swishnet_mfcc", 16_000, 32_240),
    "burrows_mlp": ("burrows_mfcc_mean", 44_100, 44_100),
    "burrows_conv1d": ("burrows_mfcc", 44_100, 1_323_000),
    "burrows_conv2d": ("burrows_melgram", 12_000, 349_440),
    "folmer_cnn": ("folmer_log_mel", 22_050, 132_300),
    "folmer_mlp": ("folmer_log_mel", 22_050, 132_300),
    "dense_cnn": ("folmer_log_mel", 22_050, 132_300),
    "choi_cnn": ("choi_stft", 11_025, 44_100),
}


def paired(name: str, frontend: str, sample_rate: int, samples: int):
    config = configs.base("pair")
    config.data.update(sample_rate=sample_rate, samples=samples)
    configs.choose(config, "frontend", frontend)
    configs.choose(config, "model", name)
    return config


def test_every_network_reads_its_front_end_and_refuses_one_of_other_axes():
    for name, (frontend, sample_rate, samples) in PAIRS.items():
        configs.validate(paired(name, frontend, sample_rate, samples))
        axes = len(models.build(name, num_classes=2).input_shape)
        for wrong in ("waveform", "burrows_mfcc_mean", "choi_stft"):
            if axes != {"waveform": 2, "burrows_mfcc_mean": 1, "choi_stft": 3}[wrong]:
                with pytest.raises(
                    UserError, match=f"model '{name}' reads features with {axes} axes.*front end '{wrong}' computes"
                ):
                    configs.validate(paired(name, wrong, 16_000, 16_000))


def test_an_image_too_small_for_the_network_is_refused_before_any_data_is_read():
    with pytest.raises(UserError, match=r"model 'choi_cnn' cannot read .*: the input is too small: a pooling in windows"):
        configs.validate(paired("choi_cnn", "choi_stft", 11_025, 4_000))
