"""Descriptors against librosa over a grid with odd sizes, statistics against scipy, and edge cases.

The reference is librosa with the same samples in float64. The error of a signal is relative to the peak of its reference over
all frames. A float32 FFT has an error of about -130 dB relative to the loudest bin of a frame; the FFT of librosa is always in
float64. Bandwidth, contrast, flatness and roll-off of a pure tone measure that error. Therefore the tolerances are: 1e-4 for
signals with noise 40 dB below full scale, 1e-4 of the range without this noise, and 1e-8 in float64 for a tone.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import signals

from genre_jax.console import UserError
from genre_jax.frontends import descriptors

librosa = pytest.importorskip("librosa")
stats = pytest.importorskip("scipy.stats")

SR = (8000, 16000, 22050)
# (n_fft, hop_length, center, pad_mode, sr)
GRID = [
    (400, 160, True, "constant", 16000),
    (511, 187, True, "reflect", 22050),
    (512, 512, False, "constant", 16000),
    (600, 300, True, "edge", 22050),
    (1024, 100, False, "constant", 16000),
    (2048, 512, True, "constant", 22050),
    (2048, 441, True, "reflect", 44100),
]


@functools.cache
def floored():
    """Return the signals with noise 40 dB below full scale; silence stays."""
    y = signals.batch().copy()
    noise = np.random.default_rng(7).normal(0, 0.01, y.shape).astype(np.float32)
    return y + noise * (np.abs(y).max(-1, keepdims=True) > 0)


def ours_of(names, y, options):
    """Compute several descriptors in one compiled program: name → (signals, frames, bins)."""
    run = jax.jit(lambda y: {name: getattr(descriptors, name)(y, **options[name]) for name in names})
    ours = run(y)
    assert all(x.dtype == np.float32 for x in ours.values())
    return {name: np.asarray(x) for name, x in ours.items()}


def theirs(name, y, **options):
    """Compute a descriptor by librosa, clip by clip."""
    return np.stack([getattr(librosa.feature, name)(y=clip.astype(np.float64), **options).T for clip in y])


def both(name, y, **options):
    """Return our result and that of librosa."""
    ours, reference = ours_of([name], y, {name: options})[name], theirs(name, y, **options)
    assert ours.shape == reference.shape
    return ours, reference


def stft_options(n_fft, hop_length, center, pad_mode):
    return {"n_fft": n_fft, "hop_length": hop_length, "center": center, "pad_mode": pad_mode}


SHAPES = ("spectral_bandwidth", "spectral_centroid", "spectral_contrast", "spectral_flatness", "spectral_rolloff")


@functools.cache
def shapes(n_fft, hop_length, center, pad_mode, sr):
    """Return name → (ours, librosa's), both (2, signals, frames, bins): the signals with noise, and without."""
    options = {name: {"sr": sr} | stft_options(n_fft, hop_length, center, pad_mode) for name in SHAPES}
    options["spectral_contrast"]["n_bands"] = 5
    del options["spectral_flatness"]["sr"]
    y = np.stack([floored(), signals.batch()])
    ours = ours_of(SHAPES, y, options)
    return {name: (ours[name], np.stack([theirs(name, part, **options[name]) for part in y])) for name in SHAPES}


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "spectral_rolloff"])
@pytest.mark.parametrize("setting", GRID, ids=str)
def test_spectral_shape_equals_librosa(setting, name):
    ours, reference = shapes(*setting)[name]
    assert ours.shape == reference.shape
    assert signals.worst(ours[0], reference[0]) < 1e-4
    extent = {"spectral_flatness": 1, "spectral_contrast": None}.get(name, setting[-1] / 2)
    if extent:
        assert np.abs(ours[1] - reference[1]).max() < 1e-4 * extent


def test_rolloff_equals_librosa():
    """Differs by one bin if a float32 sum ties with the threshold, in less than 0.1 % of the frames of the grid."""
    differing = total = 0
    for setting in GRID:
        ours, reference = shapes(*setting)["spectral_rolloff"]
        bins = np.abs(ours - reference) / (setting[-1] / setting[0])
        assert bins.max() < 1.001
        differing, total = differing + np.sum(bins > 0.5), total + bins.size
    assert differing < 1e-3 * total
    ours, reference = both("spectral_rolloff", floored(), sr=16000, n_fft=512, hop_length=100, roll_percent=0.5)
    assert np.mean(ours != reference.astype(np.float32)) < 1e-3


