"""Files of torchvision, timm and Keras load with equal numbers; entries that do not fit are listed."""

import hashlib
import zipfile
from importlib.util import find_spec

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from state_dicts import NETS, assert_equal, fresh, net_of, numbers, put, refused, written

from genre_jax import models
from genre_jax.console import UserError
from genre_jax.weights import layouts, pretrained


@pytest.mark.parametrize("model", NETS)
def test_a_state_dict_gives_the_variables_set_by_hand(tmp_path, model, capsys):
    net, w = written(model)
    save_file(w.state, tmp_path / "model.safetensors")
    start = fresh(net_of(model)[1])
    loaded = pretrained.transplant(str(tmp_path / "model.safetensors"), start, net, ())
    assert_equal(loaded, w.variables)
    forward = jax.jit(lambda variables: net.apply(variables, jnp.asarray(numbers((2, *NETS[model][1]), 5)))[0])
    logits = forward(loaded)
    np.testing.assert_array_equal(logits, forward(w.variables))
    assert np.abs(logits - forward(start)).max() > 1e-3
    count = len(jax.tree.leaves(loaded))
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    said = capsys.readouterr().out
    if model == "mobilenet_v1":
        assert f"(layout of timm, sha256 {digest}): {count - 6} of {count} leaves loaded; fresh: params/fc/bias, " in said
        assert "params/hidden/kernel, params/stem/bias, params/stem/kernel; unused: classifier.bias, classifier.weight" in said
    else:
        assert f"(layout of torchvision and timm, sha256 {digest}): {count - 2} of {count} leaves loaded; " in said
        assert "fresh: params/stem/bias, params/stem/kernel; unused: none" in said


@pytest.mark.parametrize("model", ["resnet18", "densenet121"])
def test_the_head_is_replaced_where_the_class_count_differs(tmp_path, model, capsys):
    net, w = written(model, classes=1000)
    save_file(w.state, tmp_path / "model.safetensors")
    start = fresh(net_of(model)[1])
    loaded = pretrained.transplant(str(tmp_path / "model.safetensors"), start, net, ())
    assert_equal(loaded["params"]["fc"], start["params"]["fc"])
    assert_equal(loaded["batch_stats"], w.variables["batch_stats"])
    head = "fc" if model == "resnet18" else "classifier"
    said = capsys.readouterr().out
    assert "fresh: params/fc/bias, params/fc/kernel, params/stem/bias, params/stem/kernel" in said
    assert f"unused: {head}.bias, {head}.weight" in said


def test_names_of_published_files_and_of_parallel_training_are_known(tmp_path):
    """torchvision's DenseNet files use norm.1 for the norm1 of its code; DataParallel adds the prefix "module."."""
    net, w = written("densenet121")
    old = {f"module.{name.replace('norm1', 'norm.1').replace('conv2', 'conv.2')}": value for name, value in w.state.items()}
    assert any(".norm.1." in name for name in old)
    save_file(old, tmp_path / "old.safetensors")
    assert_equal(
        pretrained.transplant(str(tmp_path / "old.safetensors"), fresh(net_of("densenet121")[1]), net, ()), w.variables
    )


def test_half_precision_is_widened(tmp_path):
    net, w = written("resnet18")
    for dtype in (np.float16, jnp.bfloat16):
        path = tmp_path / "half.safetensors"
        save_file({name: value.astype(dtype) for name, value in w.state.items() if value.ndim}, path)
        loaded = pretrained.transplant(str(path), fresh(net_of("resnet18")[1]), net, ())
        expected = w.variables["params"]["conv1"]["kernel"].astype(dtype).astype(np.float32)
        assert loaded["params"]["conv1"]["kernel"].dtype == np.float32
        np.testing.assert_array_equal(loaded["params"]["conv1"]["kernel"], expected)


KERAS = ("kernel", "gamma", "beta", "moving_mean", "moving_variance")


