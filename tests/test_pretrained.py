"""Weights from elsewhere: files of torchvision, timm and Keras give the numbers they hold, hostile ones a sentence."""

import hashlib
import json
import pickle
import sys
import types
import zipfile
from importlib.util import find_spec
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CLASSES, small_config
from safetensors.numpy import load_file, save_file

import genre_jax
from genre_jax import config as configs
from genre_jax import converters, models, pretrained, train, weight_files
from genre_jax.checkpoint import Checkpoints
from genre_jax.console import UserError

# Small nets, and the inputs they are built for here: (model, options, shape).
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
    """Variables of these shapes, none of them like another's."""
    leaves, structure = jax.tree.flatten(shapes)
    return jax.tree.unflatten(structure, [numbers(leaf.shape, 900 + i, True) for i, leaf in enumerate(leaves)])


def put(tree, path: str, value: np.ndarray) -> None:
    *modules, leaf = path.split("/")
    for module in modules:
        tree = tree[module]
    assert tree[leaf].shape == value.shape, path
    tree[leaf] = value


class Writer:
    """A PyTorch state dict and, put in by hand, the same numbers in variables of ours."""

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
    """The network, the state dict of a library and our variables with its numbers."""
    net, shapes = net_of(model)
    if model == "mobilenet_v1":
        return net, timm_mobilenet(shapes)
    w = (
        torchvision_densenet(shapes, classes)
        if model == "densenet121"
        else torchvision_resnet(shapes, model == "resnet50", classes)
    )
    return net, w


def assert_equal(one, other) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for path, leaf in jax.tree.leaves_with_path(one):
        other_leaf = dict(jax.tree.leaves_with_path(other))[path]
        np.testing.assert_array_equal(leaf, other_leaf, err_msg=str(path))


# ---------------------------------------------------------------- files of other libraries


@pytest.mark.parametrize("model", NETS)
def test_a_state_dict_becomes_the_numbers_put_in_by_hand(tmp_path, model, capsys):
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
        assert f"(as timm have them, sha256 {digest}): {count - 6} of {count} leaves loaded; fresh: params/fc/bias, " in said
        assert (
            "params/hidden/kernel, params/stem/bias, params/stem/kernel; left over: classifier.bias, classifier.weight" in said
        )
    else:
        assert f"(as torchvision and timm have them, sha256 {digest}): {count - 2} of {count} leaves loaded; " in said
        assert "fresh: params/stem/bias, params/stem/kernel; left over: none" in said


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
    assert f"left over: {head}.bias, {head}.weight" in said


def test_names_of_published_files_and_of_parallel_training_are_known(tmp_path):
    """torchvision's DenseNet files say norm.1 where its code says norm1; DataParallel puts "module." in front."""
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
    """Where Keras puts a layer's variable; `number` counts the layers of its class."""
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


# ---------------------------------------------------------------- files that are refused


def refused(path: Path, sentence: str, model: str = "resnet18") -> None:
    net, shapes = net_of(model)
    with pytest.raises(UserError, match=sentence) as caught:
        pretrained.transplant(str(path), fresh(shapes), net, ())
    assert "\n" not in str(caught.value)


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
    refused(path, "does not fit: it holds no variable of a ResNet under the names of torchvision and timm, but classifier.bias")
    refused(path, "holds no variable of a MobileNet under the names of timm or Keras, but classifier.bias", "mobilenet_v1")
    save_file(written("resnet50")[1].state, path)
    refused(path, r"does not fit ResNet: .* of another shape \(")
    net = models.build("snn", num_classes=3)
    with pytest.raises(UserError, match="files of other libraries are read for ResNet, DenseNet, MobileNet; Snn starts from"):
        pretrained.transplant(str(path), fresh(models.abstract_variables(net)), net, ())


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    _, w = written("resnet18")
    save_file(w.state, path)
    whole = path.read_bytes()
    for broken in (b"", whole[:5], whole[:100], whole[:-1], bytes(200), b"\x93NUMPY" + whole):
        path.write_bytes(broken)
        refused(path, "model.safetensors is damaged, or is no .safetensors file of weights alone: ")
    save_file(w.state | {"bn1.bias": np.array([0, np.nan, 0, 0], np.float32)}, path)
    refused(path, "model.safetensors holds numbers that are not finite, in bn1.bias")
    for name in ("model.h5", "model.keras"):
        (tmp_path / name).write_bytes(whole)
        refused(tmp_path / name, f"{name} is damaged, or is no .{name[6:]} file of weights alone: ", "mobilenet_v1")


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("suffix", list(weight_files.READERS))
def test_nothing_in_a_file_is_executed(tmp_path, suffix):
    marker, path = tmp_path / "executed", tmp_path / f"model{suffix}"
    payload = pickle.dumps({"conv1.weight": Evil(marker)})
    archive = tmp_path / "archive"
    with zipfile.ZipFile(archive, "w") as file:  # as torch.save writes it
        for name, content in {"data.pkl": payload, "version": b"3\n", "byteorder": b"little"}.items():
            file.writestr(f"model/{name}", content)
    for content in (payload, archive.read_bytes()):
        path.write_bytes(content)
        missing = suffix in (".pth", ".pt") and not find_spec("torch")
        refused(path, "needs torch, which is not installed: where it is, this converts" if missing else "is damaged, or is no")
        assert not marker.exists()
    pickle.loads(payload)
    assert marker.exists(), "the payload is harmless, and this test too"


