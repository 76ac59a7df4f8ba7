"""CQT and VQT against their definition (inner products in float64) over a grid with odd sizes, and against librosa."""

import inspect
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from signals import batch, real_clips, signals

from genre_jax.console import UserError
from genre_jax.frontends.cqt import cqt, cqt_frequencies, vqt
from genre_jax.frontends.stft import CHUNK_SAMPLES

librosa = pytest.importorskip("librosa")
C1 = 32.70319566257483
GRID = [
    {},
    {"sr": 11025, "hop_length": 256, "n_bins": 60, "bins_per_octave": 12, "pad_mode": "reflect"},
    {"sr": 16000, "hop_length": 300, "n_bins": 80, "gamma": 12.5},
    {"sr": 16000, "hop_length": 511, "n_bins": 36, "fmin": 220.3, "norm": 2, "pad_mode": "edge"},
    {"hop_length": 441, "n_bins": 144, "bins_per_octave": 24, "gamma": None, "tuning": 0.3},
    {"hop_length": 512, "n_bins": 100, "bins_per_octave": 36, "fmin": 65.4, "norm": np.inf},
    {"hop_length": 100, "n_bins": 40, "fmin": 55, "filter_scale": 0.5, "scale": False},
    {"sr": 16000, "hop_length": 257, "n_bins": 80, "window": "hamming", "norm": None},
    {"sr": 44100.5, "hop_length": 1000, "n_bins": 84, "fmin": 50, "window": ("kaiser", 12.0), "gamma": 3},
    {"n_bins": 1, "fmin": 440, "filter_scale": 2, "window": "boxcar"},
]


def filters(
    *,
    sr=22050,
    fmin=C1,
    n_bins=84,
    gamma=0.0,
    bins_per_octave=12,
    tuning=0.0,
    filter_scale=1,
    norm=1,
    window="hann",
    scale=True,
):
    """Yield each filter in float64 with the index of the frame's centre."""
    step = 2 ** (2 / bins_per_octave)
    alpha = (step - 1) / (step + 1)
    gamma = 24.7 / 0.108 * alpha if gamma is None else gamma
    for k in range(n_bins):
        f = fmin * 2 ** ((k + tuning) / bins_per_octave)
        length = filter_scale * sr / (alpha * f + gamma)
        before, after = math.ceil(length / 2), math.floor(length / 2)
        taper = scipy.signal.get_window(window, before + after)
        total = {1: np.sum(taper), 2: np.sqrt(np.sum(taper**2)), np.inf: np.max(taper), None: 1}[norm]
        wave = np.exp(2j * np.pi * f / sr * np.arange(-before, after))
        yield taper * wave / total * (np.sqrt(length) if scale else length), before


def definition(y, *, hop_length=512, pad_mode="constant", turned=False, **options):
    """Compute the inner products (..., frames, bins). `turned` mirrors the windows in time, as librosa does."""
    columns = []
    for taps, before in filters(**options):
        if turned:
            taps, before = taps.conj()[::-1], len(taps) - 1 - before
        padded = np.pad(y.astype(np.float64), [(0, 0)] * (y.ndim - 1) + [(len(taps), len(taps))], mode=pad_mode)
        frames = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis=-1)
        first = len(taps) - before
        products = frames[..., first : first + y.shape[-1] + 1 : hop_length, :] @ np.stack([taps.real, -taps.imag], -1)
        columns.append(products[..., 0] + 1j * products[..., 1])
    return np.stack(columns, -1)


def transform(y, **options):
    """Compute `vqt` if the options have a gamma, otherwise `cqt`, under one jit."""
    function = vqt if "gamma" in options else cqt
    return np.asarray(jax.jit(lambda y: function(y, **options))(y))


def error(ours, reference):
    """Return the largest error over the batch, relative to the largest value of each signal."""
    assert ours.shape == reference.shape
    peak = np.abs(reference).max((-2, -1))
    return (np.abs(ours - reference).max((-2, -1)) / np.where(peak > 0, peak, 1)).max()


def of_librosa(y, hop_length=512, **options):
    function = librosa.vqt if "gamma" in options else librosa.cqt
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # n_fft is too large for a signal this short
        return function(y, hop_length=hop_length, sparsity=0, **options).swapaxes(-1, -2)


@pytest.mark.parametrize("options", GRID, ids=str)
def test_equals_the_definition(options):
    """Holds everywhere, including the edges, although low bins use a decimated signal."""
    y = batch()
    assert error(transform(y, **options), definition(y, **options)) < 5e-4


