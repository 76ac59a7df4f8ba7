"""Cepstra, deltas and pre-emphasis against librosa, python_speech_features and definitions in float64."""

import functools
import importlib
import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from genre_jax.console import UserError

cepstra = importlib.import_module("genre_jax.frontends.mfcc")  # in the package, `mfcc` is the function

librosa = pytest.importorskip("librosa")
SAMPLES = 9001
AUDIO = Path(__file__).parents[2] / "shared" / "audio"


def make_signals() -> dict[str, np.ndarray]:
    time = np.arange(SAMPLES) / 16000
    signals = {
        "noise": np.random.default_rng(0).normal(0, 0.3, SAMPLES),
        "tone": 0.5 * np.sin(2 * np.pi * 440.3 * time),
        "sweep": 0.5 * np.sin(2 * np.pi * (50 + 4000 * time) * time),
        "impulse": np.eye(1, SAMPLES, 4001)[0],
        "silence": np.zeros(SAMPLES),
    }
    for path in sorted(AUDIO.glob("*/*.ogg"))[::3] if AUDIO.exists() else ():
        soundfile = pytest.importorskip("soundfile")
        signals[path.stem] = soundfile.read(path, frames=SAMPLES, start=44100, always_2d=True)[0].mean(1)
    return {name: y.astype(np.float32) for name, y in signals.items()}


SIGNALS = make_signals()
BATCH = np.stack(list(SIGNALS.values()))


def relative(ours, reference):
    """Largest difference over the reference's largest magnitude."""
    assert ours.shape == reference.shape
    return np.abs(np.asarray(ours) - reference).max() / max(np.abs(reference).max(), 1e-30)


@pytest.mark.parametrize(
    ("sr", "n_fft", "hop_length", "options"),
    [
        (16000, 400, 160, {"n_mels": 40}),
        (22050, 511, 187, {"n_mels": 40, "n_mfcc": 13, "lifter": 22}),
        (16000, 600, 300, {"n_mels": 64, "n_mfcc": 64, "dct_type": 1}),
        (8000, 1024, 101, {"n_mels": 64, "n_mfcc": 40, "norm": "none"}),
        (44100, 1024, 256, {"n_mels": 60, "dct_type": 1, "norm": "none", "htk": True, "pad_mode": "reflect"}),
        (11025, 600, 512, {"n_mels": 41, "dct_type": 3, "lifter": 7, "mel_norm": "none", "fmin": 50, "fmax": 4000}),
        (22050, 2048, 512, {"dct_type": 3, "norm": "none", "n_mfcc": 1}),
        (22050, 2048, 512, {"n_mfcc": 40, "lifter": 40, "center": False, "win_length": 1999}),
    ],
)
def test_mfcc_equals_librosa(sr, n_fft, hop_length, options):
    """Float32 against librosa in float64: within 1e-5 of the peak, and within 0.005 dB for orthonormal coefficients."""
    ours = jax.jit(lambda y: cepstra.mfcc(y, sr=sr, n_fft=n_fft, hop_length=hop_length, **options))(BATCH)
    theirs = {k: None if v == "none" else v for k, v in options.items()}
    for name, y, out in zip(SIGNALS, BATCH.astype(np.float64), ours, strict=True):
        reference = librosa.feature.mfcc(y=y, sr=sr, n_fft=n_fft, hop_length=hop_length, dtype=np.float64, **theirs).T
        assert relative(out, reference) < 1e-5, name
        if "norm" not in options and "lifter" not in options:
            assert np.abs(out - reference).max() < 5e-3, name


@pytest.mark.parametrize("norm", ["ortho", "none"])
@pytest.mark.parametrize("dct_type", [1, 2, 3])
def test_cosine_transform_equals_scipy(dct_type, norm):
    x = np.random.default_rng(1).normal(size=(3, 41))
    for size in (2, 3, 40, 41):
        expected = scipy.fft.dct(x[:, :size], type=dct_type, norm=None if norm == "none" else norm)
        assert relative(x[:, :size] @ cepstra._dct_matrix(size, dct_type, norm), expected) < 1e-13


