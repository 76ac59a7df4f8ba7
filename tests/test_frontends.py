"""The front ends that a config can name: shapes of the published systems, gradients, precision, dtypes, options."""

import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from signals import SAMPLES, batch, real_clips, worst

from genre_jax import frontends
from genre_jax.console import UserError

librosa = pytest.importorskip("librosa")
RNG = np.random.default_rng(0)
# name: (sample rate, samples of one clip, shape that shared/facts/seed_systems.md or the module's docstring states)
PUBLISHED = {
    "waveform": (16_000, 57_344, (57_344, 1)),
    "log_mel": (16_000, 48_000, (161, 112)),
    "log_mel_image": (16_000, 48_000, (224, 224, 1)),
    "pollack_mfcc": (16_000, 48_000, (224, 224, 1)),
    "schindler_log_mel": (22_050, 20_462, (80, 80, 1)),
    "schindler_cqt": (22_050, 20_462, (80, 80, 1)),
    "folmer_log_mel": (22_050, 661_500, (224, 224, 1)),
    "burrows_mfcc": (44_100, 30 * 44_100, (2500, 80)),
    "burrows_mfcc_mean": (22_050, 661_500, (80,)),
    "burrows_melgram": (12_000, 349_440, (96, 1366, 1)),
    "choi_stft": (11_025, 44_100, (257, 173, 1)),
    "swishnet_mfcc": (16_000, 32_240, (200, 20)),
    "swishnet_log_mel": (16_000, 32_240, (200, 64)),
}


# Without the published systems, which are modules of this list with other defaults.
MODULES = [name for name, front in frontends.FRONTENDS.items() if front.__module__ != "genre_jax.frontends.published"]


