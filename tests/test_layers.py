"""The shared layers against their definitions in float64, and the shapes of ResNet."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import largest_difference, outputs_of

from genre_jax import models
from genre_jax.models import cpu, layers

RNG = np.random.default_rng(0)
EPSILON = 1e-5


# ---------------------------------------------------------------- normalisation


def affine(features: int):
    return {"scale": RNG.normal(1, 0.3, features), "bias": RNG.normal(0, 0.3, features)}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(7, 3), (5, 9, 3), (3, 5, 7, 2)], ids=lambda shape: "x".join(map(str, shape)))
def test_batch_norm_equals_its_definition(shape, masked):
    """PyTorch's: biased variance for normalising, unbiased in the running one, running = 0.9 running + 0.1 batch."""
    features, axes = shape[-1], tuple(range(len(shape) - 1))
    params = affine(features)
    running = {"mean": np.zeros(features), "var": np.ones(features)}
    with jax.enable_x64(True):
        norm = layers.BatchNorm(param_dtype=jnp.float64)
        statistics = jax.tree.map(jnp.asarray, running)
        for step in range(3):
            x = RNG.normal(2 + step, 3, shape)
            mask = np.array([1, 0, 1, 1, 0, 1, 1][: shape[0]], np.float32) if masked else None
            kept = x[mask > 0] if masked else x
            mean, var = kept.mean(axes), kept.var(axes)
            running["mean"] = 0.9 * running["mean"] + 0.1 * mean
            running["var"] = 0.9 * running["var"] + 0.1 * kept.var(axes, ddof=1)
            variables = {"params": params, "batch_stats": statistics}
            y, updated = norm.apply(variables, jnp.asarray(x), train=True, mask=mask, mutable=["batch_stats"])
            statistics = updated["batch_stats"]
            expected = (x - mean) / np.sqrt(var + EPSILON) * params["scale"] + params["bias"]
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
            for key, value in running.items():
                np.testing.assert_allclose(statistics[key], value, rtol=1e-12)
        x = RNG.normal(2, 3, shape)
        y = norm.apply({"params": params, "batch_stats": statistics}, jnp.asarray(x), train=False)
    expected = (x - running["mean"]) / np.sqrt(running["var"] + EPSILON) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


def test_batch_norm_of_almost_constant_features():
    """Where the variance is of epsilon's size it matters that epsilon stands under the root."""
    x = 100 + RNG.normal(0, 1e-3, (64, 4))
    with jax.enable_x64(True):
        norm = layers.BatchNorm(param_dtype=jnp.float64)
        y, _ = norm.init_with_output(jax.random.key(0), jnp.asarray(x), train=True)
    np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON), atol=1e-9)


def test_batch_norm_counts_over_devices():
    """Uneven masks: 5 of 8 examples count, 1, 0, 3 and 1 of them on four devices; the result is that of one device."""
    x = RNG.normal(1, 2, (8, 5, 3)).astype(np.float32)
    mask = np.array([1, 0, 0, 0, 1, 1, 1, 1], np.float32)
    one, many = layers.BatchNorm(), layers.BatchNorm(axis_name="d")
    variables = one.init(jax.random.key(0), x, train=False)
    whole, updated = one.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])
    parts, updated_parts = jax.vmap(
        lambda x, mask: many.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"]), axis_name="d"
    )(x.reshape(4, 2, 5, 3), mask.reshape(4, 2))
    np.testing.assert_allclose(parts.reshape(whole.shape), whole, atol=1e-5)
    for device in range(4):
        assert largest_difference(jax.tree.map(lambda leaf: leaf[device], updated_parts), updated) < 1e-5  # noqa: B023


