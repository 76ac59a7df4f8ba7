"""The image networks against the values of torchvision and Keras in golden/images.npz (float64; `make_images.py`)."""

import subprocess
import sys
from importlib.util import find_spec

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT
from golden.deterministic import tensor
from test_parity import torch_variables

from genre_jax import models

LABELS = np.array([3, 1, 4])
DENSE = {"width": 6, "growth_rate": 3, "bn_size": 2}
CASES = {
    "short resnet50": ("resnet50", {"stages": (1, 2), "width": 4}),
    "short densenet121": ("densenet121", {"stages": (2, 2), **DENSE}),
    "mobilenet_v1": ("mobilenet_v1", {"alpha": 1 / 8, "dropout": 0.0}),
    "resnet50": ("resnet50", {"width": 4}),
    "resnet101": ("resnet101", {"width": 4}),
    "densenet121": ("densenet121", DENSE),
}
DEEP = ("resnet50", "resnet101", "densenet121", "short resnet50", "short densenet121")


@pytest.fixture(scope="module")
def golden():
    with np.load(ROOT / "tests/golden/images.npz") as file:
        return dict(file)


def build(model: str, x: np.ndarray, dtype: str, **options):
    """Return the network, the reference's name of each variable, and the variables with the reference's numbers."""
    net = models.build(model, dtype=dtype, **options)
    return net, *torch_variables(model, net, x.shape[1:], dtype)


def image(*shape: int) -> np.ndarray:
    return np.moveaxis(tensor("image", shape), 1, -1)


def assert_close(ours, theirs, tolerance):
    assert np.abs(ours - theirs).max() < tolerance * np.abs(theirs).max()


def five_steps(model: str, x: np.ndarray, rate: float, **options):
    """Run five steps of gradient descent; return losses, running statistics in the order of names, variables (all float64)."""
    with jax.enable_x64(True):
        net, names, variables = build(model, x, "float64", **options)

        @jax.jit
        def step(variables):
            def loss_of(params):
                (logits, _), updated = net.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
                return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), updated

            (loss, updated), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
            return loss, {"params": jax.tree.map(lambda p, g: p - rate * g, variables["params"], gradients), **updated}

        losses = []
        for _ in range(5):
            loss, variables = step(variables)
            losses.append(float(loss))
        variables = jax.device_get(variables)
    statistics = flax.traverse_util.flatten_dict({"batch_stats": variables["batch_stats"]})
    in_order = sorted(statistics, key=lambda path: names[path])
    return losses, np.concatenate([statistics[path] for path in in_order]), variables


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in DEEP else []) for name in CASES])
def test_network_equals_its_reference(golden, name):
    """Evaluation in float32, then losses, running statistics and evaluation after five training steps in float64."""
    model, options = CASES[name]
    options, x = options | {"num_classes": 5}, image(3, 1, 70, 45)
    net, _, variables = build(model, x, "float32", **options)
    evaluate = jax.jit(lambda variables: net.apply(variables, jnp.asarray(x, jnp.float32))[0])
    assert_close(evaluate(variables), golden[f"{name}/evaluated"], 1e-4)
    losses, statistics, variables = five_steps(model, x, golden[f"{name}/rate"], **options)
    np.testing.assert_allclose(losses, golden[f"{name}/losses"], rtol=1e-7)
    np.testing.assert_allclose(statistics, golden[f"{name}/statistics"], rtol=1e-5, atol=1e-6)
    trained = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), variables)
    assert_close(evaluate(trained), golden[f"{name}/trained"], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet101", "densenet121"])
def test_full_network_equals_torchvision(golden, model):
    x = image(2, 1, 64, 64)
    net, _, variables = build(model, x, "float32", num_classes=1000)
    logits = jax.jit(lambda variables: net.apply(variables, jnp.asarray(x, jnp.float32))[0])(variables)
    assert_close(logits, golden[f"full {model}/evaluated"], 1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, ("torch", "torchvision", "keras"))), reason="needs torch, torchvision and keras")
def test_golden_values_equal_the_references(golden, tmp_path):
    script = ROOT / "tests/golden/make_images.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "now.npz")], check=True)
    with np.load(tmp_path / "now.npz") as now:
        assert set(now) == set(golden)
        for key, value in golden.items():
            np.testing.assert_allclose(now[key], value, rtol=1e-6, atol=1e-6 * np.abs(value).max(), err_msg=key)
