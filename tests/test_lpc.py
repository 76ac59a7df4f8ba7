"""Linear prediction against SciPy's Toeplitz solver, least squares and long FFTs in float64."""

import functools
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from genre_jax.console import UserError

prediction = importlib.import_module("genre_jax.frontends.lpc")  # in the package, `lpc` is the function

SAMPLES, LENGTH, HOP = 4801, 400, 160
AUDIO = Path(__file__).parents[2] / "shared" / "audio"


def speech() -> dict[str, np.ndarray]:
    clips = {}
    for path in sorted((AUDIO / "speech").glob("*.ogg")):
        soundfile = pytest.importorskip("soundfile")
        clips[path.stem] = soundfile.read(path, frames=SAMPLES, start=48000, always_2d=True)[0].mean(1)
    return clips


def process(poles, seed):
    """Filter white noise by a resonance at each pole and its conjugate."""
    a = np.poly([*poles, *np.conj(poles)]).real
    return scipy.signal.lfilter([1], a, np.random.default_rng(seed).normal(0, 0.01, SAMPLES)), a


RESONANCES, TRUE_FILTER = process([0.95 * np.exp(0.3j), 0.9 * np.exp(1.1j), 0.8 * np.exp(2j)], 1)
SIGNALS = {"noise": np.random.default_rng(0).normal(0, 0.3, SAMPLES), "resonances": RESONANCES} | speech()
SIGNALS = {name: y.astype(np.float32) for name, y in SIGNALS.items()}
BATCH = np.stack(list(SIGNALS.values()))
WINDOWS = ["hann", "hamming", "boxcar"]


def framed(y, window):
    frames = np.lib.stride_tricks.sliding_window_view(y.astype(np.float64), LENGTH)[::HOP]
    return frames * scipy.signal.get_window(window, LENGTH)


def autocorrelation(x, order):
    return np.array([x[: len(x) - k] @ x[k:] for k in range(order + 1)])


def solved(x, order):
    """Return (filter, mean squared error) of a frame, computed by SciPy."""
    r = autocorrelation(x, order)
    a = np.append(1, -scipy.linalg.solve_toeplitz(r[:-1], r[1:]))
    return a, a @ r / len(x)


def relative(ours, reference):
    assert ours.shape == reference.shape
    return np.abs(np.asarray(ours) - reference).max() / max(np.abs(reference).max(), 1e-30)


@functools.cache
def compiled(kind, **options):
    return jax.jit(functools.partial(getattr(prediction, kind), **options))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("order", [1, 2, 12, 21])
def test_filters_equal_scipy(order, window):
    ours = compiled("lpc", order=order, frame_length=LENGTH, hop_length=HOP, window=window)(BATCH)
    assert ours.shape == (len(BATCH), 1 + (SAMPLES - LENGTH) // HOP, order + 1)
    for name, y, out in zip(SIGNALS, BATCH, ours, strict=True):
        expected = np.array([solved(x, order)[0] for x in framed(y, window)])
        assert relative(out, expected) < 1e-5, name
        assert (np.asarray(out)[:, 0] == 1).all()


def test_a_known_process_is_found():
    ours = compiled("lpc", order=6, frame_length=SAMPLES, hop_length=HOP, window="hann")(SIGNALS["resonances"])
    np.testing.assert_allclose(ours[0], TRUE_FILTER, atol=0.1)


def test_almost_predictable_frames():
    """For tones the normal equations lose digits even in float64. The reference is least squares on the zero-padded frame."""
    time = np.arange(SAMPLES) / 16000
    for y in (np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * (50 + 4000 * time) * time)):
        frames = framed(y, "hann").astype(np.float32)[::5]
        ours, _ = prediction.linear_prediction(jnp.asarray(frames), order=12)
        for x, a in zip(frames.astype(np.float64), ours, strict=True):
            shifted = scipy.linalg.convolution_matrix(x, 13)
            best = np.append(1, -np.linalg.lstsq(shifted[:, 1:], shifted[:, 0])[0])
            assert relative(a, best) < 2e-3
            left, least = (np.sum((shifted @ filters) ** 2) / np.sum(x**2) for filters in (np.float64(a), best))
            assert least <= left < least + 1e-10


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("order", "n_lpcc"), [(12, None), (12, 40), (16, 5), (1, 1), (1, 3)])
def test_cepstra_equal_those_of_a_long_fft(order, n_lpcc, window):
    """The reference is the Fourier coefficients of log(error / |A|²) over 2¹⁴ frequencies in float64."""
    ours = compiled("lpcc", order=order, n_lpcc=n_lpcc, frame_length=LENGTH, hop_length=HOP, window=window)(BATCH)
    count = order + 1 if n_lpcc is None else n_lpcc
    for name, y, out in zip(SIGNALS, BATCH, ours, strict=True):
        expected = []
        for x in framed(y, window):
            a, error = solved(x, order)
            expected.append(np.fft.irfft(np.log(error / np.abs(np.fft.rfft(a, 1 << 14)) ** 2))[:count])
        assert relative(out, np.array(expected)) < 1e-5, name