def keras_names(generation: str, layer: str, leaf: str, number: int) -> str:
    """The name of a layer's variable in a Keras file; `number` counts the layers of its class."""
    if generation == "keras 3":
        kind = "batch_normalization" if layer.endswith("_bn") else "depthwise_conv2d" if "_dw_" in layer else "conv2d"
        variable = KERAS.index(leaf) - 1 if layer.endswith("_bn") else 0
        return f"layers/{kind}{f'_{number}' if number else ''}/vars/{variable}"
    old = "depthwise_kernel" if "_dw_" in layer and leaf == "kernel" else leaf
    return {"weights": f"{layer}/{layer}/{old}:0", "whole model": f"model_weights/{layer}/{layer}/{leaf}"}[generation]


@pytest.mark.parametrize("generation", ["weights", "whole model", "keras 3"])
def test_keras_files_of_three_generations(tmp_path, generation):
    h5py = pytest.importorskip("h5py")
    net, shapes = net_of("mobilenet_v1")
    expected, seed = fresh(shapes), 0
    layers = ["conv1", *(f"conv_{kind}_{n}" for n in (1, 2, 3) for kind in ("dw", "pw"))]
    path = tmp_path / "model.weights.h5"
    seen: dict[str, int] = {}
    with h5py.File(path, "w") as file:
        for layer in [name for each in layers for name in (each, f"{each}_bn")]:
            kind = layer[-3:] if layer.endswith("_bn") else "dw" if "_dw_" in layer else "conv"
            number = seen[kind] = seen.get(kind, -1) + 1
            for leaf in KERAS[1:] if kind == "_bn" else KERAS[:1]:
                collection = "batch_stats" if leaf.startswith("moving") else "params"
                ours = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}.get(leaf, leaf)
                shape, seed = expected[collection][layer][ours].shape, seed + 1
                value = numbers(shape, seed, leaf == "moving_variance")
                put(expected[collection], f"{layer}/{ours}", value)
                file[keras_names(generation, layer, leaf, number)] = value.swapaxes(-1, -2) if kind == "dw" else value
        file["optimizer_weights/adam/m/conv1/kernel:0"] = np.ones((3, 3, 3, 8), np.float32)
        file["conv_preds/conv_preds/kernel:0"] = np.ones((1, 1, 1024, 1000), np.float32)
        file["elsewhere"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
    assert_equal(pretrained.transplant(str(path), fresh(shapes), net, ()), expected)
    if generation == "keras 3":
        with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
            archive.write(path, "model.weights.h5")
        assert_equal(pretrained.transplant(str(tmp_path / "model.keras"), fresh(shapes), net, ()), expected)


def test_missing_leaves_and_wrong_shapes_are_listed(tmp_path):
    path = tmp_path / "model.safetensors"
    _, w = written("resnet18")
    lacking = {name: value for name, value in w.state.items() if not name.startswith("layer1.0.")}
    save_file(lacking, path)
    refused(path, r"does not fit ResNet: 10 missing \(layer1.0.bn1.running_mean, layer1.0.bn1.running_var, .* and 6 more\)$")
    save_file(w.state | {"conv1.weight": numbers((4, 3, 5, 5), 0)}, path)
    refused(path, r"1 of another shape \(conv1.weight \(5, 5, 3, 4\) for params/conv1/kernel \(7, 7, 3, 4\)\)$")
    save_file(w.state | {"layer2.1.conv1.weight": numbers((8, 8, 3, 3), 0)}, path)
    refused(path, r"does not fit ResNet: 1 not in the network \(layer2.1.conv1.weight\)$")
    save_file(w.state | {"fc.weight": numbers((1000, 12), 0), "fc.bias": numbers((1000,), 1)}, path)
    refused(path, r"1 of another shape \(fc.weight \(12, 1000\) for params/fc/kernel \(8, 5\)\)$")


def test_another_architecture_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    _, w = written("densenet121")
    save_file(w.state, path)
    refused(
        path,
        "does not fit: it contains no variable of a ResNet under the names of torchvision and timm, and begins with classifier.bias",
    )
    refused(
        path,
        "contains no variable of a MobileNet under the names of timm or Keras, and begins with classifier.bias",
        "mobilenet_v1",
    )
    save_file(written("resnet50")[1].state, path)
    refused(path, r"does not fit ResNet: .* of another shape \(")
    net = models.build("snn", num_classes=3)
    with pytest.raises(
        UserError, match="files of other libraries can initialise ResNet, DenseNet, MobileNet; Snn can start only"
    ):
        pretrained.transplant(str(path), fresh(models.abstract_variables(net)), net, ())


def test_every_layout_names_every_leaf_of_the_full_networks():
    """No two leaves share a name."""
    for model in ("resnet50", "densenet121", "mobilenet_v1"):
        net = models.build(model, num_classes=2)
        paths = list(flax.traverse_util.flatten_dict(models.abstract_variables(net)))
        for layout in layouts.LAYOUTS[type(net)]:
            names = [layout.name(path) for path in paths if path[1] not in ("stem", *layout.absent)]
            assert len(names) == len(set(names)) > 130


# ---------------------------------------------------------------- the libraries themselves


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_what_keras_saves_is_read(tmp_path, suffix):
    keras = pytest.importorskip("keras")
    theirs = keras.applications.MobileNet(alpha=0.25, weights=None, input_shape=(64, 64, 3), classes=7)
    theirs.compile("adam", "categorical_crossentropy")
    path = tmp_path / f"model{suffix}"
    theirs.save_weights(path) if suffix == ".weights.h5" else theirs.save(path)
    net = models.build("mobilenet_v1", num_classes=3, instance_norm=False)
    start = fresh(models.abstract_variables(net, (64, 64, 1)))
    loaded = pretrained.transplant(str(path), start, net, ())
    loaded["params"]["stem"] = {"kernel": np.ones((1, 3), np.float32), "bias": np.zeros(3, np.float32)}
    image = numbers((2, 64, 64, 1), 0)
    ours = jax.jit(lambda v: net.apply(v, image)[1]["embedding"])(loaded)
    trunk = keras.Model(theirs.input, next(layer for layer in theirs.layers if "average_pooling" in layer.name).output)
    expected = np.asarray(trunk(np.repeat(image, 3, -1))).reshape(2, -1)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("torch") and find_spec("timm")), reason="needs torch, torchvision and timm")
