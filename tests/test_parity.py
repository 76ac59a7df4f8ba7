"""Networks, losses and resizing against the values of PyTorch and torchvision in golden/torch.npz (float64)."""

import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from golden.deterministic import parameter, tensor

from genre_jax import losses, models
from genre_jax.frontends import resize
from genre_jax.weights import layouts

LABELS = np.eye(5)[[3, 1, 4]]
SIZES = {
    "bytenet": {"width": 4, "max_dilation": 4, "strides": (4, 2), "decoder_sets": 1},
    "resnet34": {"width": 4},
}


@pytest.fixture(scope="module")
def golden():
    with np.load(ROOT / "tests/golden/torch.npz") as file:
        return dict(file)


def torch_name(model: str, path: tuple[str, ...]) -> str:
    """Return PyTorch's name of our variable at `path`, with `{block}` for the number of a block of ByteNet."""
    *module, leaf = path[1:]
    name = ".".join(module)
    if model == "bytenet":
        name = re.sub(r"(encoder|decoder)(\d+)\.", r"\1.\2.{block}.", name)
        name = re.sub(r"reduce(\d+)", r"reduce.\1", name)
    elif model.startswith(("resnet", "densenet")):
        rename = layouts.densenet if model.startswith("densenet") else layouts.resnet
        name = "0" if name == "stem" else f"2.{rename(name)}"
    return f"{name}.{layouts.TORCH_LEAVES.get(leaf, leaf)}"


def torch_variables(model: str, net, shape: tuple[int, ...], dtype):
    """Return our variables with PyTorch's numbers: kernels (out, in, …) → (…, in, out), blocks stacked along the first axis."""
    names, values = {}, {}

    def torch_value(path, name, ours):
        if path[-2:] == ("stem", "kernel"):
            return parameter(name, (3, 1, 1, 1)).reshape(1, 3)
        if path[-1] == "kernel":
            return np.moveaxis(parameter(name, (ours[-1], ours[-2], *ours[:-2])), (0, 1), (-1, -2))
        return parameter(name, ours)

    for path, like in flax.traverse_util.flatten_dict(models.abstract_variables(net, shape)).items():
        name = names[path] = torch_name(model, path)
        if "{block}" in name:
            value = np.stack([torch_value(path, name.format(block=i), like.shape[1:]) for i in range(like.shape[0])])
        else:
            value = torch_value(path, name, like.shape)
        assert value.shape == like.shape, name
        values[path] = jnp.asarray(value, dtype)
    return names, flax.traverse_util.unflatten_dict(values)


def gradient_norms(names: dict, gradients) -> dict:
    """Return PyTorch's name of each parameter → norm of its gradient."""
    norms = {}
    for path, value in flax.traverse_util.flatten_dict({"params": gradients}).items():
        if "{block}" in names[path]:
            norms |= {names[path].format(block=i): jnp.linalg.norm(block) for i, block in enumerate(value)}
        else:
            norms[names[path]] = jnp.linalg.norm(value)
    return norms


def pass_through(model: str, x: np.ndarray, dtype: str, **options):
    """Return evaluation logits, training logits, loss, gradient norms and running statistics, with PyTorch's names."""
    net = models.build(model, num_classes=5, dtype=dtype, **SIZES[model], **options)
    names, variables = torch_variables(model, net, x.shape[1:], dtype)
    x = jnp.asarray(x, dtype)

    @jax.jit
    def run(variables):
        def loss_of(params):
            (logits, _), updated = net.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return losses.LOSSES["softmax"].values(logits, LABELS, jnp.ones(5)).mean(), (logits, updated)

        (loss, (trained, updated)), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        norms = gradient_norms(names, gradients)
        return {"evaluated": net.apply(variables, x)[0], "trained": trained, "loss": loss}, norms, updated

    out, norms, updated = run(variables)
    out |= {f"gradient/{name}": value for name, value in norms.items()}
    return out | {f"statistics/{names[path]}": value for path, value in flax.traverse_util.flatten_dict(updated).items()}


INPUTS = {
    "bytenet": np.swapaxes(tensor("waveform", (3, 1, 99)), 1, 2),
    "resnet34": np.moveaxis(tensor("image", (3, 1, 70, 45)), 1, -1),
}


def assert_equal_to_torch(golden, model, dtype, tolerance, **options):
    with jax.enable_x64(dtype == "float64"):
        ours = jax.device_get(pass_through(model, INPUTS[model], dtype, **options))
    theirs = {key.removeprefix(f"{model}/"): value for key, value in golden.items() if key.startswith(f"{model}/")}
    frozen = {"gradient/0.weight", "gradient/0.bias"} if model == "resnet34" else set()
    assert ours.keys() - frozen == theirs.keys()
    assert all(ours[key] == 0 for key in frozen)
    for key, value in theirs.items():
        scale = max(np.abs(value).max(), 1e-3)
        assert np.abs(ours[key] - value).max() < tolerance * scale, key


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), pytest.param("float32", 1e-4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", SIZES)
def test_network_equals_torch(golden, model, dtype, tolerance):
    """Outputs, the norm of every parameter's gradient, and the running statistics after one training pass."""
    assert_equal_to_torch(golden, model, dtype, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("remat", "backend"), [("lean", "shift"), ("tree", "phases")])
def test_policies_and_backends_of_bytenet_equal_torch(golden, remat, backend):
    assert_equal_to_torch(golden, "bytenet", "float64", 1e-9, remat=remat, backend=backend)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_loss_equals_torch(golden, name):
    """`CrossEntropyLoss(weight=…)` and `BCEWithLogitsLoss(weight=…)`: mean and gradient."""
    labels = LABELS if name == "softmax" else (tensor("multi labels", (3, 5)) > 0).astype(float)
    with jax.enable_x64(True):
        weights = jnp.asarray(np.abs(tensor("class weights", (5,))))

        def mean(logits):
            criterion, hot = losses.LOSSES[name], labels.astype(np.uint8)
            values, share = criterion.values(logits, hot, weights), criterion.weights(hot, weights)
            return (values * share).sum() / share.sum()

        value, gradient = jax.value_and_grad(mean)(jnp.asarray(tensor("logits", (3, 5), 3.0)))
    np.testing.assert_allclose(value, golden[f"loss/{name}"], rtol=1e-12)
    np.testing.assert_allclose(gradient, golden[f"loss/{name}/gradient"], rtol=1e-12, atol=1e-15)


def test_resize_equals_torch(golden):
    image = tensor("image", (7, 5))
    cases = [key for key in golden if key.startswith("resize/")]
    assert len(cases) == 6
    with jax.enable_x64(True):
        for key in cases:
            _, size, aligned = key.split("/")
            height, width = map(int, size.split("x"))
            ours = resize(jnp.asarray(image), height, width, align_corners=aligned == "True")
            np.testing.assert_allclose(ours, golden[key], rtol=0, atol=1e-12)