def test_first_cepstral_coefficient_is_the_log_error_power():
    x = framed(SIGNALS["noise"], "hann")
    _, error = prediction.linear_prediction(jnp.asarray(x, jnp.float32), order=10)
    np.testing.assert_allclose(error, [solved(frame, 10)[1] for frame in x], rtol=1e-5)
    ours = compiled("lpcc", order=10, n_lpcc=1, frame_length=LENGTH, hop_length=HOP)(SIGNALS["noise"])
    np.testing.assert_allclose(ours[:, 0], np.log(error), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "window", "least", "most"),
    [
        ("noise", "hann", 0, 1e-5),
        ("resonances", "hann", 0, 1e-5),
        ("noise", "boxcar", 1e-3, 0.02),
        ("resonances", "boxcar", 0.1, 1),
    ],
)
def test_librosa_takes_burgs_method_which_is_another(name, window, least, most):
    """Both methods agree for a Hann window and differ for frames without a window. Neither is an error."""
    librosa = pytest.importorskip("librosa")
    x = framed(SIGNALS[name], window)
    ours, _ = prediction.linear_prediction(jnp.asarray(x, jnp.float32), order=12)
    assert least <= relative(ours, librosa.lpc(x, order=12)) < most


@pytest.mark.parametrize("kind", ["lpc", "lpcc"])
def test_silence_bad_samples_and_batches(kind):
    front = compiled(kind, order=8, frame_length=LENGTH, hop_length=HOP)
    silent = np.asarray(front(jnp.zeros((2, 1000))))
    np.testing.assert_array_equal(silent[0, 0], [1 if kind == "lpc" else np.float32(np.log(1e-10)), *[0] * 8])
    gradient = jax.jit(jax.grad(lambda y: front(y).sum()))
    assert np.isfinite(gradient(jnp.zeros((2, 1000)))).all()
    assert np.isfinite(gradient(jnp.eye(2, 1000, 500))).all()
    np.testing.assert_allclose(jax.vmap(front)(BATCH), front(BATCH), atol=1e-5)
    np.testing.assert_allclose(front(BATCH[1]), front(BATCH)[1], atol=1e-5)
    assert front(BATCH.astype(np.float16)).dtype == np.float32
    for bad in (np.nan, np.inf):
        out = np.asarray(front(jnp.asarray(BATCH[0]).at[700].set(bad)))
        touched = [HOP * t <= 700 < HOP * t + LENGTH for t in range(len(out))]
        np.testing.assert_array_equal(np.isnan(out).any(-1), touched)


def test_loudness_moves_the_first_cepstral_coefficient_alone():
    front = compiled("lpcc", order=8, frame_length=LENGTH, hop_length=HOP)
    change = np.asarray(front(BATCH * 8) - front(BATCH))
    np.testing.assert_allclose(change[..., 0], np.log(64), atol=1e-5)
    np.testing.assert_array_equal(change[..., 1:], 0)


def test_double_precision_and_its_gradient():
    with jax.enable_x64(True):
        x = framed(SIGNALS["resonances"], "hamming")
        ours, error = prediction.linear_prediction(jnp.asarray(x), order=12)
        assert ours.dtype == error.dtype == np.float64
        assert relative(ours, np.array([solved(frame, 12)[0] for frame in x])) < 1e-11
        y = jnp.asarray(SIGNALS["noise"][:60].astype(np.float64))
        total = jax.jit(lambda y: (prediction.lpcc(y, order=4, frame_length=40, hop_length=10) ** 2).sum())
        gradient = jax.grad(total)(y)
        for sample in (0, 25, 59):
            step = jnp.zeros_like(y).at[sample].set(1e-5)
            assert float(total(y + step) - total(y - step)) / 2e-5 == pytest.approx(float(gradient[sample]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda y: prediction.lpc(y, order=0), r"order must lie in \[1, 2047\] for frames of 2048 samples, and was given 0"),
        (lambda y: prediction.lpc(y, order=40, frame_length=40), r"order must lie in \[1, 39\] .* was given 40"),
        (lambda y: prediction.lpc(y, order=8, hop_length=0), "hop_length must be at least 1, and was given 0"),
        (lambda y: prediction.lpc(y, order=8, frame_length=1), "frame_length must be at least 2, and was given 1"),
        (lambda y: prediction.lpc(y[:2047], order=8), "must have at least 2048 samples .* and has 2047"),
        (lambda y: prediction.lpc(y, order=8, window="hannn"), "window must be .* and was given 'hannn'"),
        (lambda y: prediction.lpcc(y, order=8, n_lpcc=0), "n_lpcc must be at least 1, and was given 0"),
        (lambda y: prediction.lpcc(y.astype(jnp.int16), order=8), "was given int16"),
    ],
)
def test_bad_arguments_get_a_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(jnp.zeros(4000))
