"""Decibels, logarithm and PCEN against librosa in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from signals import batch, signals

from genre_jax import frontends
from genre_jax.console import UserError
from genre_jax.frontends import compression

librosa = pytest.importorskip("librosa")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("sr", [22050, *(pytest.param(sr, marks=pytest.mark.slow) for sr in (8000, 16000))])
def test_log_mel_equals_librosa(sr):
    """Values above −80 dB of the clip's maximum are within 1e-3 dB of librosa.

    Exception: for a tone or a sweep, values between −75 and −80 dB differ by up to 2e-3 dB. There the rounding errors of the
    float32 FFT dominate; librosa uses float64. In float64 these values agree as well.
    """
    for n_fft, hop in itertools.product((511, 600, 2048), (187, 300)):
        options = {"sr": sr, "n_fft": n_fft, "hop_length": hop, "n_mels": 64, "pad_mode": "reflect"}
        if n_fft == 511 and sr == 22050:
            options["n_mels"] = 40  # 64 filters would include empty filters
        decibels = jax.jit(lambda y: frontends.power_to_db(frontends.mel_spectrogram(y, **options), ref="max"))  # noqa: B023
        for name, y in signals().items():
            power = librosa.feature.melspectrogram(y=y, **options)
            reference = librosa.power_to_db(power, ref=np.max).T
            ours = np.asarray(decibels(y))
            error = np.abs(ours - reference)
            assert error[reference > (-75 if name in ("tone", "sweep") else -80)].max(initial=0) < 1e-3, (name, options)
            assert error[reference > -80].max(initial=0) < 3e-3, (name, options)
    with jax.enable_x64(True):
        y = signals()["tone"].astype(np.float64)
        reference = librosa.power_to_db(librosa.feature.melspectrogram(y=y, **options), ref=np.max).T
        np.testing.assert_allclose(decibels(y), reference, atol=1e-6)  # librosa rounds its filters to float32


def test_decibels_equal_librosa():
    s = RNG.uniform(0, 3, (2, 11, 7)) ** 8
    for ref, amin, top_db in itertools.product((1.0, 0.25), (1e-10, 1e-3), (None, 80.0, 20.0)):
        options = {"ref": ref, "amin": amin, "top_db": top_db}
        for ours, theirs in (
            (frontends.power_to_db, librosa.power_to_db),
            (frontends.amplitude_to_db, librosa.amplitude_to_db),
        ):
            reference = np.stack([theirs(clip, **options) for clip in s])
            np.testing.assert_allclose(ours(jnp.asarray(s, jnp.float32), **options), reference, atol=5e-5)
    loudest = np.stack([librosa.amplitude_to_db(clip, ref=np.max) for clip in s])
    np.testing.assert_allclose(frontends.amplitude_to_db(jnp.asarray(s, jnp.float32), ref="max"), loudest, atol=5e-5)


def test_gain_of_one_clip_leaves_the_others_alone():
    y = jnp.asarray(RNG.normal(0, 0.2, (3, 9000)), jnp.float32)
    options = {"sr": 16000, "n_fft": 600, "hop_length": 300, "n_mels": 40}

    @jax.jit
    def decibels(y):
        return frontends.power_to_db(frontends.mel_spectrogram(y, **options), ref="max")

    np.testing.assert_allclose(decibels(y * jnp.array([[9], [1], [0.01]]))[1], decibels(y[1]), atol=1e-3)


def test_natural_logarithm():
    s = jnp.array([[0.0, 1e-6, 1.0]])
    np.testing.assert_allclose(frontends.log_offset(s), np.log([[1e-6, 2e-6, 1 + 1e-6]]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sr", [8000, 22050])
@pytest.mark.parametrize(
    "options",
    [{}, {"max_size": 3}, {"max_size": 4}, {"power": 0.0}, {"bias": 0.0}, {"b": 0.1}, {"b": 1.0}, {"gain": 0.5, "time_constant": 0.06}],
    ids=str,
)  # fmt: skip
def test_pcen_equals_librosa(sr, options):
    for n_fft, hop in ((512, 187), (2048, 512)):
        s = np.asarray(frontends.mel_spectrogram(batch(), sr=sr, n_fft=n_fft, hop_length=hop, n_mels=32, power=1.0)) * 2.0**31
        with np.errstate(divide="ignore"):  # without bias, librosa computes log(0)
            reference = librosa.pcen(s.swapaxes(-1, -2).astype(np.float64), sr=sr, hop_length=hop, max_axis=-2, **options)
        ours = np.asarray(frontends.pcen(jnp.asarray(s), sr=sr, hop_length=hop, **options)).swapaxes(-1, -2)
        for clip, expected in zip(ours, reference, strict=True):
            assert np.abs(clip - expected).max() <= 1e-3 * max(np.abs(expected).max(), 1e-6)


def test_gradients_are_finite_on_silence_and_nan_stays():
    silence = jnp.zeros((2, 20, 8))
    calls = {
        "db": lambda s: frontends.power_to_db(s, ref="max"),
        "amplitude": frontends.amplitude_to_db,
        "ln": frontends.log_offset,
        "pcen": frontends.pcen,
        "pcen without bias": lambda s: frontends.pcen(s, bias=0.0),
    }
    for name, call in calls.items():
        assert np.isfinite(jax.jit(jax.grad(lambda s: call(s).sum()))(silence)).all(), name  # noqa: B023
        out = np.asarray(jax.jit(call)(silence.at[1, 10, 3].set(jnp.nan)))
        assert np.isfinite(out[0]).all() and np.isnan(out[1]).any(), name


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda s: frontends.power_to_db(s, amin=0), "amin must be positive, and was given 0"),
        (lambda s: frontends.power_to_db(s, top_db=-1), "top_db must be None or at least 0 dB, and was given -1"),
        (lambda s: frontends.power_to_db(s, ref="mean"), "ref must be a number or 'max', and was given 'mean'"),
        (lambda s: frontends.log_offset(s, offset=0), "offset must be positive, and was given 0"),
        (lambda s: frontends.pcen(s, gain=-1), "gain must be at least 0, and was given -1"),
        (lambda s: frontends.pcen(s, eps=0), "eps must be positive, and was given 0"),
        (lambda s: frontends.pcen(s, b=1.5), r"b must lie in \[0, 1\], and was given 1.5"),
        (lambda s: compression.compress(s, "log", power=1, top_db=None, sr=1, hop_length=1), "unknown compression 'log'"),
    ],
)
def test_bad_arguments_get_a_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(jnp.ones((4, 3)))