SPEECH = {
    "sr": 16000, "win_length": 400, "hop_length": 160, "n_fft": 512, "window": "boxcar", "n_mels": 26, "fmin": 0, "fmax": None,
    "preemph": 0.97, "n_mfcc": 13, "lifter": 22, "use_energy": True,
}  # fmt: skip
SPEECH_GRID = [
    {},
    {"n_mels": 32, "n_mfcc": 32, "window": "hamming", "lifter": 0},
    {"n_mels": 64, "use_energy": False, "lifter": 9.5},
    {
        "sr": 22050,
        "win_length": 551,
        "hop_length": 220,
        "n_fft": 1024,
        "fmin": 60,
        "fmax": 9000,
        "window": "hamming",
        "n_mels": 40,
    },
    {"sr": 8000, "win_length": 200, "hop_length": 77, "n_fft": 255, "n_mels": 20, "preemph": 0},
]


def speech_filters(sr, n_fft, n_mels, fmin, fmax, **_):
    """Compute the filters bin by bin from the definition."""
    mels = [2595 * math.log10(1 + f / 700) for f in (fmin, fmax or sr / 2)]
    hertz = 700 * (10 ** (np.linspace(*mels, n_mels + 2) / 2595) - 1)
    edges = [int(edge) for edge in np.floor((n_fft + 1) * hertz / sr)]
    filters = np.zeros((n_fft // 2 + 1, n_mels))
    for j, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for i in range(left, right):
            filters[i, j] = (i - left) / (centre - left) if i < centre else (right - i) / (right - centre)
    return filters


def speech_features(y, **changes):
    """Compute MFCC and log energies of python_speech_features frame by frame from the definition, in float64."""
    o = SPEECH | changes
    y = np.append(y[0], y[1:] - o["preemph"] * y[:-1])
    taper = {"boxcar": np.ones, "hamming": np.hamming, "hann": np.hanning}[o["window"]](o["win_length"])
    filters = speech_filters(**o)
    rows, logs = [], []
    start = 0
    while not rows or start + o["win_length"] < len(y) + o["hop_length"]:
        part = y[start : start + o["win_length"]]
        part = np.append(part, np.zeros(o["win_length"] - len(part))) * taper
        power = np.abs(np.fft.rfft(part, o["n_fft"])) ** 2 / o["n_fft"]
        energy, bands = power.sum(), power @ filters
        logs.append(np.log(np.where(bands == 0, np.finfo(float).eps, bands)))
        row = scipy.fft.dct(logs[-1], norm="ortho")[: o["n_mfcc"]]
        if o["lifter"]:
            row *= 1 + o["lifter"] / 2 * np.sin(np.pi * np.arange(len(row)) / o["lifter"])
        if o["use_energy"]:
            row[0] = np.log(energy or np.finfo(float).eps)
        rows.append(row)
        start += o["hop_length"]
    return np.array(rows), np.array(logs)


@pytest.mark.parametrize("options", SPEECH_GRID, ids=str)
def test_speech_cepstra_equal_their_definition(options):
    """Single filters are within 2e-4 of the peak, because float32 loses digits if the few bins of a filter cancel."""
    ours = jax.jit(lambda y: cepstra.mfcc_htk(y, **options))(BATCH)
    bands = {k: v for k, v in options.items() if k not in ("n_mfcc", "lifter", "use_energy")}
    logs = jax.jit(lambda y: cepstra.log_filterbank_htk(y, **bands))(BATCH)
    for name, y, out, log in zip(SIGNALS, BATCH.astype(np.float64), ours, logs, strict=True):
        expected, expected_log = speech_features(y, **options)
        assert relative(out, expected) < 1e-4, name
        assert relative(log, expected_log) < 2e-4, name


@pytest.mark.parametrize("options", SPEECH_GRID, ids=str)
def test_the_definition_is_that_of_python_speech_features(options):
    features = pytest.importorskip("python_speech_features")
    o = SPEECH | options
    bank = features.get_filterbanks(o["n_mels"], o["n_fft"], o["sr"], o["fmin"], o["fmax"]).T
    names = ("sr", "n_fft", "n_mels", "fmin", "fmax")
    np.testing.assert_array_equal(cepstra.mel_filterbank_htk(**{name: o[name] for name in names}), bank)
    windows = {"boxcar": np.ones, "hamming": np.hamming, "hann": np.hanning}
    for y in BATCH.astype(np.float64):
        theirs = features.mfcc(
            y, o["sr"], o["win_length"] / o["sr"], o["hop_length"] / o["sr"], o["n_mfcc"], o["n_mels"], o["n_fft"], o["fmin"],
            o["fmax"], o["preemph"], o["lifter"], o["use_energy"], windows[o["window"]],
        )  # fmt: skip
        assert relative(speech_features(y, **options)[0], theirs) < 1e-12


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 560, 561])
def test_speech_frames_are_completed_with_zeros(samples):
    y = BATCH[0, :samples]
    assert relative(jax.jit(cepstra.mfcc_htk)(y), speech_features(y.astype(np.float64))[0]) < 1e-5