@pytest.mark.parametrize("options", [{"fmin": 150.5, "n_bands": 3}, {"quantile": 0.5}])
def test_contrast_options_equal_librosa(options):
    """The tolerance is 3e-4, because the valley of a tone in a band of six octaves is 90 dB below the tone."""
    options = {"n_fft": 512, "hop_length": 300} | options
    assert signals.worst(*both("spectral_contrast", floored(), sr=22050, **options)) < 3e-4


def test_linear_contrast_equals_librosa():
    """The tolerance is relative to the loudest signal, because the contrast of an impulse is 0."""
    options = {"n_fft": 512, "hop_length": 300, "linear": True, "quantile": 0.1}
    assert signals.relative(*both("spectral_contrast", signals.batch(), sr=22050, **options)) < 1e-6


@pytest.mark.parametrize(("n_fft", "hop_length", "center", "pad_mode", "sr"), GRID)
def test_chroma_and_tonnetz_equal_librosa(n_fft, hop_length, center, pad_mode, sr):
    options = {"sr": sr, "tuning": 0.0} | stft_options(n_fft, hop_length, center, pad_mode)
    ours = ours_of(("chroma_stft", "tonnetz"), signals.batch(), dict.fromkeys(("chroma_stft", "tonnetz"), options))
    reference = theirs("chroma_stft", signals.batch(), **options)
    assert signals.worst(ours["chroma_stft"], reference) < 1e-4
    tonal = np.stack([librosa.feature.tonnetz(chroma=one.T, sr=sr).T for one in reference])
    assert signals.worst(descriptors.tonnetz(chroma=ours["chroma_stft"]), tonal) < 1e-4
    assert signals.worst(ours["tonnetz"], tonal) < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"n_chroma": 24, "tuning": 0.3},
        {"octwidth": None, "norm": 2},
        {"base_c": False, "norm": None, "ctroct": 4.0},
        {"norm": 1},
    ],
)
def test_chroma_options_equal_librosa(options):
    options = {"tuning": 0.0, "n_fft": 1024, "hop_length": 300} | options
    assert signals.worst(*both("chroma_stft", signals.batch(), sr=16000, **options)) < 1e-4


def test_chroma_filterbank_equals_librosa():
    for sr, n_fft, n_chroma, tuning in itertools.product(SR, (400, 511, 2048), (12, 24, 7), (0.0, -0.4)):
        options = {"sr": sr, "n_fft": n_fft, "n_chroma": n_chroma, "tuning": tuning}
        ours = descriptors.chroma_filterbank(**options)
        assert signals.relative(ours, librosa.filters.chroma(**options, dtype=np.float64).T) < 1e-12, options


@pytest.mark.parametrize(
    "options", [{"p": 1.0}, {"p": 3.5}, {"norm": False}, {"p": 0.5, "win_length": 400, "window": "hamming"}]
)
def test_bandwidth_options_equal_librosa(options):
    options = {"n_fft": 512, "hop_length": 300} | options
    assert signals.worst(*both("spectral_bandwidth", floored(), sr=16000, **options)) < 1e-4


@pytest.mark.parametrize("options", [{"power": 1.0}, {"power": 0.7}, {"amin": 1e-3}])
def test_flatness_options_equal_librosa(options):
    options = {"n_fft": 512, "hop_length": 300} | options
    assert signals.worst(*both("spectral_flatness", floored(), **options)) < 1e-4


@pytest.mark.parametrize(("frame_length", "hop_length", "center", "pad_mode", "sr"), GRID)
def test_rms_and_zero_crossings_equal_librosa(frame_length, hop_length, center, pad_mode, sr):
    """Both count the same float32 signs, therefore only the division can differ."""
    frames = {"frame_length": frame_length, "hop_length": hop_length, "center": center}
    assert signals.worst(*both("rms", signals.batch(), **frames, pad_mode=pad_mode)) < 2e-6
    y = signals.batch().copy()
    y[:, 1000:1100] = 0
    y[:, 1050] = -1e-5
    np.testing.assert_allclose(*both("zero_crossing_rate", y, **frames), rtol=1e-6)


