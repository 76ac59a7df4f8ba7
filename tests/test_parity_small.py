"""The GRU, self-normalising and Schindler networks against PyTorch's values in golden/small_networks.npz (float64)."""

import functools
import importlib

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from golden.deterministic import parameter, tensor

from genre_jax import losses, models, optim

LABELS = np.eye(5)[[3, 1, 4]]
STEPS, RATE, MOMENTUM = 5, 0.05, 0.9
SMALL = {
    "gru_attention": ((3, 9, 5), {"hidden": 6, "features": 4}),
    "snn": ((3, 7, 6), {"hidden": (12, 8), "vote": "mean"}),
    "schindler_shallow": ((3, 1, 41, 43), {"width": 2, "hidden": 7}),
    "schindler_deep": ((3, 1, 41, 43), {"width": 2, "hidden": 7}),
}
FULL = {
    "gru_attention": ((2, 161, 112), 67),
    "snn": ((2, 200, 60), 3),
    "schindler_shallow": ((2, 1, 80, 80), 10),
    "schindler_deep": ((2, 1, 80, 80), 10),
}
LEAVES = {
    "kernel": "weight",
    "input_kernel": "weight_ih_l0",
    "hidden_kernel": "weight_hh_l0",
    "input_bias": "bias_ih_l0",
    "hidden_bias": "bias_hh_l0",
}


@functools.cache
def golden():
    with np.load(ROOT / "tests/golden/small_networks.npz") as file:
        return dict(file)


def ours(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Convert PyTorch's array (out, in, …) to our layout (…, in, out) and shape."""
    return (np.moveaxis(value, (0, 1), (-1, -2)) if value.ndim > 1 else value).reshape(shape)


def features(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the input in our layout: (batch, rows, columns, channels) for images."""
    x = tensor(name, shape)
    return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


def torch_names(net, shape: tuple[int, ...]) -> dict[tuple[str, ...], tuple[str, tuple[int, ...]]]:
    """Return path of each of our parameters → (PyTorch's name, our shape)."""
    params = flax.traverse_util.flatten_dict(models.abstract_variables(net, shape)["params"])
    return {path: (f"{path[0]}.{LEAVES.get(path[1], path[1])}", leaf.shape) for path, leaf in params.items()}


def deterministic_params(net, shape: tuple[int, ...], dtype):
    values = {}
    for path, (name, like) in torch_names(net, shape).items():
        torch_shape = like if len(like) == 1 else (like[-1], like[-2], *like[:-2])
        values[path] = jnp.asarray(ours(np.asarray(parameter(name, torch_shape)), like), dtype)
    return flax.traverse_util.unflatten_dict(values)


def training(net, x):
    """Return a function: parameters → logits, losses of five steps of SGD with momentum, final logits; first gradients."""
    optimizer = optim.sgd(momentum=MOMENTUM)

    def loss_of(params):
        logits, _ = net.apply({"params": params}, x, train=True)
        return losses.LOSSES["softmax"].values(logits, LABELS, jnp.ones(5)).mean(), logits

    def step(carry, _):
        params, state = carry
        (loss, logits), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        directions, state = optimizer.update(gradients, state, params)
        return (jax.tree.map(lambda p, d: p - RATE * d, params, directions), state), (loss, logits, gradients)

    @jax.jit
    def run(params):
        (after, _), (loss, logits, gradients) = jax.lax.scan(step, (params, optimizer.init(params)), None, STEPS)
        first = jax.tree.map(lambda leaf: leaf[0], gradients)
        return {"evaluated": logits[0], "losses": loss, "after": net.apply({"params": after}, x)[0]}, first

    return run


def assert_close(value, expected, tolerance, what):
    scale = max(np.abs(expected).max(), 1e-6)
    assert np.shape(value) == expected.shape, what
    assert np.abs(np.asarray(value) - expected).max() < tolerance * scale, what


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"), [*((name, "float64", 1e-9) for name in SMALL), ("gru_attention", "float32", 1e-4)]
)
def test_network_equals_torch(name, dtype, tolerance):
    """Outputs, every element of every gradient, and losses and outputs of five training steps."""
    shape, sizes = SMALL[name]
    with jax.enable_x64(dtype == "float64"):
        net = models.build(name, num_classes=5, dtype=dtype, **sizes, **({} if name == "gru_attention" else {"dropout": 0.0}))
        x = features(f"{name} input", shape)
        values, gradients = jax.device_get(training(net, jnp.asarray(x, dtype))(deterministic_params(net, x.shape[1:], dtype)))
        names = torch_names(net, x.shape[1:])
    for key, value in values.items():
        assert_close(value, golden()[f"{name}/{key}"], tolerance, key)
    assert {f"{name}/gradient/{torch}" for torch, _ in names.values()} == {k for k in golden() if k.startswith(f"{name}/grad")}
    for path, value in flax.traverse_util.flatten_dict(gradients).items():
        expected = ours(golden()[f"{name}/gradient/{names[path][0]}"], value.shape)
        assert_close(value, expected, tolerance, names[path][0])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "gru_attention" else []) for name in FULL]
)
def test_published_size_equals_torch(name):
    shape, classes = FULL[name]
    net = models.build(name, num_classes=classes, **({"vote": "mean"} if name == "snn" else {}))
    x = features(f"{name} full input", shape)
    params = deterministic_params(net, x.shape[1:], jnp.float32)
    logits, _ = jax.jit(net.apply)({"params": params}, jnp.asarray(x, jnp.float32))
    assert_close(logits, golden()[f"{name}/full"], 1e-4, name)


def test_golden_values_are_torchs(monkeypatch):
    """If torch is installed, it computes the values in the file."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "tests/golden")
    made = importlib.import_module("make_small_networks").small_values()
    assert made.keys() == {key for key in golden() if not key.endswith("/full")}
    for key, value in made.items():
        np.testing.assert_allclose(value, golden()[key], rtol=1e-9, atol=1e-12, err_msg=key)