def test_numbers_kept_in_another_file_are_not_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(400))
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.create_dataset("conv1/conv1/kernel", (100,), "f4", external=[(str(tmp_path / "secret"), 0, 400)])
    refused(tmp_path / "model.h5", "keeps conv1/conv1/kernel in another file, which is not read", "mobilenet_v1")


def test_a_missing_library_is_a_sentence(tmp_path, monkeypatch):
    for library, name, advice in (
        ("safetensors", "model.safetensors", "pip install safetensors"),
        ("torch", "model.pth", 'where it is, this converts the file: python -c "import torch, safetensors.torch as s; '),
        ("h5py", "model.h5", "pip install h5py"),
    ):
        monkeypatch.setitem(sys.modules, library, None)
        (tmp_path / name).write_bytes(b"x")
        refused(tmp_path / name, f"{name} needs {library}, which is not installed: {advice}")


# ---------------------------------------------------------------- where weights come from


def test_a_hub_name_is_fetched_and_its_digest_checked(tmp_path, monkeypatch, capsys):
    net, w = written("resnet18")
    save_file(w.state, tmp_path / "stored.safetensors")
    digest, asked = hashlib.sha256((tmp_path / "stored.safetensors").read_bytes()).hexdigest(), []

    def hf_hub_download(repo_id, filename, *, revision=None):
        asked.append((repo_id, filename, revision))
        if repo_id == "timm/none":
            raise OSError("404 Client Error\nmore")
        return str(tmp_path / "stored.safetensors")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download))
    start = fresh(net_of("resnet18")[1])
    for source in ("hf://timm/resnet18.a1_in1k", f"hf://me/nets@v1.0/small/net.safetensors#sha256={digest}"):
        assert_equal(pretrained.transplant(source, start, net, ()), w.variables)
        assert f"weights of {source} (as torchvision and timm have them, sha256 {digest})" in capsys.readouterr().out
    assert asked == [("timm/resnet18.a1_in1k", "model.safetensors", None), ("me/nets", "small/net.safetensors", "v1.0")]
    refused(f"hf://timm/resnet18.a1_in1k#sha256={'0' * 64}", f"has sha256 {digest}, and {'0' * 64} is required")
    refused("hf://timm/none", "^hf://timm/none could not be fetched: 404 Client Error$")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("hf://timm/resnet18.a1_in1k", "needs huggingface_hub, which is not installed: pip install huggingface_hub, or")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nowhere.safetensors", "'nowhere.safetensors' names no weights: give a run's workdir, a file, or hf://owner/name"),
        ("hf://owner", "'hf://owner' names no weights"),
        (
            "hf://owner/name/model.bin",
            "files that end in .safetensors, .pth, .pt, .h5, .keras, and 'hf://owner/name/model.bin' does",
        ),
        ("hf://owner/name#sha256=12", "must give its sha256 as 64 hexadecimal digits, and gives '12'"),
    ],
)
def test_names_that_are_refused_before_any_data_is_read(tones, source, sentence):
    with pytest.raises(UserError, match=sentence):
        small_config(tones, "resnet", init_from=source)


# ---------------------------------------------------------------- runs


