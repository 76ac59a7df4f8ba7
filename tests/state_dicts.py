"""State dicts of small networks with the names of torchvision and timm, and our variables filled by hand with the same values."""

from pathlib import Path

import jax
import numpy as np
import pytest

from genre_jax import models
from genre_jax.console import UserError
from genre_jax.weights import pretrained

# Model → options of a small network, and the shape of its input.
NETS = {
    "resnet18": ({"stages": (1, 1), "width": 4}, (16, 16, 1)),
    "resnet50": ({"stages": (2, 1), "width": 4}, (16, 16, 1)),
    "densenet121": ({"stages": (1, 2), "width": 6, "growth_rate": 3, "bn_size": 2}, (16, 16, 1)),
    "mobilenet_v1": ({"stages": (1, 2), "alpha": 1 / 4}, (16, 16, 1)),
}


def net_of(model: str, num_classes: int = 5):
    options, shape = NETS[model]
    net = models.build(model, num_classes=num_classes, **options)
    return net, models.abstract_variables(net, shape)


def numbers(shape, seed: int, positive: bool = False) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.exp(0.3 * x) if positive else x


def fresh(shapes):
    """Return variables of these shapes with different values in each."""
    leaves, structure = jax.tree.flatten(shapes)
    return jax.tree.unflatten(structure, [numbers(leaf.shape, 900 + i, True) for i, leaf in enumerate(leaves)])


def put(tree, path: str, value: np.ndarray) -> None:
    *modules, leaf = path.split("/")
    for module in modules:
        tree = tree[module]
    assert tree[leaf].shape == value.shape, path
    tree[leaf] = value


class Writer:
    """A PyTorch state dict, and our variables filled by hand with the same values."""

    def __init__(self, shapes):
        self.state: dict[str, np.ndarray] = {}
        self.variables = fresh(shapes)

    def add(self, name: str, path: str, *shape: int, positive: bool = False) -> np.ndarray:
        self.state[name] = numbers(shape, len(self.state), positive)
        return self.state[name]

    def conv(self, name: str, path: str, out: int, into: int, size: int) -> None:
        put(
            self.variables["params"],
            f"{path}/kernel",
            self.add(f"{name}.weight", path, out, into, size, size).transpose(2, 3, 1, 0),
        )

    def norm(self, name: str, path: str, features: int) -> None:
        for theirs, ours in {"weight": "params/{}/scale", "bias": "params/{}/bias", "running_mean": "batch_stats/{}/mean",
                             "running_var": "batch_stats/{}/var"}.items():  # fmt: skip
            put(
                self.variables,
                ours.format(path),
                self.add(f"{name}.{theirs}", path, features, positive=theirs == "running_var"),
            )
        self.state[f"{name}.num_batches_tracked"] = np.array(7)

    def linear(self, name: str, path: str, out: int, into: int) -> None:
        kernel, bias = self.add(f"{name}.weight", path, out, into).T, self.add(f"{name}.bias", path, out)
        if path and self.variables["params"][path]["bias"].shape == bias.shape:
            put(self.variables["params"], f"{path}/kernel", kernel)
            put(self.variables["params"], f"{path}/bias", bias)


def torchvision_resnet(shapes, bottleneck: bool, classes: int) -> Writer:
    w, into = Writer(shapes), 4
    w.conv("conv1", "conv1", 4, 3, 7)
    w.norm("bn1", "bn1", 4)
    for layer, blocks in ((1, 2 if bottleneck else 1), (2, 1)):
        for block in range(blocks):
            name, path, width = f"layer{layer}.{block}", f"layer{layer}_{block}", 4 * layer
            sizes, out = ((1, 3, 1), 4 * width) if bottleneck else ((3, 3), width)
            for i, size in enumerate(sizes, 1):
                features = out if i == len(sizes) else width
                w.conv(f"{name}.conv{i}", f"{path}/conv{i}", features, into if i == 1 else width, size)
                w.norm(f"{name}.bn{i}", f"{path}/bn{i}", features)
            if into != out:
                w.conv(f"{name}.downsample.0", f"{path}/downsample_conv", out, into, 1)
                w.norm(f"{name}.downsample.1", f"{path}/downsample_bn", out)
            into = out
    w.linear("fc", "fc", classes, into)
    return w


def torchvision_densenet(shapes, classes: int) -> Writer:
    w, features = Writer(shapes), 6
    w.conv("features.conv0", "conv0", 6, 3, 7)
    w.norm("features.norm0", "norm0", 6)
    for block, layers in ((1, 1), (2, 2)):
        for layer in range(1, layers + 1):
            name, path = f"features.denseblock{block}.denselayer{layer}", f"denseblock{block}_denselayer{layer}"
            w.norm(f"{name}.norm1", f"{path}/norm1", features)
            w.conv(f"{name}.conv1", f"{path}/conv1", 6, features, 1)
            w.norm(f"{name}.norm2", f"{path}/norm2", 6)
            w.conv(f"{name}.conv2", f"{path}/conv2", 3, 6, 3)
            features += 3
        if block == 1:
            w.norm("features.transition1.norm", "transition1_norm", features)
            w.conv("features.transition1.conv", "transition1_conv", features // 2, features, 1)
            features //= 2
    w.norm("features.norm5", "norm5", features)
    w.linear("classifier", "fc", classes, features)
    return w


def timm_mobilenet(shapes) -> Writer:
    w, into = Writer(shapes), 8
    w.conv("conv_stem", "conv1", 8, 3, 3)
    w.norm("bn1", "conv1_bn", 8)
    for number, (name, out) in enumerate((("blocks.0.0", 16), ("blocks.1.0", 32), ("blocks.1.1", 32)), 1):
        w.conv(f"{name}.conv_dw", f"conv_dw_{number}", into, 1, 3)
        w.norm(f"{name}.bn1", f"conv_dw_{number}_bn", into)
        w.conv(f"{name}.conv_pw", f"conv_pw_{number}", out, into, 1)
        w.norm(f"{name}.bn2", f"conv_pw_{number}_bn", out)
        into = out
    w.linear("classifier", "", 1000, 32)
    return w


def written(model: str, classes: int = 5):
    """Return the network, and a `Writer` with a library's state dict and our variables with the same values."""
    net, shapes = net_of(model)
    if model == "mobilenet_v1":
        return net, timm_mobilenet(shapes)
    w = (
        torchvision_densenet(shapes, classes)
        if model == "densenet121"
        else torchvision_resnet(shapes, model == "resnet50", classes)
    )
    return net, w


def assert_equal(tree, expected) -> None:
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for path, leaf in jax.tree.leaves_with_path(tree):
        expected_leaf = dict(jax.tree.leaves_with_path(expected))[path]
        np.testing.assert_array_equal(leaf, expected_leaf, err_msg=str(path))


def refused(path: Path, sentence: str, model: str = "resnet18") -> None:
    """Assert that the small network of `model` cannot start from the file at `path`, with a reason in one line."""
    net, shapes = net_of(model)
    with pytest.raises(UserError, match=sentence) as caught:
        pretrained.transplant(str(path), fresh(shapes), net, ())
    assert "\n" not in str(caught.value)