def test_a_kernel_at_the_full_rate_is_exact():
    """The side lobes of a Hamming window do not decay, therefore nothing is decimated and float64 equals the definition."""
    options = {"sr": 16000, "hop_length": 333, "n_bins": 40, "fmin": 110, "window": "hamming"}
    with jax.enable_x64(True):
        y = jnp.asarray(batch()[:3], jnp.float64)
        ours = transform(y, **options)
        assert ours.dtype == np.complex128
        assert error(ours, definition(batch()[:3], **options)) < 1e-12


NEAR = [
    {},
    {"sr": 16000, "n_bins": 80, "hop_length": 256},
    {"sr": 11025, "n_bins": 60},
    {"gamma": None, "hop_length": 511},
    {"gamma": 10, "hop_length": 255},
]


@pytest.mark.parametrize("options", NEAR, ids=str)
def test_near_librosa(options):
    """Compares cells above -20 dB of the peak in decibels. librosa's resampling and mirrored windows cause the differences.

    The hop of a VQT is odd, because librosa then does not resample. With resampling, 99 % of the cells are within 2 dB instead
    of 0.7 dB: at the lowest rates the filters of a large gamma have a few dozen samples, and mirrored windows move by one
    sample. The limit is 0.8 dB without real clips, because noise, sweep and impulse are more difficult.
    """
    differences = []
    for name, y in signals().items():
        if name == "silence":
            assert not transform(y, **options).any()
            continue
        ours, reference = np.abs(transform(y, **options)), np.abs(of_librosa(y, **options))
        assert ours.shape == reference.shape
        loud = reference > 0.1 * reference.max()
        differences.append(np.abs(20 * np.log10(ours[loud] / reference[loud])))
    assert np.percentile(np.concatenate(differences), 99) < (0.7 if real_clips() else 0.8)


@pytest.mark.parametrize(("gamma", "close"), [(0, 3e-4), (None, 1e-2)])
def test_librosa_turns_the_windows_round(gamma, close):
    """Without resampling (odd hop), librosa equals the definition with each window mirrored at the centre of the frame.

    Periodic windows are zero only at the start. In the highest bins, the difference is a few percent of the peak. With a gamma,
    low filters are so wide that they include negative frequencies, which librosa omits. This test documents both differences.
    """
    y, options = batch(), {"hop_length": 511, "gamma": gamma}
    theirs = of_librosa(y, **options)
    assert error(theirs, definition(y, turned=True, **options)) < close
    assert 5e-3 < error(theirs, definition(y, **options)) < 5e-2