def saved_run(config, workdir: Path, step: int = 1):
    """A workdir with the checkpoint of `config`'s first state at `step`, and that state."""
    run = train.Run(config)
    state = jax.device_get(run.initial_state()).replace(step=np.int32(step))
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(configs.to_json(config)))
    (workdir / "labels.json").write_text(json.dumps(run.splits["train"].classes))
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(step, state)
    checkpoints.close()
    return run, state


@pytest.fixture(scope="module")
def donor(tones, tmp_path_factory):
    """(workdir, file of `save_pretrained`, weights) of a run with a fitted front end."""
    folder = tmp_path_factory.mktemp("donor")
    config = small_config(tones, "resnet", model__stages=[1], frontend__scale="standardise", devices=1, augment__gain_cap=0.3)
    _, state = saved_run(config, folder / "run")
    return folder / "run", genre_jax.save_pretrained(folder / "run", folder / "tones.safetensors"), state


def test_save_pretrained_and_load_predict_the_same(donor, tones):
    workdir, path, _ = donor
    one, other = genre_jax.load(workdir), genre_jax.load(path)
    assert (other.labels, other.sample_rate, other.samples) == (CLASSES, 8000, 2000)
    assert_equal(other._variables, one._variables)
    wave = numbers((5000,), 1) / 9
    assert other.predict(wave, 8000) == one.predict(wave, 8000)
    resampled = other.tags(wave, 16000)
    assert resampled.seconds == pytest.approx(5000 / 16000)
    with pytest.raises(UserError, match="a waveform needs its sample_rate in Hz, 1000 to 768000, and was given None"):
        other.predict(wave)
    with weight_files._library("safetensors", path, "").safe_open(path, framework="numpy") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    assert metadata["labels"] == list(CLASSES)
    assert metadata["sample_rate"] == 8000
    assert metadata["frontend"]["name"] == "log_mel_image"
    assert metadata["config"]["model"]["stages"] == [1]
    assert str(tones) not in json.dumps(metadata), "the places of one's own data are nobody's business"


def test_a_file_of_save_pretrained_that_was_changed_is_refused(donor, tmp_path):
    _, path, _ = donor
    arrays, metadata = weight_files.read(path)
    changed = tmp_path / "changed.safetensors"
    for change, sentence in (
        ({"labels": '["a", "b"]'}, "does not hold the weights of its own config: params/fc/bias, params/fc/kernel differ"),
        ({"labels": "["}, "holds a config or labels that cannot be used: Expecting value"),
        ({"config": "{}"}, "holds a config or labels that cannot be used: 'name'"),
        ({"config": metadata["config"].replace("resnet18", "resnet81")}, "cannot be used: unknown model 'resnet81'"),
    ):
        save_file(arrays, changed, metadata | change)
        with pytest.raises(UserError, match=sentence):
            genre_jax.load(changed)
    save_file(arrays, changed)
    with pytest.raises(UserError, match="was not written by genre_jax.save_pretrained: it lacks config and labels"):
        genre_jax.load(changed)
    with pytest.raises(UserError, match="a trained network is saved as .safetensors, and 'net.pth' ends in '.pth'"):
        genre_jax.save_pretrained(donor[0], "net.pth")
    assert load_file(path).keys() == arrays.keys()


def test_a_run_starts_from_a_file_as_from_its_workdir(donor, tones, capsys):
    workdir, path, state = donor
    states = []
    for source in (workdir, path):
        config = small_config(tones, "resnet", model__stages=[1], seed=5, devices=1, init_from=str(source))
        states.append(jax.device_get(train.Run(config).initial_state()))
        assert "leaves loaded; fresh: none; left over: none" in capsys.readouterr().out
    for each in states:
        assert_equal(each.params, state.params)
        assert set(each.batch_stats) == set(state.batch_stats) - {"frontend"}
    net, variables = models.build("resnet18", num_classes=4, stages=(1,), width=4), states[0].variables()
    renamed = pretrained.transplant(str(path), jax.tree.map(np.zeros_like, variables), net, ("a", "b", "c", "d"))
    assert "fresh: params/fc/bias, params/fc/kernel; left over: params/fc/bias, params/fc/kernel" in capsys.readouterr().out
    assert not renamed["params"]["fc"]["kernel"].any() and renamed["params"]["conv1"]["kernel"].any()