def call(name: str, sr: float = 16_000, **options):
    """Return the front end as a function, with freshly initialised statistics."""
    front = frontends.build(name, sr, **options)
    return lambda y: front.init_with_output(jax.random.key(0), y)[0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_systems_have_the_stated_shape(name):
    sr, samples, shape = PUBLISHED[name]
    assert jax.eval_shape(call(name, sr), jax.ShapeDtypeStruct((2, samples), jnp.float32)).shape == (2, *shape)


def test_raw_waveforms_execute_code_of_two_files_only():
    """The reading path of a batch of raw waveforms stays short."""
    front, files = call("waveform"), set()
    sys.setprofile(lambda frame, event, argument: files.add(Path(frame.f_code.co_filename)))
    try:
        front(jnp.zeros((1, SAMPLES)))
    finally:
        sys.setprofile(None)
    front_ends = Path(frontends.__file__).parent
    assert {file.name for file in files if file.parent == front_ends} == {"base.py", "scaling.py"}


def test_images_before_their_resize_have_the_stated_shape():
    sizes = {
        ("folmer_log_mel", 661_500): (90, 646),
        ("folmer_log_mel", 6 * 22_050): (90, 130),
        ("log_mel_image", 48_000): (112, 161),
    }
    for (name, samples), shape in sizes.items():
        front = call(name, 16_000 if name == "log_mel_image" else 22_050, height=0, width=0)
        assert jax.eval_shape(front, jax.ShapeDtypeStruct((1, samples), jnp.float32)).shape == (1, *shape, 1)
    for samples, frames in ((20_223, 79), (20_224, 80), (20_479, 80), (20_480, 81)):  # the range in the facts
        assert (
            jax.eval_shape(call("schindler_log_mel", 22_050), jax.ShapeDtypeStruct((1, samples), jnp.float32)).shape[2]
            == frames
        )


def test_thesis_spectrogram_equals_librosa():
    y = np.stack(list(real_clips().values())) if real_clips() else batch()[:1]
    for clip in y:
        power = librosa.feature.melspectrogram(y=clip, sr=16000, n_fft=600, hop_length=300, n_mels=112, pad_mode="reflect")
        reference = librosa.power_to_db(power, ref=np.max).T
        np.testing.assert_allclose(call("log_mel")(clip[None])[0], reference, atol=1e-3)
        image = np.asarray(call("log_mel_image")(clip[None]))
        assert -80 - 1e-4 <= image.min() < image.max() <= 1e-4


def test_schindler_spectrogram_equals_its_recipe():
    """|STFT| 512 / 256 with zero padding, librosa's 80 filters on the magnitude, ln(x + 1e-6), rows mel, columns time."""
    y = RNG.normal(0, 0.2, 20_462).astype(np.float32)
    magnitude = np.abs(librosa.stft(y, n_fft=512, hop_length=256, pad_mode="constant"))
    expected = np.log(librosa.filters.mel(sr=22050, n_fft=512, n_mels=80) @ magnitude + 1e-6)
    np.testing.assert_allclose(call("schindler_log_mel", 22050)(y[None])[0, :, :, 0], expected, atol=1e-4)


def test_crop_about_the_centre_and_padding():
    y = RNG.normal(0, 0.2, (1, 9000)).astype(np.float32)
    whole = np.asarray(call("mfcc")(y))
    cropped = np.asarray(call("mfcc", frames=5)(y))
    start = (whole.shape[1] - 5) // 2
    np.testing.assert_array_equal(cropped, whole[:, start : start + 5])
    padded = np.asarray(call("mfcc", frames=whole.shape[1] + 3)(y))
    np.testing.assert_array_equal(padded[:, 1:-2], whole)
    assert (padded[:, [0, -2, -1]] == 0).all()


def test_deltas_and_statistics_are_appended():
    y = RNG.normal(0, 0.2, (2, 9000)).astype(np.float32)
    plain = call("mfcc")(y)
    both = call("mfcc", deltas=2)(y)
    np.testing.assert_allclose(both[..., 20:40], frontends.delta(plain), atol=1e-5)
    np.testing.assert_allclose(both[..., 40:], frontends.delta(plain, order=2), atol=1e-5)
    summary = call("mfcc", statistics=("mean", "std"))(y)
    np.testing.assert_allclose(summary, np.concatenate([plain.mean(1), plain.std(1)], 1), rtol=1e-4, atol=1e-4)


def test_conditioning_comes_first():
    y = RNG.normal(0, 0.2, (1, 9000)).astype(np.float32)
    expected = jax.jit(lambda y: call("mfcc")(frontends.equalise_loudness(frontends.log_mmse(y, sr=16000), sr=16000)))(y)
    ours = jax.jit(call("mfcc", conditioning=("log_mmse", "equalise_loudness")))(y)
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize("name", MODULES)
def test_gradient_is_finite_on_silence_clips_stand_alone_and_nan_stays(name):

    @jax.jit
    def features_and_gradient(y):
        features, pull = jax.vjp(call(name), y)
        return features, pull(jnp.ones_like(features))[0]

    assert np.isfinite(features_and_gradient(jnp.zeros((3, SAMPLES)))[1]).all()
    y = RNG.normal(0, 0.1, (3, SAMPLES)).astype(np.float32)
    together, _ = features_and_gradient(y)
    y[0, 5000], y[2] = np.nan, y[2] * 9
    among_others, _ = features_and_gradient(y)
    assert np.isnan(among_others[0]).any()
    assert worst(among_others[1:2], together[1:2]) < 1e-5


@pytest.mark.parametrize("name", sorted(frontends.FRONTENDS))
def test_every_matrix_product_asks_for_the_highest_precision(name):
    """The default precision is TF32 or bfloat16 on GPUs and TPUs. No test on a CPU detects the loss."""
    options = {"engine": "matmul"} if "engine" in frontends.FRONTENDS[name].__dataclass_fields__ else {}
    if name == "descriptors":
        options["conditioning"] = ("log_mmse", "equalise_loudness")
    products = list(matrix_products(jax.make_jaxpr(call(name, **options))(jnp.zeros((1, SAMPLES))).jaxpr))
    assert products or name in ("waveform", "lpcc"), "the walk finds none"
    for equation in products:
        precision = equation.params["precision"]
        assert precision is not None and set(jax.tree.leaves(precision)) == {jax.lax.Precision.HIGHEST}, equation


def matrix_products(jaxpr):
    """Yield the dot products and convolutions of a jaxpr and of all jaxprs inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from matrix_products(inner)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_double_precision_goes_through(name):
    with jax.enable_x64(True):
        y = jnp.asarray(RNG.normal(0, 0.1, (1, SAMPLES)))
        assert y.dtype == jnp.float64
        front = jax.jit(call(name))
        out = front(y)
        assert out.dtype == jnp.float64
        single = front(y.astype(jnp.float32))
        assert single.dtype == jnp.float32
        assert math.isfinite(float(jnp.abs(out).max()))
        assert worst(single, np.asarray(out)) < 1e-3


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("log_mels", {}, "unknown frontend 'log_mels' .did you mean 'log_mel'..: choose one of burrows_melgram"),
        ("log_mel", {"scale": "max"}, "unknown scale 'max'.*: choose one of mean_max, min_max, none, standardise, z_score"),
        ("log_mel", {"compression": "log"}, "unknown compression 'log' .did you mean 'log10'..: choose one of db, db_below_max, ln, log10, none, pcen"),
        ("log_mel", {"conditioning": ("denoise",)}, "unknown conditioning 'denoise': choose one of equalise_loudness, log_mmse"),
        ("log_mel", {"statistics": ("mode",)}, "unknown statistic 'mode'.*: choose one of kurtosis, max, mean, median, min"),
        ("log_mel", {"statistics": ("mean",), "image": True}, "with statistics, image must be False and frames must be 0, not True and 0"),
        ("log_mel", {"height": 16}, "without image, height and width must be 0, not 16 and 0"),
        ("descriptors", {"names": ("pitch",)}, "unknown descriptor 'pitch'.*: choose one of chroma_stft, rms, spectral_bandwidth"),
        ("descriptors", {"names": ()}, "unknown descriptor ''"),
    ],
)  # fmt: skip
def test_bad_options_get_a_sentence(name, options, sentence):
    with pytest.raises(UserError, match=sentence):
        call(name, **options)(jnp.zeros((1, SAMPLES)))