@pytest.mark.parametrize("options", [{"threshold": 0.01}, {"zero_pos": False}, {"threshold": 0.0, "zero_pos": False}])
def test_zero_crossing_options_equal_librosa(options):
    y = signals.batch().copy()
    y[:, 1000:1100] = 0
    y[:, 1050] = -1e-5
    np.testing.assert_allclose(*both("zero_crossing_rate", y, frame_length=511, hop_length=187, **options), rtol=1e-6)


NAMES = ("chroma_stft", "rms", "spectral_bandwidth", "spectral_centroid", "spectral_contrast", "spectral_flatness",
         "spectral_rolloff", "tonnetz", "zero_crossing_rate")  # fmt: skip
OPTIONS = {
    name: {"frame_length" if name in ("rms", "zero_crossing_rate") else "n_fft": 512, "hop_length": 300}
    | ({"sr": 16000, "n_bands": 5} if name == "spectral_contrast" else {})
    for name in NAMES
}


@pytest.mark.parametrize("name", NAMES)
def test_any_batch_finite_gradients_and_nan(name):
    call = functools.partial(getattr(descriptors, name), **OPTIONS[name])
    y = jnp.asarray(signals.batch()[:2, :3001]).reshape(2, 1, 3001)
    run = jax.jit(call)
    together = run(y)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.vmap(call)))(y), together, rtol=1e-4, atol=1e-4)
    assert jax.eval_shape(call, y[1, 0]).shape == together.shape[2:]
    total = jax.jit(lambda y: call(y).sum())
    slope = jax.jit(jax.grad(lambda y: call(y).sum()))
    for signal in (y, jnp.zeros_like(y), y.at[..., 600:].set(0), jnp.full_like(y, 0.1)):
        assert np.isfinite(slope(signal)).all()
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        ours = ~np.isfinite(run(y.at[0, 0, 1500].set(bad)))
        assert ours[0, 0, 5].all() and not ours[1].any()
        assert not np.isfinite(total(y.at[0, 0, 1500].set(bad)))  # a sum in the same program keeps it
        assert name == "spectral_contrast" or not ours[0, 0, :4].any()  # its lower limit depends on the clip


@pytest.mark.parametrize("signal", ["noise", "tone"])
def test_double_precision_goes_through(signal):
    y = signals.signals()[signal].astype(np.float64)[:3001]
    tuned = {name: OPTIONS[name] | ({"tuning": 0.0} if name in ("chroma_stft", "tonnetz") else {}) for name in NAMES}
    with jax.enable_x64(True):
        ours = jax.jit(lambda y: {name: getattr(descriptors, name)(y, **tuned[name]) for name in NAMES})(y)
    for name in NAMES:
        if name == "tonnetz":
            reference = librosa.feature.tonnetz(chroma=librosa.feature.chroma_stft(y=y, **tuned[name])).T
        else:
            extra = {"dtype": np.float64} if name == "rms" else {}
            reference = getattr(librosa.feature, name)(y=y, **tuned[name], **extra).T
        assert ours[name].dtype == np.float64
        # The chroma filters of librosa are float32.
        assert signals.relative(ours[name], reference) < (1e-6 if name in ("chroma_stft", "tonnetz") else 1e-8), name


def test_silence_has_known_values():
    ours = ours_of(NAMES, np.zeros(2000, np.float32), OPTIONS)
    for name in NAMES:
        np.testing.assert_allclose(ours[name], float(name == "spectral_flatness"), rtol=1e-5, err_msg=name)


# --- summarise


def test_statistics_are_numpys_and_scipys():
    x = np.random.default_rng(4).gamma(2.0, 1.5, (3, 2, 51, 7)).astype(np.float32)
    functions = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max, "median": np.median, "skew": stats.skew,
                 "kurtosis": stats.kurtosis}  # fmt: skip
    assert set(functions) == set(descriptors.STATISTICS)
    ours = jax.jit(functools.partial(descriptors.summarise, statistics=tuple(functions)))(x)
    expected = np.concatenate([function(x.astype(np.float64), axis=-2) for function in functions.values()], -1)
    assert ours.shape == (3, 2, 49)
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(descriptors.summarise(x), descriptors.summarise(x, statistics=("mean", "std")))
    np.testing.assert_allclose(
        descriptors.summarise(x[0, 0, :50], statistics=("median",)), np.median(x[0, 0, :50], 0), rtol=1e-6
    )


