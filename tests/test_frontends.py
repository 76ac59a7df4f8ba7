"""Front ends against librosa over a grid with odd sizes, against the definition in float64, and their errors."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre_jax import frontends
from genre_jax.console import UserError
from genre_jax.frontends import mel, scaling

librosa = pytest.importorskip("librosa")
RNG = np.random.default_rng(0)
TIME = np.arange(9001) / 16000
SIGNALS = {
    "noise": RNG.normal(0, 0.3, 9001),
    "tone": 0.5 * np.sin(2 * np.pi * 440.3 * TIME),
    "sweep": 0.5 * np.sin(2 * np.pi * (50 + 4000 * TIME) * TIME),
    "impulse": np.eye(1, 9001, 4001)[0],
    "silence": np.zeros(9001),
}


def relative(ours, reference):
    return np.abs(np.asarray(ours) - reference).max() / max(np.abs(reference).max(), 1e-30)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("pad_mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize(("n_fft", "win_length"), [(400, 400), (511, 400), (512, 511), (600, 600), (1024, 401)])
def test_stft_equals_librosa(n_fft, win_length, pad_mode, center):
    for name, hop_length in itertools.product(SIGNALS, (100, 187, 300)):
        y = SIGNALS[name].astype(np.float32)
        options = {"n_fft": n_fft, "hop_length": hop_length, "win_length": win_length, "center": center, "pad_mode": pad_mode}
        ours = frontends.stft(y, **options)
        assert ours.shape[-1] == 1 + n_fft // 2
        assert relative(ours, librosa.stft(y, **options).T) < 2e-6, (name, hop_length)


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


def test_log_mel_equals_librosa():
    for name, sr in itertools.product(("noise", "tone", "sweep"), (8000, 16000, 22050)):
        y = SIGNALS[name].astype(np.float32)
        power = librosa.feature.melspectrogram(y=y, sr=sr, n_fft=600, hop_length=300, n_mels=64, pad_mode="reflect")
        reference = librosa.power_to_db(power, ref=np.max)
        ours = frontends.log_mel(jnp.asarray(y), sr, n_mels=64)
        loud = reference.T > -79
        assert np.abs(np.asarray(ours) - reference.T)[loud].max() < 1e-3, (name, sr)


def test_thesis_image_has_the_stated_shape_and_range():
    y = jnp.asarray(RNG.normal(0, 0.2, (2, 48_000)), jnp.float32)
    assert frontends.log_mel(y, 16000).shape == (2, 161, 112)
    image = frontends.log_mel_image(y, 16000)
    assert image.shape == (2, 224, 224, 1)
    assert -80 <= float(image.min()) < float(image.max()) <= 0


def test_gain_of_one_clip_leaves_the_others_alone():
    y = jnp.asarray(RNG.normal(0, 0.2, (3, 9000)), jnp.float32)
    alone = frontends.log_mel(y[1], 16000)
    np.testing.assert_allclose(frontends.log_mel(y * jnp.array([[9], [1], [0.01]]), 16000)[1], alone, atol=1e-3)


def test_real_clip_equals_librosa():
    clips = sorted((Path(__file__).parents[2] / "shared/audio/music").glob("*.ogg"))
    if not clips:
        pytest.skip("no real clips here")
    y, sr = librosa.load(clips[0], sr=16000, duration=3)
    power = librosa.feature.melspectrogram(y=y, sr=sr, n_fft=600, hop_length=300, n_mels=112, pad_mode="reflect")
    reference = librosa.power_to_db(power, ref=np.max).T
    np.testing.assert_allclose(frontends.log_mel(jnp.asarray(y), sr), reference, atol=1e-3)


@pytest.mark.parametrize("align_corners", [True, False])
def test_resize_is_bilinear(align_corners):
    """Against the definition, point by point in float64 (PyTorch's `interpolate`, no antialias)."""
    image = RNG.normal(size=(7, 5))
    for height, width in [(7, 5), (13, 9), (3, 2), (1, 4)]:
        expected = np.empty((height, width))
        for i, j in np.ndindex(height, width):
            if align_corners:
                y = i * 6 / (height - 1) if height > 1 else 0.0
                x = j * 4 / (width - 1) if width > 1 else 0.0
            else:
                y, x = np.clip((i + 0.5) * 7 / height - 0.5, 0, 6), np.clip((j + 0.5) * 5 / width - 0.5, 0, 4)
            top, left = int(y), int(x)
            rows, columns = (top, min(top + 1, 6)), (left, min(left + 1, 4))
            fy, fx = y - top, x - left
            expected[i, j] = sum(
                (fy if a else 1 - fy) * (fx if b else 1 - fx) * image[rows[a], columns[b]] for a in (0, 1) for b in (0, 1)
            )
        ours = scaling.resize(jnp.asarray(image, jnp.float32), height, width, align_corners=align_corners)
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_peak_normalise():
    y = jnp.asarray([[0.1, 0.3, -0.1, 0.1], [0.0, 0, 0, 0]], jnp.float32)
    np.testing.assert_allclose(scaling.peak_normalise(y), [[0, 1, -1, 0], [0, 0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("name", sorted(frontends.FRONTENDS))
def test_gradient_is_finite_on_silence_and_one_program_serves_a_batch(name):
    front = frontends.build(name, 16000)
    gradient = jax.jit(jax.grad(lambda y: front(y).sum()))(jnp.zeros((2, 3000)))
    assert np.isfinite(gradient).all()
    y = jnp.asarray(RNG.normal(0, 0.1, (3, 3000)), jnp.float32)
    np.testing.assert_allclose(jax.vmap(front)(y), front(y), atol=1e-3)


def test_double_precision_goes_through():
    with jax.enable_x64(True):
        y = SIGNALS["noise"]
        ours = frontends.mel_spectrogram(jnp.asarray(y), sr=16000, n_fft=512, hop_length=187, n_mels=40)
        assert ours.dtype == np.float64
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(y, 256), 512)[::187]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
        power = np.abs(np.fft.rfft(frames * window)) ** 2
        assert relative(ours, power @ mel.mel_filterbank(sr=16000, n_fft=512, n_mels=40)) < 1e-13


def test_nan_stays_nan():
    y = jnp.asarray(SIGNALS["noise"], jnp.float32).at[5000].set(jnp.nan)
    assert np.isnan(frontends.log_mel(y, 16000)).any()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda y: frontends.stft(y, n_fft=64, win_length=65), r"win_length must lie in \[1, n_fft = 64\], and was given 65"),
        (lambda y: frontends.stft(y, n_fft=64, hop_length=0), "hop_length must be at least 1, and was given 0"),
        (lambda y: frontends.stft(y, n_fft=64, pad_mode="warp"), "unknown pad_mode 'warp': choose one of constant, edge, reflect"),
        (lambda y: frontends.stft(y[:30], n_fft=64, center=False), "must have at least 64 samples for n_fft = 64, and has 30"),
        (lambda y: frontends.stft(y.astype(jnp.int16)), "needs a waveform of floats .* was given int16"),
        (lambda y: mel.mel_filterbank(sr=8000, n_fft=512, fmax=4001), r"fmax <= sr / 2 = 4000.0 Hz, and were given 0.0, 4001"),
        (lambda y: mel.mel_filterbank(sr=8000, n_fft=512, fmin=50, fmax=50), "0 <= fmin < fmax"),
        (lambda y: mel.mel_filterbank(sr=8000, n_fft=512, norm="area"), "unknown norm 'area': choose one of none, slaney"),
    ],
)  # fmt: skip
def test_bad_arguments_get_a_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(jnp.zeros(100))


def test_empty_filters_are_named():
    with pytest.warns(UserWarning, match=r"mel filters \[.*\] are empty"):
        mel.mel_filterbank(sr=16000, n_fft=128, n_mels=100)