@pytest.mark.parametrize("devices", [1, 3])
def test_batch_norm_gradient_equals_that_of_its_definition(devices):
    """By input, scale and bias, through the statistics, masked examples among them; the definition's is autodiff's."""
    shape = (6, 5, 4, 3)
    mask, cotangent = np.array([1, 0, 1, 1, 0, 1.0]), RNG.normal(size=shape)
    with jax.enable_x64(True):
        x, params = jnp.asarray(RNG.normal(2, 3, shape)), jax.tree.map(jnp.asarray, affine(3))

        def defined(x, params):
            weight = jnp.asarray(mask)[:, None, None, None]
            count = mask.sum() * 20
            mean = (x * weight).sum((0, 1, 2)) / count
            var = (jnp.square(x - mean) * weight).sum((0, 1, 2)) / count
            return (((x - mean) / jnp.sqrt(var + EPSILON) * params["scale"] + params["bias"]) * cotangent).sum()

        norm = layers.BatchNorm(param_dtype=jnp.float64, axis_name="d")
        statistics = {"mean": jnp.zeros(3), "var": jnp.ones(3)}

        def share(x, params, mask, cotangent):
            variables = {"params": params, "batch_stats": statistics}
            return (norm.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])[0] * cotangent).sum()

        parts = [a.reshape(devices, 6 // devices, *a.shape[1:]) for a in (x, jnp.asarray(mask), jnp.asarray(cotangent))]
        gradients = jax.vmap(jax.grad(share, (0, 1)), (0, None, 0, 0), axis_name="d")(parts[0], params, parts[1], parts[2])
        dx, d_params = gradients[0].reshape(shape), jax.tree.map(lambda leaf: leaf.sum(0), gradients[1])
        expected = jax.grad(defined, (0, 1))(x, params)
    for one, other in zip(jax.tree.leaves((dx, d_params)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_batch_norm_of_bfloat16_keeps_float32_statistics():
    """At mean 300 bfloat16 steps by 2: sums in bfloat16 would be lost."""
    x = jnp.asarray(RNG.normal(300, 30, (512, 9, 3)), jnp.bfloat16)
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    statistics, exact = updated["batch_stats"], np.asarray(x, np.float64)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in statistics.values()} == {jnp.dtype("float32")}
    np.testing.assert_allclose(statistics["mean"], 0.1 * exact.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * exact.var((0, 1), ddof=1), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(y, float), (exact - exact.mean((0, 1))) / exact.std((0, 1)), atol=0.02)


@pytest.mark.parametrize("shape", [(2, 9, 3), (3, 5, 7, 2)])
def test_instance_norm_equals_its_definition(shape):
    x = RNG.normal(1, 0.01, shape)  # a variance near epsilon, so that epsilon's place shows
    axes = tuple(range(1, len(shape) - 1))
    expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPSILON)
    with jax.enable_x64(True):
        y = layers.instance_norm(jnp.asarray(x))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)


def test_norms_of_silence_are_finite_with_their_gradients():
    def batch_norm(x):
        return layers.BatchNorm().init_with_output(jax.random.key(0), x, train=True)[0]

    for norm in (batch_norm, layers.instance_norm):
        assert np.isfinite(jax.grad(lambda x, norm=norm: norm(x).sum())(jnp.zeros((2, 5, 3)))).all()


# ---------------------------------------------------------------- dropout, initialisers


def test_dropout_rate_and_scaling():
    keys = jax.random.split(jax.random.key(1), 50)
    y = np.asarray(layers.Dropout(0.3).apply({}, jnp.ones((50, 40, 20)), keys))
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-6)
    assert np.mean(y == 0) == pytest.approx(0.3, abs=0.01)  # 4 standard deviations are 0.009
    assert np.std((y == 0).mean((1, 2))) < 0.05


def test_dropout_knows_the_key_and_not_the_place():
    keys = jax.random.split(jax.random.key(1), 6)
    x = jnp.asarray(RNG.normal(size=(6, 33)))
    y = layers.Dropout(0.5).apply({}, x, keys)
    order = np.array([4, 0, 5])
    np.testing.assert_array_equal(layers.Dropout(0.5).apply({}, x[order], keys[order]), y[order])
    dropped = np.asarray(y) == 0
    assert len(np.unique(dropped, axis=0)) == 6


def test_dropout_without_keys_or_rate_is_the_identity():
    x = jnp.asarray(RNG.normal(size=(2, 9)))
    assert layers.Dropout(0.5).apply({}, x, None) is x
    assert layers.Dropout(0.0).apply({}, x, jax.random.split(jax.random.key(0), 2)) is x


def test_two_dropout_layers_draw_apart():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, keys):
            return layers.Dropout(0.5)(x, keys), layers.Dropout(0.5)(x, keys)

    one, other = Two().apply({}, jnp.ones((3, 64)), jax.random.split(jax.random.key(0), 3))
    assert 0.3 < np.mean(np.asarray(one) == other) < 0.7


def test_initialisers_have_their_bounds():
    """PyTorch's default U(±1 / sqrt(fan in)), and torchvision's He normal over outputs, 2 / (k² · out)."""
    key = jax.random.key(0)
    for shape, fan_in in (((3, 16, 400), 48), ((3, 5, 4, 400), 60), ((25, 400), 25)):
        kernel = np.asarray(layers.torch_kernel(key, shape))
        bound = fan_in**-0.5
        assert 0.99 * bound < np.abs(kernel).max() <= bound * (1 + 1e-6)
        assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.03)
    bias = np.asarray(layers.torch_bias(25)(key, (4000,)))
    assert -0.2 <= bias.min() < -0.199 and 0.199 < bias.max() <= 0.2
    kernel = np.asarray(layers.he_fan_out(key, (3, 3, 32, 64)))
    assert kernel.std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    assert abs(kernel.mean()) < 0.001


