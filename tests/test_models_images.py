"""ResNets, DenseNets and MobileNet: counts, initialisation, gradients, masks, dropout, devices, options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, small_config
from networks import learn_by_heart
from test_train import run_steps

from genre_jax import config as configs
from genre_jax import forward, models
from genre_jax.console import UserError
from genre_jax.models import layers

RNG = np.random.default_rng(0)
SMALL = {
    "resnet50": {"stages": (1,), "width": 4},
    "densenet121": {"stages": (1, 1), "width": 6, "growth_rate": 4, "dropout": 0.5},
    "mobilenet_v1": {"stages": (1, 2), "alpha": 1 / 8, "dropout": 0.5},
}
IMAGES = jnp.asarray(RNG.normal(-40, 15, (4, 33, 40, 1)), jnp.float32)
LABELS = jnp.array([2, 0, 1, 1])
KEYS = jax.random.split(jax.random.key(1), 4)


@functools.cache
def network(name, dtype="float32", **options):
    """A small network, its variables, and a compiled training pass: logits, intermediates, statistics, gradients."""
    net = models.build(name, num_classes=3, dtype=dtype, **SMALL[name], **options)
    variables = jax.jit(net.init)(jax.random.key(0), IMAGES)

    @jax.jit
    def run(x, mask, keys):
        def loss_of(params):
            (logits, out), updated = net.apply(
                {**variables, "params": params}, x, train=True, mask=mask, keys=keys, mutable=["batch_stats"]
            )
            values = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), LABELS)
            return (values * mask).sum(), (logits, out, updated)

        gradients, (logits, out, updated) = jax.grad(loss_of, has_aux=True)(variables["params"])
        return logits, out, updated["batch_stats"], gradients

    return net, variables, run


def numbers(tree):
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "num_classes", "options", "parameters"),
    [
        ("resnet101", 67, {}, 42_637_443),
        ("densenet121", 10, {}, 6_964_106),
        ("mobilenet_v1", 3, {}, 217_235),
        ("mobilenet_v1", 3, {"train_stem": True}, 217_241),
        pytest.param("mobilenet_v1", 3, {"alpha": 0.5}, 826_851, marks=SLOW),
        pytest.param("mobilenet_v1", 3, {"alpha": 1.0}, 3_223_427, marks=SLOW),
        pytest.param("resnet18", 67, {}, 11_210_883, marks=SLOW),
        pytest.param("resnet50", 67, {}, 23_645_315, marks=SLOW),
        pytest.param("resnet152", 67, {}, 58_281_091, marks=SLOW),
        pytest.param("densenet121", 1000, {}, 7_978_856, marks=SLOW),
        pytest.param("densenet169", 10, {}, 12_501_130, marks=SLOW),
        pytest.param("densenet201", 10, {}, 18_112_138, marks=SLOW),
    ],
)
def test_counts_are_those_of_torchvision_and_keras(name, num_classes, options, parameters):
    """ResNet34's is in `test_config.py`."""
    assert models.count_parameters(name, num_classes=num_classes, **options) == parameters


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in SMALL),
        pytest.param("resnet50", "bfloat16", marks=SLOW),
        pytest.param("densenet121", "bfloat16", marks=SLOW),
        pytest.param("mobilenet_v1", "bfloat16", marks=SLOW),
    ],
)
def test_forward_and_gradient(name, dtype):
    """Finite, and every trained parameter has a gradient; compute in `dtype`, parameters and statistics in float32."""
    _, variables, run = network(name, dtype)
    logits, out, statistics, gradients = run(IMAGES, jnp.ones(4), KEYS)
    assert logits.shape == (4, 3) and logits.dtype == dtype
    assert out["embedding"].shape == (4, out["features"].shape[-1]) and out["embedding"].dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, statistics))} == {jnp.dtype("float32")}
    assert np.isfinite(numbers((logits, statistics, gradients))).all()
    stem = gradients.pop("stem")
    assert not numbers(stem).any()
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", SMALL)
def test_masked_examples_leave_no_trace(name):
    """Neither their pixels nor their dropout, which is their own key's, reach another example, statistics or gradients."""
    _, _, run = network(name)
    mask = jnp.array([1.0, 1.0, 0.0, 1.0])
    expected = run(IMAGES, mask, KEYS)
    for images, keys in ((IMAGES.at[2].set(IMAGES[0] ** 2), KEYS), (IMAGES, KEYS.at[2].set(KEYS[0]))):
        found = run(images, mask, keys)
        changed = (found[0] != expected[0]).any(1).tolist()
        assert changed == [False, False, images is not IMAGES or name != "resnet50", False]
        for index in (2, 3):
            np.testing.assert_array_equal(numbers(found[index]), numbers(expected[index]))


@pytest.mark.parametrize("name", SMALL)
def test_all_norms_sum_over_the_devices(name, monkeypatch):
    axes = []
    monkeypatch.setattr(layers.parallel, "sum", lambda tree, axis_name: axes.append(axis_name) or tree)
    net, variables, _ = network(name)
    many = net.clone(axis_name="d")
    jax.eval_shape(lambda: many.apply(variables, IMAGES, train=True, keys=KEYS, mutable=["batch_stats"]))
    assert axes == ["d"] * len(jax.tree.leaves(variables["batch_stats"]))  # a mean and a variance each