@pytest.mark.parametrize(
    "options",
    [{"n_bins": 84}, {"n_bins": 144, "bins_per_octave": 24, "hop_length": 300}, {"n_bins": 80, "sr": 16000, "fmin": 27.5}],
    ids=str,
)
def test_a_tone_peaks_in_its_own_bin(options):
    sr = options.get("sr", 22050)
    bins = {name: options[name] for name in ("n_bins", "fmin", "bins_per_octave") if name in options}
    tones = np.cos(2 * np.pi * cqt_frequencies(**bins)[:, None] * np.arange(25_600) / sr)
    ours = np.abs(transform(tones.astype(np.float32), **options))
    middle = ours[:, ours.shape[1] // 2]
    np.testing.assert_array_equal(middle.argmax(-1), np.arange(options["n_bins"]))
    # The value of a tone of amplitude 1: a window of sum 1, times the root of the filter's length.
    step = 2 ** (2 / options.get("bins_per_octave", 12))
    lengths = (step + 1) / (step - 1) * sr / cqt_frequencies(**bins)
    np.testing.assert_allclose(middle.max(-1), 0.5 * np.sqrt(lengths), rtol=1e-3)


def test_cqt_frequencies_equal_librosa():
    np.testing.assert_allclose(cqt_frequencies(), librosa.cqt_frequencies(84, fmin=librosa.note_to_hz("C1")), rtol=1e-12)
    ours = cqt_frequencies(n_bins=50, fmin=27.5, bins_per_octave=24, tuning=-0.4)
    np.testing.assert_allclose(ours, librosa.cqt_frequencies(50, fmin=27.5, bins_per_octave=24, tuning=-0.4), rtol=1e-12)


@pytest.mark.parametrize(
    ("pad_mode", "samples"),
    [("constant", 1), ("constant", 4000), ("reflect", 300), ("edge", 300)],
)
def test_clips_shorter_than_the_filters(pad_mode, samples):
    y, options = batch()[:, 4000 : 4000 + samples], {"hop_length": 128, "n_bins": 80, "pad_mode": pad_mode}
    assert error(transform(y, **options), definition(y, **options)) < 3e-4


def test_leading_axes_batches_and_chunks_do_not_matter(monkeypatch):
    y = jnp.asarray(batch()[:4])
    together = transform(y)
    assert together.shape == (4, 18, 84)
    assert together.dtype == np.complex64
    for other in (transform(y.reshape(2, 1, 2, -1)).reshape(together.shape), np.asarray(jax.vmap(cqt)(y)), [transform(y[0])]):
        assert error(np.asarray(other), together[: len(other)]) < 1e-6
    monkeypatch.setitem(CHUNK_SAMPLES, "cpu", 1)
    assert error(transform(y), together) < 1e-6


def test_linear_and_differentiable():
    """The gradient of a power equals a central difference in float64, and is finite on silence in float32."""

    def power(y):
        z = vqt(y, sr=16000, hop_length=300, n_bins=80)
        return (z.real**2 + z.imag**2).sum()

    assert np.isfinite(jax.jit(jax.grad(power))(jnp.zeros(3000))).all()
    with jax.enable_x64(True):
        y = jnp.asarray(signals()["noise"][:3000], jnp.float64)
        direction = jnp.asarray(np.random.default_rng(1).normal(size=3000))
        step = 1e-4
        numeric = (power(y + step * direction) - power(y - step * direction)) / (2 * step)
        assert float(jax.grad(power)(y) @ direction) == pytest.approx(float(numeric), rel=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_stay_visible(bad):
    y = jnp.asarray(signals()["noise"]).at[4100].set(bad)
    touched = np.abs(definition(np.eye(1, y.shape[-1], 4100)[0])) > 0
    assert not np.isfinite(transform(y)[touched]).any()


def test_memory_does_not_grow_with_the_filters():
    """For 30 s, frames of the longest filter would take 59 MB, and the spectra of all 84 filters would take more."""
    clip = jax.ShapeDtypeStruct((661_500,), jnp.float32)
    statistics = jax.jit(cqt).lower(clip).compile().memory_analysis()
    assert statistics.temp_size_in_bytes < 20e6


def test_defaults_are_librosas():
    for ours, theirs in ((cqt, librosa.cqt), (vqt, librosa.vqt)):
        defaults = {name: p.default for name, p in inspect.signature(theirs).parameters.items()}
        assert {name: p.default for name, p in inspect.signature(ours).parameters.items()}.items() <= defaults.items()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"hop_length": 0}, "hop_length must be at least 1, and was given 0"),
        ({"fmin": 0}, "fmin must be above 0 Hz, and was given 0"),
        ({"fmin": -3.5}, "fmin must be above 0 Hz, and was given -3.5"),
        ({"n_bins": 0}, "n_bins must be at least 1, and was given 0"),
        ({"bins_per_octave": 0}, "bins_per_octave must be at least 1, and was given 0"),
        ({"sr": 8000}, r"bin 84 at 3951.1 Hz reaches up to 4\d\d\d.\d Hz, and must stay below sr / 2 = 4000.0 Hz"),
        ({"fmin": 20000}, "must stay below sr / 2 = 11025.0 Hz"),
        ({"filter_scale": 0}, "filter_scale must be above 0, and was given 0"),
        ({"gamma": -1}, "gamma must be at least 0 Hz, or None, and was given -1"),
        ({"window": "round"}, "window must be a window of .* and was given 'round'"),
        ({"window": np.ones(9)}, "window must be a name or tuple of scipy.signal.get_window"),
        ({"norm": "l2"}, "norm must be a number above 0, inf or None, and was given 'l2'"),
        ({"norm": 0}, "norm must be a number above 0, inf or None, and was given 0"),
        ({"pad_mode": "warp"}, "unknown pad_mode 'warp': choose one of constant, edge, reflect"),
    ],
    ids=str,
)
def test_bad_arguments_get_a_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        vqt(jnp.zeros(100), **({"gamma": 0} | options))


def test_bad_waveforms_get_a_sentence():
    for kind in (jnp.int16, jnp.complex64):
        with pytest.raises(UserError, match=f"needs a .*waveform of floats .* was given {kind.__name__}"):
            cqt(jnp.zeros(100, kind))
    with pytest.raises(UserError, match="must have at least 1 sample, and has 0"):
        cqt(jnp.zeros(0))