# ---------------------------------------------------------------- ResNet


def test_resnet34_stages_are_torchvisions():
    net = models.build("resnet34", num_classes=67)
    names = ["stem", "conv1", "layer1_2", "layer2_3", "layer3_5", "layer4_2"]
    shapes = outputs_of(net, net.input_shape, *names)
    assert [shapes[name] for name in names] == [
        (1, 224, 224, 3), (1, 112, 112, 64), (1, 56, 56, 64), (1, 28, 28, 128), (1, 14, 14, 256), (1, 7, 7, 512),
    ]  # fmt: skip
    odd = outputs_of(net, (161, 97, 1), *names)
    assert [odd[name][1:3] for name in names] == [(161, 97), (81, 49), (41, 25), (21, 13), (11, 7), (6, 4)]


@pytest.mark.parametrize("train_stem", [False, True])
def test_frozen_stem_gets_no_gradient(train_stem):
    x = jnp.asarray(RNG.normal(size=(2, 32, 32, 1)), jnp.float32)
    net = models.build("resnet18", num_classes=3, width=4, stages=(1,), instance_norm=False, train_stem=train_stem)
    variables = jax.jit(net.init)(jax.random.key(0), x)
    assert variables["params"]["stem"]["kernel"][0, 0] == 1

    def total(params):
        return jnp.square(net.apply(variables | {"params": params}, x)[0]).sum()

    gradient = jax.jit(jax.grad(total))(variables["params"])
    assert all((np.abs(leaf).max() > 0) == train_stem for leaf in gradient["stem"].values())
    assert np.abs(gradient["conv1"]["kernel"]).max() > 0


def test_thesis_stem_is_the_z_score_of_the_image():
    x = jnp.asarray(RNG.normal(-40, 15, (2, 24, 17, 1)), jnp.float32)
    net = models.build("resnet18", num_classes=3, width=4, stages=(1,))
    variables = jax.jit(net.init)(jax.random.key(0), x)
    _, state = net.apply(variables, x, capture_intermediates=lambda module, _: module.name == "stem", mutable=["intermediates"])
    image = np.asarray(state["intermediates"]["stem"]["__call__"][0])
    z = (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)
    np.testing.assert_allclose(image[..., :1], z, atol=1e-4)
    signs = np.sign(variables["params"]["stem"]["kernel"][0])
    np.testing.assert_allclose(image, np.asarray(z) * np.asarray(signs), atol=2e-3)


# ---------------------------------------------------------------- convolutions by other ways


CONVOLUTIONS = [  # kernel, strides, padding, shape of the input, features, groups
    ((3, 3), (2, 1), "SAME", (3, 7, 6, 4), 5, 1),
    ((4, 3), (2, 1), ((2, 0), (1, 3)), (2, 8, 5, 2), 5, 1),
    ((1, 2), (2, 1), "VALID", (2, 6, 7, 3), 5, 1),
    ((2, 3), (3, 2), ((0, 2), (1, 1)), (2, 9, 8, 3), 5, 1),
    ((5,), (2,), "SAME", (2, 4, 3), 5, 1),
    ((2,), (2,), "VALID", (1, 9, 3), 5, 1),  # windows side by side
    ((2,), (1,), "VALID", (1, 9, 3), 5, 1),
    ((1, 1), (2, 1), "SAME", (2, 7, 5, 3), 5, 1),
    ((1,), (2,), "VALID", (3, 6, 4), 5, 1),
    ((3, 1), (1, 1), "VALID", (2, 8, 1, 6), 1, 1),  # fewer outputs than channels
    ((3, 1), (2, 1), "VALID", (2, 8, 2, 20), 5, 1),
    ((5, 7), (1, 1), "SAME", (2, 6, 9, 1), 5, 1),  # many taps, one channel
    ((5, 8), (1, 1), ((2, 0), (0, 1)), (2, 7, 11, 1), 5, 1),
    ((3, 3), (2, 1), ((1, 1), (1, 1)), (2, 6, 5, 4), 4, 4),  # one filter a channel
    ((3, 2), (2, 1), ((0, 1), (0, 1)), (2, 7, 6, 4), 4, 4),
    ((3, 3), (1, 1), "SAME", (2, 7, 6, 4), 4, 4),
    ((3, 3), (1, 1), "SAME", (2, 7, 6, 4), 8, 4),  # XLA's own
]


