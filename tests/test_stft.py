"""STFT, inverse, windows and engines against librosa over a grid with odd sizes, and against the definition in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from signals import batch, relative, signals, worst

from genre_jax import frontends
from genre_jax.console import UserError
from genre_jax.frontends.stft import CHUNK_SAMPLES, in_chunks, resolve_engine

librosa = pytest.importorskip("librosa")


def sizes_and_padding() -> list:
    """(n_fft, win_length, pad_mode, center). Without `center` nothing is padded; the other modes are in `make test-all`."""
    sizes = [(400, 400), (511, 400), (512, 511), (600, 600), (1024, 401), (2048, 2048)]
    quick = [(*size, "reflect", True) for size in sizes] + [(*size, "reflect", False) for size in sizes[1::2]]
    quick += [(*size, pad_mode, True) for size in (sizes[1], sizes[4]) for pad_mode in ("constant", "edge")]
    rest = {(*size, pad_mode, True) for size in sizes for pad_mode in ("constant", "edge")} - set(quick)
    rest |= {(*size, "reflect", False) for size in sizes[::2]}
    return quick + [pytest.param(*case, marks=pytest.mark.slow) for case in sorted(rest)]


@pytest.mark.parametrize(("n_fft", "win_length", "pad_mode", "center"), sizes_and_padding())
def test_stft_equals_librosa(n_fft, win_length, pad_mode, center):
    ends = {"center": center, "pad_mode": pad_mode}
    cases = [
        {"n_fft": n_fft, "win_length": win_length, "hop_length": hop_length, "window": window, **ends}
        for hop_length, window in [(100, "hann"), (187, "hann"), (512, "hann"), (187, "hamming"), (100, ("kaiser", 9.5))]
    ]
    least = {"fft": 2e-6, "matmul": 5e-6}
    compiled = jax.jit(lambda y: [[frontends.stft(y, engine=engine, **options) for engine in least] for options in cases])
    for engines, options in zip(compiled(batch()), cases, strict=True):
        reference = librosa.stft(batch(), **options).swapaxes(-1, -2)
        for ours, (engine, tolerance) in zip(engines, least.items(), strict=True):
            assert ours.shape == reference.shape
            assert worst(ours, reference) < tolerance, (engine, options)


def test_hop_and_window_default_as_in_librosa():
    y = signals()["noise"]
    for options in ({}, {"n_fft": 601}, {"n_fft": 600, "win_length": 401}):
        assert worst(frontends.stft(y, **options)[None], librosa.stft(y, **options).T[None]) < 2e-6


def test_a_window_may_be_an_array():
    y, window = signals()["noise"], np.random.default_rng(1).uniform(0.2, 1, 301)
    options = {"n_fft": 400, "win_length": 301, "hop_length": 150}
    assert relative(frontends.stft(y, window=window, **options), librosa.stft(y, window=window, **options).T) < 2e-6


@functools.partial(jax.jit, static_argnames=("length", "n_fft", "hop_length", "window", "center", "engine"))
def there_and_back(y, length, **options):
    """Return the spectrum of y and the inverse of the spectrum."""
    spectrum = frontends.stft(y, **options)
    return spectrum, frontends.istft(spectrum, length=length, **{k: v for k, v in options.items() if k != "engine"})


@pytest.mark.parametrize(
    ("n_fft", "center"),
    [(400, True), (511, True), (511, False), (2048, True)]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in ((400, False), (600, True), (600, False), (2048, False))],
)
def test_istft_equals_librosa_and_inverts(n_fft, center):
    y = batch()
    for hop_length, window, length in itertools.product((n_fft // 4, n_fft // 2 - 7), ("hann", "hamming"), (None, 9001, 5000)):
        options = {"n_fft": n_fft, "hop_length": hop_length, "window": window, "center": center}
        spectrum, ours = map(np.asarray, there_and_back(y, length, **options))
        reference = librosa.istft(spectrum.swapaxes(-1, -2), length=length, **options)
        assert ours.shape == reference.shape
        inner = slice(None if center else n_fft, min(ours.shape[-1], y.shape[-1]) - n_fft)
        peak = np.maximum(np.abs(y).max(1, keepdims=True), 1e-30)
        assert (np.abs(ours - reference)[:, inner] < 5e-6 * peak).all(), (options, length)
        assert (np.abs(ours[:, inner] - y[:, inner]) < 1e-5 * peak).all(), (options, length)


def test_inverse_reaches_the_ends_and_both_engines():
    """Centred frames cover the first and the last sample: the inverse equals the signal to 1e-5 of the peak."""
    y = batch()
    for engine, n_fft in itertools.product(("fft", "matmul"), (511, 600)):
        spectrum, back = there_and_back(y, y.shape[-1], n_fft=n_fft, hop_length=150, engine=engine)
        covered = 150 * (spectrum.shape[-2] - 1) + n_fft // 4  # excludes the tail, which is divided by a window near zero
        assert worst(back[:, :covered], y[:, :covered]) < 1e-5


def test_magphase_equals_librosa():
    z = np.asarray(frontends.stft(batch(), n_fft=512))
    for power in (1, 2):
        magnitude, phase = frontends.magphase(jnp.asarray(z), power=power)
        expected_magnitude, expected_phase = librosa.magphase(z, power=power)
        assert relative(magnitude, expected_magnitude) < 1e-6
        loud = np.abs(z) > 1e-5
        assert np.abs(phase - expected_phase)[loud].max() < 1e-5
    silent = frontends.magphase(jnp.zeros((3, 2), jnp.complex64))
    assert (silent[0] == 0).all() and (silent[1] == 1).all()


@pytest.mark.parametrize("power", [0.7, 1.0, 2.0])
def test_spectrogram_is_a_power_of_the_magnitude(power):
    y = batch()
    assert worst(frontends.spectrogram(y, power=power, n_fft=511), np.abs(frontends.stft(y, n_fft=511)) ** power) < 5e-6


def test_engines_agree_with_the_definition_in_float64():
    y = np.random.default_rng(3).normal(0, 0.3, 2000)
    with jax.enable_x64(True):
        for n_fft, engine in itertools.product((400, 511), ("fft", "matmul")):
            frames = np.lib.stride_tricks.sliding_window_view(np.pad(y, n_fft // 2), n_fft)[::187]
            reference = np.fft.rfft(frames * scipy.signal.get_window("hann", n_fft))
            ours = frontends.stft(jnp.asarray(y), n_fft=n_fft, hop_length=187, engine=engine)
            assert ours.dtype == np.complex128
            assert relative(ours, reference) < 1e-13


def test_half_precision_is_computed_in_float32():
    y = jnp.asarray(signals()["noise"])
    for dtype in (jnp.bfloat16, jnp.float16):
        ours = frontends.spectrogram(y.astype(dtype), n_fft=512)
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, frontends.spectrogram(y.astype(dtype).astype(jnp.float32), n_fft=512))


def test_leading_axes_and_chunks_change_nothing():
    y = np.random.default_rng(0).normal(0, 0.1, (5, 300_000)).astype(np.float32)
    assert y.size > CHUNK_SAMPLES["cpu"], "the batch must take more than one chunk"

    def rms(y):
        return frontends.spectrogram(y, n_fft=600, hop_length=4000).mean(-1)

    np.testing.assert_allclose(in_chunks(rms, jnp.asarray(y)), np.stack([rms(row) for row in y]), rtol=1e-6)
    stacked = frontends.spectrogram(y.reshape(5, 1, 300_000)[:, None], n_fft=600, hop_length=4000)
    np.testing.assert_allclose(stacked[:, 0, 0], frontends.spectrogram(y, n_fft=600, hop_length=4000), rtol=1e-6)


def test_the_engine_is_the_measured_one_unless_pinned():
    assert resolve_engine("auto") == "fft"  # on the CPU, docs/benchmarks/frontends.md
    assert resolve_engine("matmul") == "matmul"


@pytest.mark.parametrize("center", [True, False])
def test_nan_and_inf_stay_in_the_frames_they_touch(center):
    y = signals()["noise"].copy()
    y[5000] = np.nan
    y[8000] = np.inf
    at = np.arange(1 + (len(y) - (0 if center else 600)) // 300) * 300 - (300 if center else 0)
    for engine in ("fft", "matmul"):
        ours = np.asarray(frontends.spectrogram(y, n_fft=600, hop_length=300, center=center, window="boxcar", engine=engine))
        touched = ((at <= 5000) & (at + 600 > 5000)) | ((at <= 8000) & (at + 600 > 8000))
        assert np.isnan(ours[touched]).any(1).all()
        assert np.isfinite(ours[~touched]).all()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda y: frontends.stft(y, n_fft=64, win_length=65), r"win_length must lie in \[1, n_fft = 64\], and was given 65"),
        (lambda y: frontends.stft(y, n_fft=0), "n_fft must be at least 1, and was given 0"),
        (lambda y: frontends.stft(y, n_fft=64, hop_length=0), "hop_length must be at least 1, and was given 0"),
        (lambda y: frontends.stft(y, n_fft=64, pad_mode="warp"), "unknown pad_mode 'warp': choose one of constant, edge, reflect"),
        (lambda y: frontends.stft(y, n_fft=64, window="hahn"), r"window must be a window of scipy.* or an array, and was given 'hahn'"),
        (lambda y: frontends.stft(y, n_fft=64, window=np.ones(5)), r"must have win_length = 64 samples, and has the shape \(5,\)"),
        (lambda y: frontends.stft(y, n_fft=64, engine="dft"), "unknown engine 'dft'.*: choose one of auto, fft, matmul"),
        (lambda y: frontends.stft(y[:30], n_fft=64, center=False), "must have at least 64 samples for frames of 64 .*, and has 30"),
        (lambda y: frontends.stft(y[:30], n_fft=64, pad_mode="reflect"), "must have at least 33 samples .*, and has 30"),
        (lambda y: frontends.stft(y[:0], n_fft=64), "must have at least 1 sample, and has 0"),
        (lambda y: frontends.stft(y.astype(jnp.int16)), "needs a real waveform of floats .* was given int16"),
        (lambda y: frontends.stft(y.astype(jnp.complex64)), "needs a real waveform of floats .* was given complex64"),
        (lambda y: frontends.spectrogram(y, power=0), "power must be positive, and was given 0"),
        (lambda y: frontends.istft(frontends.stft(y, n_fft=64), n_fft=66), "must have 34 bins for n_fft = 66, and has 33"),
    ],
)  # fmt: skip
def test_bad_arguments_get_a_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(jnp.zeros(100))
