"""Mel filterbanks and spectrograms against librosa, over a grid with odd sizes, and against the definition in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from signals import batch, relative, signals, worst

from genre_jax import frontends
from genre_jax.console import UserError
from genre_jax.frontends import mel

librosa = pytest.importorskip("librosa")


@pytest.mark.parametrize("htk", [False, True])
@pytest.mark.parametrize("norm", ["slaney", "none"])
def test_mel_filterbank_equals_librosa(htk, norm):
    for sr, n_fft, n_mels, fmin, fmax in [(16000, 600, 112, 0, None), (22050, 2047, 90, 30.5, 8000), (8000, 511, 20, 0, 3999)]:
        ours = mel.mel_filterbank(sr=sr, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=htk, norm=norm)
        reference = librosa.filters.mel(
            sr=sr, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=htk, norm=None if norm == "none" else norm,
            dtype=np.float64,
        )  # fmt: skip
        assert relative(ours, reference.T) < 1e-12


def test_mel_scales_invert():
    hertz = np.array([0.0, 20, 999, 1000, 1001, 8000])
    for htk in (False, True):
        np.testing.assert_allclose(mel.mel_to_hz(mel.hz_to_mel(hertz, htk=htk), htk=htk), hertz, rtol=1e-12, atol=1e-9)
    assert mel.hz_to_mel(1000, htk=True) == pytest.approx(999.9855, abs=1e-3)  # HTK Book: 1000 Hz is 1000 mel


@pytest.mark.parametrize("n_fft", [400, 511, 2048, *(pytest.param(n, marks=pytest.mark.slow) for n in (512, 600, 1024))])
@pytest.mark.parametrize("sr", [8000, 16000, 22050])
def test_mel_spectrogram_equals_librosa(n_fft, sr):
    ends = ({"center": True, "pad_mode": "reflect"}, {"center": False, "pad_mode": "constant"})
    cases = [
        {"sr": sr, "n_fft": n_fft, "n_mels": 40, "hop_length": hop_length, "power": power, **end}
        for hop_length, end, power in itertools.product((187, 300), ends, (1.0, 2.0))
    ]
    compiled = jax.jit(lambda y: [frontends.mel_spectrogram(y, **options) for options in cases])(batch())
    for ours, options in zip(compiled, cases, strict=True):
        reference = librosa.feature.melspectrogram(y=batch(), **options).swapaxes(-1, -2)
        assert worst(ours, reference) < 2e-5, options


def test_double_precision_goes_through():
    with jax.enable_x64(True):
        y = signals()["noise"].astype(np.float64)
        ours = frontends.mel_spectrogram(jnp.asarray(y), sr=16000, n_fft=512, hop_length=187, n_mels=40)
        assert ours.dtype == np.float64
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(y, 256), 512)[::187]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
        power = np.abs(np.fft.rfft(frames * window)) ** 2
        assert relative(ours, power @ mel.mel_filterbank(sr=16000, n_fft=512, n_mels=40)) < 1e-13


def test_empty_filters_are_named():
    with pytest.warns(UserWarning, match=r"mel filters \[.*\] are empty"):
        mel.mel_filterbank(sr=16000, n_fft=128, n_mels=100)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fmax": 4001}, r"fmax <= sr / 2 = 4000.0 Hz, and were given 0.0, 4001"),
        ({"fmin": 50, "fmax": 50}, "0 <= fmin < fmax"),
        ({"norm": "area"}, "unknown norm 'area': choose one of none, slaney"),
        ({"n_mels": 0}, "n_mels must be at least 1, and was given 0"),
    ],
)
def test_bad_arguments_get_a_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        mel.mel_filterbank(**{"sr": 8000, "n_fft": 512} | options)
