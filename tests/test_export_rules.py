"""Each rule from JAX to ONNX gives the numbers of JAX, for several batch sizes with a single file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from genre_jax import frontends  # noqa: E402
from genre_jax.export import convert, rules  # noqa: E402
from genre_jax.export.graph import Unsupported  # noqa: E402
from genre_jax.export.program import neutral  # noqa: E402
from genre_jax.export.trace import portable  # noqa: E402

RNG = np.random.default_rng(0)


def session(function, shape, dtype=np.float32, variables=(), halved=False):
    """An onnxruntime session of a function of (variables, x), and the bytes of its file."""
    model = convert.convert(function, variables, {"x": (shape, dtype)}, ["y"], halved=halved)
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]), content


def assert_same(function, shape, dtype=np.float32, variables=None, atol=1e-5):
    """Compare ONNX and JAX for batches of 1 and 3."""
    whole = function if variables is not None else lambda _, x: function(x)
    run, _ = session(lambda variables, x: [whole(variables, x)], shape, dtype, variables)
    for batch in (1, 3):
        x = (RNG.uniform(-2, 2, (batch, *shape)) * (1 if dtype == np.float32 else 100)).astype(dtype)
        expected = np.asarray(whole(variables, jnp.asarray(x)))
        (y,) = run.run(None, {"x": x})
        assert y.dtype == expected.dtype and y.shape == expected.shape
        np.testing.assert_allclose(y, expected, atol=atol, rtol=1e-5)


ELEMENTWISE = {
    "abs": jnp.abs,
    "add": lambda x: x + x[:, ::-1],
    "and": lambda x: (x > 0) & (x < 1),
    "ceil": jnp.ceil,
    "clamp": lambda x: lax.clamp(-0.5, x, 1.0),
    "convert_element_type": lambda x: x.astype(jnp.int32),
    "cos": jnp.cos,
    "div": lambda x: x / 3,
    "eq": lambda x: x == x[:, :1],
    "erf": lax.erf,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "floor": jnp.floor,
    "ge": lambda x: x >= 0.5,
    "gt": lambda x: x > 0.5,
    "integer_pow": lambda x: x**3 + x**-2,
    "is_finite": lambda x: jnp.isfinite(x / jnp.where(x > 0, 1, 0)),
    "le": lambda x: x <= 0.5,
    "log": lambda x: jnp.log(jnp.abs(x) + 1e-3),
    "log1p": lambda x: jnp.log1p(jnp.abs(x)),
    "logistic": jax.nn.sigmoid,
    "lt": lambda x: x < 0.5,
    "max": lambda x: jnp.maximum(x, x[:, :1]),
    "min": lambda x: jnp.minimum(x, 0.3),
    "mul": lambda x: x * x[:, :1],
    "ne": lambda x: x != x[:, :1],
    "neg": lambda x: -x,
    "not": lambda x: ~(x > 0),
    "or": lambda x: (x > 1) | (x < 0),
    "pow": lambda x: jnp.abs(x) ** 0.7,
    "rem": lambda x: lax.rem(x, jnp.full_like(x, 0.75)),
    "round": lambda x: lax.round(2 * x, lax.RoundingMethod.TO_NEAREST_EVEN),
    "rsqrt": lambda x: lax.rsqrt(jnp.abs(x) + 0.1),
    "select_n": lambda x: jnp.where(x > 0, x, x[:, :1]),
    "sign": jnp.sign,
    "sin": jnp.sin,
    "sqrt": lambda x: jnp.sqrt(jnp.abs(x)),
    "square": jnp.square,
    "sub": lambda x: x - jnp.arange(5.0),
    "tanh": jnp.tanh,
}


@pytest.mark.parametrize("name", sorted(ELEMENTWISE))
def test_elementwise(name):
    assert_same(ELEMENTWISE[name], (5,))


def test_every_elementwise_rule_is_tested():
    assert ELEMENTWISE.keys() == rules.ELEMENTWISE.keys()


def convolve(x, kernel, strides, padding, **options):
    sizes = "HW"[: x.ndim - 2]
    numbers = f"N{sizes}C", f"{sizes}IO", f"N{sizes}C"
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, **options)


KERNELS = {
    size: RNG.normal(size=size).astype(np.float32) for size in ((3, 4, 6), (3, 2, 6), (5, 3, 4, 2), (1, 1, 4, 2), (2, 3, 1, 4))
}
STRUCTURAL = {
    "argmax": (lambda x: x.argmax(-1), (4, 5)),
    "batch_index": (lambda x: x[jnp.arange(x.shape[0]), x[:, 0].astype(jnp.int32) % 4], (4,)),
    "batch_of_ones": (lambda x: jnp.concatenate([x, jnp.ones((x.shape[0], 2))], 1), (3,)),
    "concatenate": (lambda x: jnp.concatenate([x, 2 * x[:, :1], x], 1), (3, 2)),
    "convolution": (lambda x: convolve(x, KERNELS[3, 4, 6], (1,), "SAME"), (11, 4)),
    "convolution_dilated": (lambda x: convolve(x, KERNELS[3, 4, 6], (1,), [(6, 0)], rhs_dilation=(3,)), (11, 4)),
    "convolution_grouped": (lambda x: convolve(x, KERNELS[3, 2, 6], (2,), "VALID", feature_group_count=2), (11, 4)),
    "convolution_of_images": (lambda x: convolve(x, KERNELS[5, 3, 4, 2], (2, 1), "SAME"), (9, 8, 4)),
    "convolution_pointwise": (lambda x: convolve(x, KERNELS[1, 1, 4, 2], (1, 2), "VALID"), (9, 8, 4)),
    "convolution_separable": (lambda x: convolve(x, KERNELS[2, 3, 1, 4], (1, 1), "SAME", feature_group_count=4), (9, 8, 4)),
    "convolution_that_crops": (lambda x: convolve(x, KERNELS[3, 4, 6], (1,), [(-2, 1)]), (11, 4)),
    "cumsum": (lambda x: jnp.cumsum(x, 1) + lax.cumsum(x, 1, reverse=True), (6,)),
    "dynamic_slice": (lambda x: lax.dynamic_slice_in_dim(x, x[0, 0].astype(jnp.int32), 3, 1), (6,)),
    "edge_padding": (lambda x: jnp.pad(x, ((0, 0), (2, 3)), mode="edge"), (6,)),
    "einsum": (lambda x: jnp.einsum("bts,bsh->bth", x, jnp.swapaxes(x, 1, 2)), (3, 5)),
    "einsum_without_a_batch": (lambda x: jnp.einsum("bij,jkl->bikl", x, KERNELS[3, 4, 6].swapaxes(0, 1)), (5, 4)),
    "frames": (lambda x: jax.vmap(lambda at: lax.dynamic_slice_in_dim(x, at, 4, -1), out_axes=-2)(3 * jnp.arange(5)), (17,)),
    "iota": (lambda x: x + lax.broadcasted_iota(jnp.float32, (4, 3), 1), (4, 3)),
    "mean_and_variance": (lambda x: x.mean((1, 2)) + x.var((1, 2)), (130, 7)),
    "padding_between": (lambda x: lax.pad(x, 3.0, [(0, 0, 0), (1, -1, 2), (-1, 1, 1)]), (4, 5)),
    "padding": (lambda x: lax.pad(x, 3.0, [(0, 0, 0), (2, -1, 0), (-1, 1, 0)]), (4, 5)),
    "reductions": (lambda x: x.max(1) + x.min((1,)) + x.prod(1), (4, 3)),
    "reflect_padding": (lambda x: jnp.pad(x, ((0, 0), (2, 3)), mode="reflect"), (6,)),
    "reshape": (lambda x: x.reshape(x.shape[0] * 3, -1).reshape(x.shape[0], -1, 2), (3, 4)),
    "reversed": (lambda x: x[:, ::-1, ::-1], (3, 4)),
    "slices": (lambda x: lax.slice_in_dim(x, 1, 8, 3, 1)[:, :, -2:], (9, 4)),
    "sort": (lambda x: jnp.sort(x, 1) - jnp.sort(x, 2), (4, 5)),
    "split": (lambda x: jnp.concatenate(jnp.split(x, [2, 3], 1)[::-1], 1), (6,)),
    "squeeze": (lambda x: x[:, None, :, 0].squeeze(1), (3, 1)),
    "stack": (lambda x: jnp.stack([x, 2 * x], 1), (3,)),
    "take": (lambda x: x[:, np.array([3, 0, 3])], (4, 2)),
    "take_along_axis": (lambda x: jnp.take_along_axis(x, jnp.argmax(x, 1)[:, None], 1), (4,)),
    "transpose": (lambda x: x.transpose(0, 2, 1), (3, 4)),
    "window_maxima": (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 1, 1), "VALID"), (7, 5, 2)),
    "window_sums": (lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3, 1), (1, 2, 1), [(0, 0), (1, 1), (0, 0)]), (7, 2)),
}


@pytest.mark.parametrize("name", sorted(STRUCTURAL))
def test_structural(name):
    assert_same(*STRUCTURAL[name])


@pytest.mark.parametrize("length", [512, 8192])  # the second is longer than products.LARGEST_DFT
def test_fourier_transform_of_real_numbers(length):
    def power(x):
        z = jnp.fft.rfft(x, length) * np.exp(1j).astype(np.complex64)
        return jnp.concatenate([z.real**2 + z.imag**2, jnp.abs(z), (z / 2).real], -1) / length

    assert_same(power, (2, length), atol=2e-5)


def test_complex_numbers():
    matrix = (RNG.normal(size=(4, 3)) + 1j * RNG.normal(size=(4, 3))).astype(np.complex64)

    def function(x):
        z = lax.complex(x, x[:, ::-1])
        z = jnp.stack([z, jnp.conj(z) - x], 1)[:, :, ::-1] @ matrix
        return jnp.abs(z) + z.imag.sum(-1, keepdims=True)

    assert_same(function, (4,))


@pytest.mark.parametrize("reverse", [False, True])
def test_loops(reverse):
    kernel = RNG.normal(size=(3, 3)).astype(np.float32) / 3

    def function(variables, x):
        def step(state, element):
            state = jnp.tanh(state @ variables + element)
            return state, state * element

        last, every = lax.scan(step, jnp.zeros((x.shape[0], 3)), x.swapaxes(0, 1), reverse=reverse)
        return jnp.concatenate([last[:, None], every.swapaxes(0, 1)], 1)

    assert_same(function, (7, 3), variables=kernel)


def test_a_loop_that_scans_nothing_is_unrolled():
    assert_same(lambda x: lax.scan(lambda y, _: (jnp.tanh(2 * y), None), x, None, length=3)[0], (4,))


def test_integers():
    assert_same(lambda x: x.astype(jnp.float32) / 32768, (5,), dtype=np.int16)


def test_what_depends_on_weights_alone_is_computed_once_and_float16_halves_the_file():
    kernel = RNG.normal(size=(64, 64)).astype(np.float32)

    def function(variables, x):
        return [x @ (variables.T * 2 + 1)]

    whole, content = session(function, (64,), variables=kernel)
    half, smaller = session(function, (64,), variables=kernel, halved=True)
    import onnx

    assert [node.op_type for node in onnx.load_from_string(content).graph.node] == ["MatMul", "Identity"]
    assert len(content) > 64 * 64 * 4 and len(smaller) < 0.6 * len(content)
    x = RNG.normal(size=(2, 64)).astype(np.float32)
    (y,), (z,) = whole.run(None, {"x": x}), half.run(None, {"x": x})
    np.testing.assert_allclose(y, x @ (2 * kernel.T + 1), atol=1e-4)
    assert 0 < np.abs(y - z).max() < 0.05


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: lax.top_k(x, 2)[0], "the operation 'top_k' of JAX has no rule for ONNX"),
        (lambda x: jnp.fft.fft(x).real, "only the Fourier transform of real numbers along a single dimension has a rule"),
        (
            lambda x: lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x),
            "the operation 'while' of JAX has no rule for ONNX",
        ),
        (lambda x: lax.sort([x, -x])[0], "a sort of several arrays, or along the batch, has no rule"),
    ],
)
def test_what_has_no_rule_is_named(function, reason):
    with pytest.raises(Unsupported, match=f"^{reason}"):
        session(lambda variables, x: [function(x)], (4,))


CHANGED = {"pcen": ("log_mel", {"compression": "pcen"}), "equal": ("waveform", {"conditioning": ("equalise_loudness",)})}
FAST = ("log_mel", "schindler_cqt", "swishnet_mfcc", "waveform")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in (*frontends.FRONTENDS, *CHANGED)]
)
def test_front_ends(name):
    name, options = CHANGED.get(name, (name, {}))
    rate = 22_050 if name.startswith(("folmer", "burrows", "schindler", "pollack")) else 16_000
    frontend = frontends.build(name, rate, **options)
    x = (RNG.normal(size=(2, 22_528)) / 9 + np.sin(np.arange(22_528) / 9) / 3).astype(np.float32)
    variables = jax.jit(frontend.init)(jax.random.key(0), x)
    expected = jax.jit(frontend.apply)(variables, x)
    with neutral():
        run, _ = session(lambda variables, x: [portable(frontend.apply)(variables, x)], (22_528,), variables=variables)
    (features,) = run.run(None, {"x": x})
    apart = np.abs(features - expected) / np.abs(expected).max()
    assert np.quantile(apart, 0.999) < 2e-5
    assert apart.max() < 2e-4  # the logarithm of a power near zero


def test_the_front_end_that_cannot_be_exported_is_named():
    frontend = frontends.build("waveform", 16_000, conditioning=("log_mmse",))
    reason = "^only the Fourier transform of real numbers along a single dimension has a rule$"
    with neutral(), pytest.raises(Unsupported, match=reason):
        session(lambda variables, x: [portable(lambda x: frontend.apply({}, x))(x)], (16_000,))