def test_speech_energies_under_a_window_that_falls_to_zero():
    """Compares energies, not logarithms: 140 dB below the maximum, the side lobes of a tone are rounding errors."""
    bands, energy = jax.jit(functools.partial(cepstra.fbank_htk, window="hann"))(BATCH[:3])
    for y, band, total in zip(BATCH.astype(np.float64), bands, energy, strict=False):
        logs = speech_features(y, window="hann")
        assert relative(band, np.exp(logs[1])) < 2e-6
        assert relative(total, np.exp(logs[0][:, 0])) < 2e-6


def test_speech_window_can_be_an_array():
    y = jnp.asarray(BATCH[0])
    ours, named = jax.jit(lambda y: [cepstra.mfcc_htk(y, window=window) for window in (np.hamming(400), "hamming")])(y)
    np.testing.assert_array_equal(ours, named)


def lfcc_by_definition(y, sr, n_fft, hop_length, n_lfcc, n_filters, fmin, fmax):
    """Compute LFCC in float64, with zero padding and a Hann window. Filters are interpolated between their three corners."""
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.pad(y, n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    power = np.abs(np.fft.rfft(frames * taper)) ** 2
    corners = np.linspace(fmin, fmax, n_filters + 2)
    hertz = np.arange(n_fft // 2 + 1) * sr / n_fft
    bank = np.stack([np.interp(hertz, corners[i : i + 3], [0, 1, 0]) for i in range(n_filters)], -1)
    decibels = 10 * np.log10(np.maximum(power @ bank, 1e-10))
    return bank, scipy.fft.dct(np.maximum(decibels, decibels.max() - 80), norm="ortho")[:, :n_lfcc]


@pytest.mark.parametrize(
    ("sr", "n_fft", "hop_length", "n_lfcc", "n_filters", "fmin", "fmax"),
    [(16000, 400, 160, 20, 60, 0, 8000), (22050, 511, 187, 40, 40, 100.5, 9000), (22050, 2048, 512, 20, 128, 0, 11025)],
)
def test_lfcc_equals_its_definition(sr, n_fft, hop_length, n_lfcc, n_filters, fmin, fmax):
    options = {"sr": sr, "n_fft": n_fft, "n_filters": n_filters, "fmin": fmin, "fmax": fmax}
    ours = jax.jit(lambda y: cepstra.lfcc(y, hop_length=hop_length, n_lfcc=n_lfcc, **options))(BATCH)
    for name, y, out in zip(SIGNALS, BATCH.astype(np.float64), ours, strict=True):
        bank, expected = lfcc_by_definition(y, sr, n_fft, hop_length, n_lfcc, n_filters, fmin, fmax)
        assert relative(cepstra.linear_filterbank(**options), bank) < 1e-12
        assert relative(out, expected) < 2e-5, name


@pytest.mark.parametrize("mode", sorted(cepstra.DELTA_MODES))
def test_delta_equals_librosa(mode):
    """The tolerance is relative to the data, because the derivatives of a repeated frame are zero."""
    data = np.random.default_rng(2).normal(0, 1, (2, 37, 5)).astype(np.float32)
    cases = [
        (width, order, frames)
        for width, order, frames in itertools.product((3, 9, 37), (1, 2, 4), (37, 9, 1))
        if order < width and (mode != "interp" or width <= frames)
    ]
    compiled = jax.jit(lambda x: [cepstra.delta(x[:, :n], width=width, order=order, mode=mode) for width, order, n in cases])
    for ours, (width, order, frames) in zip(compiled(data), cases, strict=True):
        part = data[:, :frames].astype(np.float64)
        expected = librosa.feature.delta(part, width=width, order=order, axis=-2, mode=mode)
        assert ours.shape == expected.shape
        scale = max(np.abs(expected).max(), 0.1 * np.abs(cepstra._slope(width, order)).sum())
        assert np.abs(ours - expected).max() / scale < 2e-6, (width, order, frames)


def test_delta_of_a_polynomial_is_its_derivative():
    frames = np.arange(20.0)
    data = jnp.asarray(np.stack([3 + 2 * frames, 0.5 * frames**2 - frames], -1), jnp.float32)
    np.testing.assert_allclose(cepstra.delta(data, width=5)[:, 0], 2, atol=1e-5)
    np.testing.assert_allclose(cepstra.delta(data, width=7, order=2), np.tile([0.0, 1.0], (20, 1)), atol=1e-5)


def test_preemphasis_equals_librosa():
    for coef, zi in itertools.product((0.97, 0.5, 0.0), (None, 0.3)):
        ours = cepstra.preemphasis(jnp.asarray(BATCH), coef=coef, zi=zi)
        state = None if zi is None else np.full((len(BATCH), 1), zi)
        assert relative(ours, librosa.effects.preemphasis(BATCH.astype(np.float64), coef=coef, zi=state)) < 1e-6
    whole = cepstra.preemphasis(jnp.asarray(BATCH))
    rest = cepstra.preemphasis(jnp.asarray(BATCH[:, 4000:]), zi=-0.97 * BATCH[:, 3999:4000])
    np.testing.assert_allclose(rest, whole[:, 4000:], atol=1e-7)


FRONTS = {
    "mfcc": lambda y: cepstra.mfcc(y, sr=16000, n_fft=512, hop_length=187, n_mels=40),
    "mfcc_htk": cepstra.mfcc_htk,
    "log_filterbank_htk": cepstra.log_filterbank_htk,
    "lfcc": lambda y: cepstra.lfcc(y, sr=16000, n_fft=512, hop_length=187, n_filters=40),
    "delta": lambda y: cepstra.delta(y.reshape(*y.shape[:-1], -1, 10)),
    "preemphasis": cepstra.preemphasis,
}
COMPILED = {name: jax.jit(front) for name, front in FRONTS.items()}


@pytest.mark.parametrize("name", FRONTS)
def test_gradient_is_finite_on_silence_and_one_program_serves_a_batch(name):
    front = COMPILED[name]
    gradient = jax.jit(jax.grad(lambda y: front(y).sum()))
    assert np.isfinite(gradient(jnp.zeros((2, 3000)))).all()
    y = jnp.asarray(BATCH[:2, :3000])
    assert np.abs(gradient(y)).max() > 0
    np.testing.assert_allclose(jax.vmap(front)(y), front(y), atol=2e-3)
    np.testing.assert_allclose(front(y[0]), front(y)[0], atol=2e-3)
    assert jax.eval_shape(front, y.astype(jnp.float16)).dtype == jnp.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", FRONTS)
def test_a_bad_sample_shows(name, bad):
    """Functions with a spectrum return NaN. Linear functions may return Inf for Inf."""
    out = np.asarray(COMPILED[name](jnp.asarray(BATCH[0, :3000]).at[1500].set(bad)))
    assert (np.isnan(out) if name not in ("delta", "preemphasis") else ~np.isfinite(out)).any()
    if name == "mfcc_htk":  # pre-emphasis spreads it to sample 1501
        touched = [160 * t <= 1501 and 160 * t + 400 > 1500 for t in range(len(out))]
        np.testing.assert_array_equal(np.isnan(out).any(-1), touched)


def test_double_precision_goes_through():
    with jax.enable_x64(True):
        y = jnp.asarray(BATCH[0].astype(np.float64))
        ours = jax.jit(functools.partial(cepstra.mfcc, n_mels=64))(y)
        assert ours.dtype == np.float64
        assert relative(ours, librosa.feature.mfcc(y=np.asarray(y), n_mels=64, dtype=np.float64).T) < 1e-12
        assert relative(jax.jit(cepstra.mfcc_htk)(y), speech_features(np.asarray(y))[0]) < 1e-12
        assert relative(jax.jit(cepstra.delta)(ours), librosa.feature.delta(np.asarray(ours), axis=-2)) < 1e-12


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda y: cepstra.mfcc(y, n_mels=40, n_mfcc=41), r"n_mfcc must lie in \[1, 40\], the number of bands, and was given 41"),
        (lambda y: cepstra.mfcc(y, n_mfcc=0), r"n_mfcc must lie in \[1, 128\], .* was given 0"),
        (lambda y: cepstra.mfcc(y, dct_type=4), "dct_type must be 1, 2 or 3, and was given 4"),
        (lambda y: cepstra.mfcc(y, norm="orto"), r"unknown norm 'orto' \(did you mean 'ortho'\?\): choose one of none, ortho"),
        (lambda y: cepstra.mfcc(y, n_mels=1, n_mfcc=1, dct_type=1), "type 1 needs at least 2 bands, and was given 1"),
        (lambda y: cepstra.mfcc(y, lifter=-1), "lifter must be at least 0 and finite, and was given -1"),
        (lambda y: cepstra.lfcc(y, n_lfcc=129), r"n_lfcc must lie in \[1, 128\], .* was given 129"),
        (lambda y: cepstra.lfcc(y, n_filters=0), "n_filters must be at least 1, and was given 0"),
        (lambda y: cepstra.lfcc(y, sr=8000, fmax=4001), r"fmax <= sr / 2 = 4000.0 Hz, and were given 0.0, 4001"),
        (lambda y: cepstra.mfcc_htk(y, fmin=50, fmax=50), "0 <= fmin < fmax .* were given 50, 50"),
        (lambda y: cepstra.mfcc_htk(y, n_mels=0), "n_mels must be at least 1, and was given 0"),
        (lambda y: cepstra.mfcc_htk(y, win_length=513), r"win_length must lie in \[1, n_fft = 512\], and was given 513"),
        (lambda y: cepstra.mfcc_htk(y, hop_length=0), "hop_length must be at least 1, and was given 0"),
        (lambda y: cepstra.mfcc_htk(y, window="haming"), r"unknown window 'haming' \(did you mean 'hamming'\?\)"),
        (lambda y: cepstra.mfcc_htk(y, window=np.ones(399)), r"window must have win_length = 400 samples, and has the shape \(399,\)"),
        (lambda y: cepstra.mfcc_htk(y[:0]), "the signal must have at least 1 sample, and has 0"),
        (lambda y: cepstra.mfcc_htk(y.astype(jnp.int16)), "was given int16"),
        (lambda y: cepstra.preemphasis(y[:1]), "the signal must have at least 2 samples, and has 1"),
        (lambda y: cepstra.delta(y[:, None], width=4), "width must be an odd number of at least 3 frames, and was given 4"),
        (lambda y: cepstra.delta(y[:, None], width=1), "width must be an odd number of at least 3 frames, and was given 1"),
        (lambda y: cepstra.delta(y[:, None], width=5, order=5), r"order must lie in \[1, width - 1 = 4\], and was given 5"),
        (lambda y: cepstra.delta(y[:, None], order=0), r"order must lie in \[1, width - 1 = 8\], and was given 0"),
        (lambda y: cepstra.delta(y[:8, None]), "at least width = 9 frames for mode 'interp', and was given 8"),
        (lambda y: cepstra.delta(y[:, None], mode="edge"), "unknown mode 'edge': choose one of constant, interp, mirror, nearest, wrap"),
    ],
)  # fmt: skip
def test_bad_arguments_get_a_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(jnp.zeros(4000))


def test_empty_filters_are_named():
    with pytest.warns(UserWarning, match=r"^mel filters \[.*\] are empty"):
        cepstra.mel_filterbank_htk(sr=16000, n_fft=128, n_mels=100)
    with pytest.warns(UserWarning, match=r"^linear filters \[.*\] are empty"):
        cepstra.linear_filterbank(sr=16000, n_fft=128, n_filters=200)
