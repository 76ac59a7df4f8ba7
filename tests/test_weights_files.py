"""Files of weights: damaged and hostile files are refused and never executed; names on the hub and digests are checked."""

import hashlib
import pickle
import sys
import types
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import small_config
from safetensors.numpy import save_file
from state_dicts import assert_equal, fresh, net_of, refused, written

from genre_jax.console import UserError
from genre_jax.weights import files, pretrained


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    _, w = written("resnet18")
    save_file(w.state, path)
    whole = path.read_bytes()
    for broken in (b"", whole[:5], whole[:100], whole[:-1], bytes(200), b"\x93NUMPY" + whole):
        path.write_bytes(broken)
        refused(path, "model.safetensors is damaged or is not a .safetensors file of weights: ")
    save_file(w.state | {"bn1.bias": np.array([0, np.nan, 0, 0], np.float32)}, path)
    refused(path, "model.safetensors contains numbers that are not finite, in bn1.bias")
    for name in ("model.h5", "model.keras"):
        (tmp_path / name).write_bytes(whole)
        refused(tmp_path / name, f"{name} is damaged or is not a .{name[6:]} file of weights: ", "mobilenet_v1")


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("suffix", list(files.READERS))
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
        refused(
            path,
            "needs torch, which is not installed: where it is installed, this converts" if missing else "is damaged or is not",
        )
        assert not marker.exists()
    pickle.loads(payload)
    assert marker.exists(), "the payload is harmless, and this test too"


def test_external_data_is_not_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(400))
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.create_dataset("conv1/conv1/kernel", (100,), "f4", external=[(str(tmp_path / "secret"), 0, 400)])
    refused(tmp_path / "model.h5", "stores conv1/conv1/kernel in another file, and other files are not read", "mobilenet_v1")


def test_missing_libraries_are_reported(tmp_path, monkeypatch):
    for library, name, advice in (
        ("safetensors", "model.safetensors", "pip install safetensors"),
        (
            "torch",
            "model.pth",
            'where it is installed, this converts the file: python -c "import torch, safetensors.torch as s; ',
        ),
        ("h5py", "model.h5", "pip install h5py"),
    ):
        monkeypatch.setitem(sys.modules, library, None)
        (tmp_path / name).write_bytes(b"x")
        refused(tmp_path / name, f"{name} needs {library}, which is not installed: {advice}")


def test_a_hub_file_is_downloaded_and_its_digest_checked(tmp_path, monkeypatch, capsys):
    net, w = written("resnet18")
    save_file(w.state, tmp_path / "stored.safetensors")
    digest, requests = hashlib.sha256((tmp_path / "stored.safetensors").read_bytes()).hexdigest(), []

    def hf_hub_download(repo_id, filename, *, revision=None):
        requests.append((repo_id, filename, revision))
        if repo_id == "timm/none":
            raise OSError("404 Client Error\nmore")
        return str(tmp_path / "stored.safetensors")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download))
    start = fresh(net_of("resnet18")[1])
    for source in ("hf://timm/resnet18.a1_in1k", f"hf://me/nets@v1.0/small/net.safetensors#sha256={digest}"):
        assert_equal(pretrained.transplant(source, start, net, ()), w.variables)
        assert f"weights of {source} (layout of torchvision and timm, sha256 {digest})" in capsys.readouterr().out
    assert requests == [("timm/resnet18.a1_in1k", "model.safetensors", None), ("me/nets", "small/net.safetensors", "v1.0")]
    refused(f"hf://timm/resnet18.a1_in1k#sha256={'0' * 64}", f"has sha256 {digest}, and {'0' * 64} is required")
    refused("hf://timm/none", "^hf://timm/none could not be downloaded: 404 Client Error$")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("hf://timm/resnet18.a1_in1k", "needs huggingface_hub, which is not installed: pip install huggingface_hub, or")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "nowhere.safetensors",
            "'nowhere.safetensors' is not a source of weights: give a run's workdir, one of musicnn, musicnn-mtt, musicnn-vgg, musicnn-vgg-mtt, or a file or hf://owner/name",
        ),
        ("hf://owner", "'hf://owner' is not a source of weights"),
        (
            "hf://owner/name/model.bin",
            "a file of weights must end in .safetensors, .pth, .pt, .h5, .keras, and 'hf://owner/name/model.bin' does",
        ),
        ("hf://owner/name#sha256=12", "the sha256 in 'hf://owner/name#sha256=12' must be 64 hexadecimal digits, and is '12'"),
    ],
)
def test_malformed_sources_are_refused_before_data_is_read(tones, source, sentence):
    with pytest.raises(UserError, match=sentence):
        small_config(tones, "resnet", init_from=source)