def test_init_from_a_torchvision_file_gives_its_logits_in_a_run(tones, tmp_path):
    net = models.build("resnet18", num_classes=4, stages=(1, 1), width=4)
    w = torchvision_resnet(models.abstract_variables(net, (16, 16, 1)), False, 1000)
    save_file(w.state, tmp_path / "model.safetensors")
    config = small_config(tones, "resnet", devices=1, init_from=str(tmp_path / "model.safetensors"))
    run = train.Run(config)
    state = run.initial_state()
    ours = jax.device_get(state)
    w.variables["params"]["fc"], w.variables["params"]["stem"] = ours.params["fc"], ours.params["stem"]
    assert_equal(ours.variables(), w.variables)
    batch = run.devices.shard(run.batches(0))
    by_hand = run.devices.replicate(run.state_of(w.variables))
    np.testing.assert_array_equal(*(run.eval_step(s.variables(), run.constants, batch)["logits"] for s in (state, by_hand)))


def test_resuming_goes_before_init_from(donor, tones, tmp_path, capsys):
    """A frozen run, killed on the way to its release, goes on from its own checkpoint, its optimiser's state included."""
    options = {"model__stages": [1], "devices": 1, "freeze__patterns": ["*", "!fc/*"], "freeze__until": "3 steps"}
    options |= {"train__duration": "5 steps", "train__evaluate_every": "5 steps", "init_from": str(donor[1])}
    config = small_config(tones, "resnet", **options)
    whole = train.train_and_evaluate(config, tmp_path / "whole")
    assert "weights of" in capsys.readouterr().out
    run = train.Run(config)
    state = run.initial_state()
    for step in range(2):
        state, _ = run.train_step(state, run.constants, run.devices.shard(run.batches(step)))
    capsys.readouterr()
    checkpoints = Checkpoints(tmp_path / "killed/checkpoints")
    checkpoints.save(2, state)
    checkpoints.close()
    resumed = train.train_and_evaluate(config, tmp_path / "killed")
    said = capsys.readouterr().out
    assert "resuming" in said and "weights of" not in said
    for key in ("clip", "track"):
        assert resumed[key] == whole[key]


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
    start = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    loaded = pretrained.transplant(str(path), start, net, ())
    image = numbers((2, 64, 64, 1), 0)
    ours = jax.jit(lambda v: net.apply(v, image)[1]["embedding"])(loaded)
    trunk = keras.Model(theirs.input, next(layer for layer in theirs.layers if "average_pooling" in layer.name).output)
    expected = np.asarray(trunk(np.repeat(image, 3, -1))).reshape(2, -1)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("torch") and find_spec("timm")), reason="needs torch, torchvision and timm")
@pytest.mark.parametrize("model", ["resnet18", "resnet50", "densenet121", "mobilenet_v1"])
def test_what_torch_saves_is_read(tmp_path, model):
    """timm's networks through .pth: the same logits (MobileNet, which timm pads otherwise: every leaf loaded)."""
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    name = "mobilenetv1_100" if model == "mobilenet_v1" else model
    theirs = timm.create_model(name, pretrained=False).eval()
    torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, tmp_path / "model.pth")
    options = {"alpha": 1.0} if model == "mobilenet_v1" else {}
    net = models.build(model, num_classes=1000, instance_norm=False, **options)
    start = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    loaded = pretrained.transplant(str(tmp_path / "model.pth"), start, net, ())
    if model == "mobilenet_v1":
        return
    loaded["params"]["stem"] = {"kernel": np.ones((1, 3), np.float32), "bias": np.zeros(3, np.float32)}
    image = numbers((2, 64, 64, 1), 0)
    ours = jax.jit(lambda v: net.apply(v, image)[0])(loaded)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(np.repeat(image, 3, -1).transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_every_layout_names_every_leaf_of_the_full_networks():
    """No two leaves share a name."""
    for model in ("resnet50", "densenet121", "mobilenet_v1"):
        net = models.build(model, num_classes=2)
        paths = list(flax.traverse_util.flatten_dict(models.abstract_variables(net)))
        for layout in converters.LAYOUTS[type(net)]:
            names = [layout.name(path) for path in paths if path[1] not in ("stem", *layout.absent)]
            assert len(names) == len(set(names)) > 130