@pytest.mark.parametrize("model", ["resnet50", "densenet121", "mobilenet_v1"])
def test_what_torch_saves_is_read(tmp_path, model):
    """timm's networks through .pth give equal logits. MobileNet has another head here, therefore its embedding is compared."""
    import torch

    from genre_jax.bench import torch_networks

    torch_networks.import_torchvision()
    import timm

    name = "mobilenetv1_100" if model == "mobilenet_v1" else model
    theirs = timm.create_model(name, pretrained=False).eval()
    torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, tmp_path / "model.pth")
    options = {"alpha": 1.0, "library": "timm"} if model == "mobilenet_v1" else {}
    net = models.build(model, num_classes=1000, instance_norm=False, **options)
    start = fresh(models.abstract_variables(net, (64, 64, 1)))
    loaded = pretrained.transplant(str(tmp_path / "model.pth"), start, net, ())
    loaded["params"]["stem"] = {"kernel": np.ones((1, 3), np.float32), "bias": np.zeros(3, np.float32)}
    image = numbers((2, 64, 64, 1), 0)
    logits, kept = jax.jit(lambda v: net.apply(v, image))(loaded)
    ours = kept["embedding"] if model == "mobilenet_v1" else logits
    with torch.no_grad():
        features = theirs.forward_features(torch.from_numpy(np.repeat(image, 3, -1).transpose(0, 3, 1, 2)))
        expected = theirs.forward_head(features, pre_logits=model == "mobilenet_v1").numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