@SLOW
def test_remat_of_densenet_changes_no_number():
    (_, _, run), (_, _, again) = network("densenet121"), network("densenet121", remat=True)
    for ours, theirs in zip(run(IMAGES, jnp.ones(4), KEYS), again(IMAGES, jnp.ones(4), KEYS), strict=True):
        np.testing.assert_allclose(numbers(ours), numbers(theirs), rtol=1e-3, atol=1e-4)


def test_initialisation_is_that_of_the_sources():
    """Standard deviations: He over outputs, He over inputs, Glorot; stems; biases of the heads."""
    resnet, densenet, mobilenet = (network(name)[1]["params"] for name in SMALL)
    for kernel, deviation in (
        (resnet["conv1"]["kernel"], (2 / (4 * 49)) ** 0.5),
        (resnet["layer1_0"]["conv3"]["kernel"], (2 / 16) ** 0.5),
        (densenet["conv0"]["kernel"], (2 / (3 * 49)) ** 0.5),
        (densenet["denseblock1_denselayer1"]["conv2"]["kernel"], (2 / (16 * 9)) ** 0.5),
        (mobilenet["conv_pw_3"]["kernel"], (2 / (16 + 16)) ** 0.5),
        (mobilenet["conv_dw_3"]["kernel"], (2 / (9 * 17)) ** 0.5),
        (mobilenet["hidden"]["kernel"], (2 / (16 + 16)) ** 0.5),
    ):
        assert abs(np.std(kernel) / deviation - 1) < 4 * (2 * kernel.size) ** -0.5
    assert resnet["stem"]["kernel"][0, 0] == 1 and numbers(resnet["stem"]["bias"]).all()
    for params in (densenet, mobilenet):
        assert numbers(params["stem"]["kernel"]).tolist() == [1, 1, 1] and not numbers(params["stem"]["bias"]).any()
        assert not numbers(params["fc"]["bias"]).any()


def test_only_resnet101_goes_without_instance_norm():
    """As document 000's code has it."""
    without = [
        name
        for name in models.MODELS
        if "net" in name and not getattr(models.build(name, num_classes=3), "instance_norm", True)
    ]
    assert without == ["resnet101"]


@pytest.mark.parametrize(
    ("name", "options", "shape", "sentence"),
    [
        ("densenet121", {}, (28, 64, 1), "a DenseNet reads images of at least 29 × 29 pixels, and was given 28 × 64"),
        (
            "densenet121",
            {"stages": (1, 1)},
            (12, 4, 1),
            "a DenseNet reads images of at least 5 × 5 pixels, and was given 12 × 4",
        ),
        ("mobilenet_v1", {}, (200, 20, 1), "a MobileNet reads images of at least 31 × 31 pixels, and was given 200 × 20"),
        ("mobilenet_v1", {"alpha": 0.03}, None, "'model.alpha' must be at least 1/32, and was given 0.03"),
        ("resnet51", {}, None, "unknown model 'resnet51' .did you mean 'resnet"),
    ],
)
def test_options_and_images_that_cannot_be(name, options, shape, sentence):
    with pytest.raises(UserError, match=sentence):
        models.abstract_variables(models.build(name, num_classes=3, **options), shape)


@pytest.mark.parametrize(
    ("name", "options", "least"), [("densenet121", {"stages": (1, 1, 1, 1)}, 29), ("mobilenet_v1", {}, 31)]
)
def test_the_smallest_image_has_a_last_map_of_one_pixel(name, options, least):
    net = models.build(name, num_classes=3, **options)
    images = jax.ShapeDtypeStruct((2, least, least, 1), jnp.float32)
    (_, out), _ = jax.eval_shape(net.init_with_output, jax.random.key(0), images)
    assert out["features"].shape[:3] == (2, 1, 1)


@pytest.mark.parametrize(
    "name", ["densenet121", pytest.param("mobilenet_v1", marks=SLOW), pytest.param("resnet101", marks=SLOW)]
)
def test_chosen_on_the_command_line(name):
    """In place of ResNet34, at full size; the options are the network's own."""
    changes = {"data.name": "synthetic", "model.name": name, "model.train_stem": "true"}
    config = configs.load(str(ROOT / "configs/resnet34_spectrogram.py"), changes)
    config = configs.from_json(configs.to_json(config))
    network = forward.build(config, num_classes=67)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), config.data.samples))
    batch = {
        "audio": jax.ShapeDtypeStruct((2, config.data.samples), jnp.int16),
        "maximum": jax.ShapeDtypeStruct((2,), jnp.float32),
    }
    logits, intermediates = jax.eval_shape(network, variables, batch)
    assert logits.shape == (2, 67)
    assert intermediates["embedding"].shape == (2, {"densenet121": 1024, "mobilenet_v1": 256, "resnet101": 2048}[name])


@SLOW
@pytest.mark.parametrize("name", SMALL)
def test_one_real_step(tones, name):
    config = small_config(tones, "resnet", devices=1, frontend__height=32, frontend__width=32)
    configs.choose(config, "model", name, **SMALL[name])
    losses, metrics, _ = run_steps(config, 1, 1)
    assert np.isfinite(losses[0]) and metrics[0]["gradient_norm"] > 0


@SLOW
@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnet101", "densenet121", "mobilenet_v1"])
def test_full_network_learns_eight_images_by_heart(name):
    images = jnp.asarray(RNG.normal(-40, 15, (8, 32, 32, 1)), jnp.float32)
    assert learn_by_heart(models.build(name, num_classes=8), images, jnp.arange(8), 1e-3, 150) < 0.05