def test_statistics_of_constant_features():
    x = jnp.full((20, 3), jnp.array([0.0, 0.1, 1e4]))
    names = tuple(descriptors.STATISTICS)
    ours = np.asarray(descriptors.summarise(x, statistics=names)).reshape(len(names), 3)
    expected = np.zeros((len(names), 3))
    expected[[names.index(name) for name in ("mean", "min", "max", "median")]] = [0.0, 0.1, 1e4]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    slope = jax.jit(jax.grad(lambda x: descriptors.summarise(x, statistics=names).sum()))(x)
    assert np.isfinite(slope).all()


def test_statistics_keep_nan():
    x = jnp.asarray(np.random.default_rng(4).normal(size=(20, 3)), jnp.float32).at[7, 1].set(jnp.nan)
    names = tuple(descriptors.STATISTICS)
    ours = np.isnan(jax.jit(functools.partial(descriptors.summarise, statistics=names))(x)).reshape(len(names), 3)
    np.testing.assert_array_equal(ours, [[False, True, False]] * len(names))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda y: descriptors.spectral_contrast(y, n_bands=0), "n_bands must be at least 1, and was given 0"),
        (lambda y: descriptors.spectral_contrast(y, quantile=1.0), r"quantile must lie in \(0, 1\), and was given 1.0"),
        (lambda y: descriptors.spectral_contrast(y, fmin=0), "fmin must be positive, and was given 0"),
        (lambda y: descriptors.spectral_contrast(y, sr=8000), "must begin below sr / 2 = 4000 Hz, and begins at 6400 Hz: use an fmin below 200 Hz or fewer bands than 6"),
        (lambda y: descriptors.spectral_contrast(y, n_fft=64, fmin=100), "from 0 to 100 Hz is narrower than a bin of n_fft = 64 at 22050 Hz"),
        (lambda y: descriptors.spectral_rolloff(y, roll_percent=85), r"roll_percent must lie in \(0, 1\), and was given 85"),
        (lambda y: descriptors.spectral_flatness(y, amin=0), "amin must be positive, and was given 0"),
        (lambda y: descriptors.spectral_bandwidth(y, p=0), "p must be positive, and was given 0"),
        (lambda y: descriptors.spectral_centroid(y, sr=0), "sr must be positive, and was given 0"),
        (lambda y: descriptors.spectral_centroid(y, pad_mode="warp"), "unknown pad_mode 'warp'"),
        (lambda y: descriptors.chroma_stft(y, n_chroma=0), "n_chroma must be at least 1, and was given 0"),
        (lambda y: descriptors.chroma_stft(y, sr=-1), "sr must be positive, and was given -1"),
        (lambda y: descriptors.chroma_stft(y, norm=-1), "norm must be positive, inf or None, and was given -1"),
        (lambda y: descriptors.tonnetz(), "needs a waveform y or a chromagram chroma, and was given neither"),
        (lambda y: descriptors.rms(y, frame_length=0), "frame_length must be at least 1, and was given 0"),
        (lambda y: descriptors.rms(y, hop_length=0), "hop_length must be at least 1, and was given 0"),
        (lambda y: descriptors.rms(y[:100], center=False), "must have at least 2048 samples .*, and has 100"),
        (lambda y: descriptors.zero_crossing_rate(y.astype(jnp.int16)), "was given int16"),
        (lambda y: descriptors.zero_crossing_rate(y, threshold=-1), "threshold must be at least 0, and was given -1"),
        (lambda y: descriptors.summarise(y), r"must have the shape \(..., frames, bins\) .*, and have the shape \(3000,\)"),
        (lambda y: descriptors.summarise(y[:, None], statistics=("mean", "medium")), "unknown statistic 'medium' .did you mean 'median'"),
        (lambda y: descriptors.summarise(y[:, None], statistics=()), "unknown statistic '': choose one of"),
    ],
)  # fmt: skip
def test_bad_arguments_get_a_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(jnp.zeros(3000))
