"""Every public front end takes any real numbers, or says in one sentence what it needs: kinds of numbers, lists, empty arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre_jax import frontends
from genre_jax.console import UserError

SR, SAMPLES = 16_000, 4096
WAVE = np.random.default_rng(0).integers(-900, 900, SAMPLES) / 1024  # exact in float16
BINS = np.random.default_rng(1).integers(0, 900, (12, 16))
SPECTRUM = np.random.default_rng(2).integers(-900, 900, (6, 129)) + 1j
FILTERBANKS = ("mel_filterbank", "linear_filterbank")  # without an input
OF_SIGNALS = {
    "chroma_stft": {}, "cqt": {"sr": SR}, "equalise_loudness": {"sr": SR}, "fbank_htk": {}, "lfcc": {}, "log_filterbank_htk": {},
    "log_mmse": {"sr": SR}, "lpc": {"order": 4}, "lpcc": {"order": 4}, "mel_spectrogram": {}, "mfcc": {}, "mfcc_htk": {},
    "peak_normalise": {}, "preemphasis": {}, "rms": {}, "silence_mask": {}, "spectral_bandwidth": {}, "spectral_centroid": {},
    "spectral_contrast": {}, "spectral_flatness": {}, "spectral_rolloff": {}, "spectrogram": {}, "stft": {}, "tonnetz": {},
    "vqt": {"sr": SR}, "zero_crossing_rate": {},
}  # fmt: skip
OF_FEATURES = {
    "amplitude_to_db": (), "delta": (), "log_offset": (), "mean_max": (), "min_max": (), "pcen": (), "power_to_db": (),
    "resize": (8, 8), "standardise": (np.ones(16, np.float32), np.ones(16, np.float32)), "summarise": (), "z_score": (),
}  # fmt: skip
OF_SPECTRA = {"istft": {}, "magphase": {}}
KINDS = {
    "int16": lambda x: x.astype(np.int16),
    "int32": lambda x: jnp.asarray(x.astype(np.int32)),
    "float16": lambda x: x.astype(np.float16),
    "float64": lambda x: x.astype(np.float64),
    "complex": lambda x: x + 1j,
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(map(tuple, x.tolist())) if x.ndim > 1 else tuple(x.tolist()),
    "0-d": lambda x: x.reshape(-1)[0],
    "empty": lambda x: x[..., :0],
    "no array": lambda x: [[1.0], [1.0, 2.0]],
    "text": lambda x: "x",
}
REFUSED = {  # of each group of functions
    "signals": ("int16", "int32", "complex", "0-d", "empty", "no array", "text"),
    "features": ("complex", "0-d", "empty", "no array", "text"),
    "spectra": ("0-d", "empty", "no array", "text"),
}


def calls(name):
    """Return the group of a public name, an input of it, and the function of that input alone."""
    if name in frontends.FRONTENDS:
        front = frontends.build(name, SR if name != "burrows_mfcc" else 44_100)
        return "signals", WAVE.astype(np.float32), lambda y: front.init_with_output(jax.random.key(0), y)[0]
    function = getattr(frontends, name)
    if name in OF_SIGNALS:
        return "signals", WAVE.astype(np.float32), lambda y: function(y, **OF_SIGNALS[name])
    if name in OF_FEATURES:
        return "features", BINS.astype(np.float32), lambda x: function(x, *OF_FEATURES[name])
    return "spectra", SPECTRUM.real.astype(np.float32), lambda z: function(z, **OF_SPECTRA[name])


def test_every_public_function_is_in_a_table():
    functions = {name for name in frontends.__all__ if name[0].islower()} - {"build"}
    assert functions == {*FILTERBANKS, *OF_SIGNALS, *OF_FEATURES, *OF_SPECTRA}


@pytest.mark.parametrize("name", [*OF_SIGNALS, *OF_FEATURES, *OF_SPECTRA])
def test_any_kind_of_numbers_equals_float32_or_is_one_sentence(name):
    group, wanted, function = calls(name)
    expected = jax.tree.map(np.asarray, function(wanted))
    elementwise = name in ("log_offset", "magphase")
    for kind, make in KINDS.items():
        if elementwise and kind in ("0-d", "empty"):
            function(make(wanted))
        elif kind in REFUSED[group]:
            with pytest.raises(UserError, match=r"^(a front end|an array|the signal|features|a spectrum) "):
                function(make(wanted))
        elif kind != "complex":
            jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, function(make(wanted))), expected)


@pytest.mark.parametrize("name", sorted(frontends.FRONTENDS))
def test_modules_convert_their_waveforms_too(name):
    _, wave, function = calls(name)
    wave = np.tile(wave, (1, 3))
    for kind in ("int16", "complex", "empty", "no array"):
        with pytest.raises(UserError, match=r"^(a front end|an array|the signal) "):
            jax.eval_shape(lambda: function(KINDS[kind](wave)))  # noqa: B023
    wanted = jax.eval_shape(lambda: function(wave))
    for kind in ("float16", "float64", "list"):
        assert jax.eval_shape(lambda: function(KINDS[kind](wave))) == wanted, kind  # noqa: B023


@pytest.mark.parametrize("name", [*OF_FEATURES, *OF_SPECTRA, "stft", "rms", "mel_spectrogram", "cqt"])
def test_float64_stays_float64_under_x64(name):
    def types_of(call):
        return {leaf.dtype.name for leaf in jax.tree.leaves(jax.eval_shape(call))}

    _, wanted, function = calls(name)
    with jax.enable_x64(True):
        for value in (wanted.astype(np.float64), wanted.astype(np.float64).tolist()):
            assert types_of(lambda: function(value)) <= {"float64", "complex128"}  # noqa: B023
        assert types_of(lambda: function(wanted)) <= {"float32", "complex64"}


def test_pcen_of_integers_is_that_of_their_values():
    steps = np.array([[2], [9], [4]])
    np.testing.assert_array_equal(frontends.pcen(steps), frontends.pcen(steps.astype(np.float32)))
    large = np.array([[2**40, 1], [1, 2**35]])  # more than int32 holds
    np.testing.assert_allclose(frontends.power_to_db(large, top_db=None), 10 * np.log10(large), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: frontends.power_to_db(BINS, ref=np.max), "ref must be a number or 'max', and was"),
        (
            lambda: frontends.amplitude_to_db(BINS, ref=None),
            "ref must be a number or 'max', and was",
        ),
        (lambda: frontends.cqt(WAVE, tuning=None), "tuning must be a number in fractions of a bin, and was given None"),
        (lambda: frontends.vqt(WAVE, tuning=None), "tuning must be a number in fractions of a bin, and was given None"),
        (lambda: frontends.chroma_stft(WAVE, tuning=None), "tuning must be a number in fractions of a bin, and was given None"),
        (lambda: frontends.amplitude_to_db(BINS * 1j), "features must be real numbers, and were given as complex128 (take the"),
    ],
)
def test_librosa_s_other_arguments_get_a_sentence(call, sentence):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(sentence)