@pytest.mark.parametrize(("kernel", "strides", "padding", "shape", "features", "groups"), CONVOLUTIONS)
def test_convolutions_on_cpus_are_xlas_with_its_gradients(kernel, strides, padding, shape, features, groups):
    with jax.enable_x64(True):
        x, plain, ours = (
            jnp.asarray(RNG.normal(size=shape)),
            *(
                conv(features, kernel, strides, padding, feature_group_count=groups, param_dtype=jnp.float64)
                for conv in (nn.Conv, layers.Conv)
            ),
        )
        variables = plain.init(jax.random.key(0), x)

        def run(net):
            return jax.jit(jax.value_and_grad(lambda v, x: (net.apply(v, x) ** 3).sum(), (0, 1)))(variables, x)

        for one, expected in zip(*(jax.tree.leaves(run(net)) for net in (ours, plain)), strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (0, 1))])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 5), (4,)])
def test_images_of_one_channel_give_the_same_numbers_and_gradients(kernel, padding):
    padding = padding if isinstance(padding, str) else padding[: len(kernel)]
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.normal(size=(*(2, 7, 9)[: len(kernel) + 1], 1)))
        w = jnp.asarray(RNG.normal(size=(*kernel, 1, 5)))
        dimensions = ("NHWC", "HWIO", "NHWC") if len(kernel) == 2 else ("NWC", "WIO", "NWC")

        def total(how, x, w):
            return jnp.sin(how(x, w, (1,) * len(kernel), padding, dimension_numbers=dimensions)).sum()

        found, expected = (
            jax.value_and_grad(total, (1, 2))(how, x, w)
            for how in (cpu.convolve, jax.lax.conv_general_dilated)
        )  # fmt: skip
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)


def program_of_the_same_gradients(x, w):
    """The compiled gradients of a convolution at stride 2 × 1, whose numbers are those of XLA's own."""

    def total(how, x, w):
        return jnp.sin(how(x, w, (2, 1), ((1, 1), (0, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))).sum()

    with jax.enable_x64(True):
        x, w = jnp.asarray(x), jnp.asarray(w)
        compiled = jax.jit(jax.grad(total, (1, 2)), static_argnums=0).lower(cpu.convolve, x, w).compile()
        expected = jax.grad(total, (1, 2))(jax.lax.conv_general_dilated, x, w)
        for one, other in zip(compiled(x, w), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)
    return compiled.as_text()


# Positions of a strip: three rows, two images, and in `make test-all` one row and all images.
@pytest.mark.parametrize("positions", [21, 84, *(pytest.param(n, marks=pytest.mark.slow) for n in (7, 168))])
@pytest.mark.parametrize("channels", [(3, 32), (32, 64), (65, 64)])
def test_strips_give_the_same_gradients(channels, positions, monkeypatch):
    """Their products make the gradient by the kernel, and no convolution does."""
    monkeypatch.setattr(cpu, "_LARGE", 50)
    monkeypatch.setattr(cpu, "_WHOLE", 0)
    monkeypatch.setattr(cpu, "_STRIP", positions * 6 * channels[0])
    x, w = (RNG.normal(size=shape) for shape in ((4, 11, 7, channels[0]), (3, 2, *channels)))

    program = program_of_the_same_gradients(x, w)
    assert len(re.findall(r" dot\(", program)) == 1 and len(re.findall(r" convolution\(", program)) == 2
    assert f"f64[{positions},{6 * channels[0]}]" in program


@pytest.mark.parametrize("sizes", [(7, 3), (3, 7)])
def test_product_over_frames_has_the_gradients_of_its_definition(sizes):
    x, w = RNG.normal(size=(2, 4, sizes[0])), RNG.normal(size=sizes)

    def total(how, x, w):
        return jnp.sin(how(x, w)).sum()

    with jax.enable_x64(True):
        found, expected = (
            jax.jit(jax.value_and_grad(functools.partial(total, how), (0, 1)))(x, w)
            for how in (layers.product, jnp.matmul)
        )  # fmt: skip
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_convolutions_in_loops_are_the_fast_ones():
    """XLA's CPU backend has one fast order of dimensions, and turns no other order into it inside a loop."""
    net = layers.Conv(3, (3, 2), (2, 1))
    x = jnp.ones((4, 2, 6, 5, 1))
    variables = net.init(jax.random.key(0), x[0])

    def gradients(x):
        one = jax.grad(lambda v, x: (net.apply(v, x) ** 2).sum(), (0, 1))
        return jax.lax.map(lambda part: one(variables, part), x)

    text = jax.jit(gradients).lower(x).compile().as_text()
    orders = set(re.findall(r"convolution\(.*dim_labels=(\S+?),", text))
    assert orders == {"b01f_01io->b01f"}
