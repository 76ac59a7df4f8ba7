"""The blocks of docs/serving.md: the apps answer, the clients get the probabilities of the file, the configs fit their schemas."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import audio_files
import inference_server
import numpy as np
import pytest
import soundfile
import yaml
from conftest import ROOT
from exported_file import HOP, RATE, SAMPLES, windows_of, write_model

import genre_jax

pytest.importorskip("onnx", reason="the exported file of these tests is made with the package onnx")
pytest.importorskip("onnxruntime", reason="an exported file needs onnxruntime")

PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SCRIPTS = {re.match(r"# (\S+)", text)[1]: text for kind, text in BLOCKS if kind == "python"}


def blocks(kind: str) -> list[str]:
    return [text for name, text in BLOCKS if name == kind]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the scripts of the page, model.onnx, and songs."""
    folder = tmp_path_factory.mktemp("serving")
    for name, text in SCRIPTS.items():
        (folder / name).write_text(text)
    write_model(folder / "model.onnx")
    rng = np.random.default_rng(1)
    for name, seconds, rate in (
        ("short", 1.5, RATE),
        ("window", SAMPLES / RATE, RATE),
        ("song", 20.2, RATE),
        ("cd", 5, 44_100),
    ):
        soundfile.write(folder / f"{name}.wav", rng.uniform(-0.3, 0.3, (round(seconds * rate), 2)), rate)
    audio_files.make(folder, "m4a", "phone")
    soundfile.write(folder / "loud.wav", 3 * rng.uniform(-0.5, 0.5, 4 * RATE).astype(np.float32), RATE, subtype="FLOAT")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    """The folder, as the current one, whose scripts can be imported."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in SCRIPTS:
        sys.modules.pop(name.removesuffix(".py"), None)


def run_script(name: str, *arguments: str, capsys) -> str:
    before, sys.argv = sys.argv, [name, *map(str, arguments)]
    try:
        runpy.run_path(name, run_name="__main__")
    finally:
        sys.argv = before
    return capsys.readouterr().out


def test_every_block_of_the_page_is_tested():
    assert set(SCRIPTS) == {"app.py", "ray_app.py", "windows.py", "about.py", "triton_client.py", "v2_client.py"}
    assert {kind: len(blocks(kind)) for kind in {kind for kind, _ in BLOCKS}} == {
        "python": 6, "protobuf": 2, "yaml": 1, "dockerfile": 1, "": 5,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["short", "window", "song", "loud"])
def test_the_windows_are_those_of_genre_jax(here, name):
    from windows import pcm

    ours = windows_of(here / f"{name}.wav")
    np.testing.assert_array_equal(pcm(f"{name}.wav", RATE, SAMPLES, HOP), ours)


def test_the_windows_of_a_resampled_song_differ_by_rounding(here):
    from windows import pcm

    ours, theirs = windows_of(here / "cd.wav"), pcm("cd.wav", RATE, SAMPLES, HOP)
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_the_facts_in_the_file_are_printed(here, capsys):
    out = run_script("about.py", capsys=capsys)
    assert "'sample_rate': 16000, 'samples': 48128, 'hop': 47872, 'inputs': ['audio'], 'conditioning': []" in out
    assert str(["batch", 3]) in out


# ---------------------------------------------------------------- servers of tensors


@pytest.mark.parametrize("script", ["triton_client.py", "v2_client.py"])
def test_clients_get_the_probabilities_of_the_file(here, script, capsys):
    import onnxruntime

    if script.startswith("triton"):
        pytest.importorskip(
            "tritonclient.http", reason="the client of Triton needs: pip install 'tritonclient[http]'", exc_type=Exception
        )
    session = onnxruntime.InferenceSession("model.onnx")
    expected = session.run(["probabilities"], {"audio": windows_of(here / "song.wav")})[0].mean(0)
    with inference_server.serve(here / "model.onnx") as (address, batches):
        answer = json.loads(run_script(script, address, "song.wav", capsys=capsys))
    np.testing.assert_allclose(answer, expected, atol=1e-6)
    assert batches == [7]


def test_clients_split_long_songs(here, capsys, monkeypatch):
    import windows

    monkeypatch.setattr(windows, "pcm", lambda *_, **__: np.zeros((19, SAMPLES), np.int16))
    with inference_server.serve(here / "model.onnx") as (address, batches):
        run_script("v2_client.py", address, "song.wav", capsys=capsys)
    assert batches == [8, 8, 3]


def parsed(text: str):
    """A model configuration of Triton; a field that its schema lacks is an error."""
    config = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2",
        reason="the schema of Triton needs: pip install 'tritonclient[grpc]'",
        exc_type=Exception,
    )
    from google.protobuf import text_format

    return text_format.Parse(text, config.ModelConfig()), config


def test_the_configuration_of_triton_fits_the_file(folder):
    import onnxruntime

    text, more = blocks("protobuf")
    config, schema = parsed(text)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    types = {"tensor(int16)": schema.TYPE_INT16, "tensor(float)": schema.TYPE_FP32}
    for ours, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [(part.name, part.data_type) for part in ours] == [(part.name, types[part.type]) for part in theirs]
        assert all(len(part.shape) == 1 + len(mine.dims) for mine, part in zip(ours, theirs, strict=True)), "and the batch"
    layout = next(text for text in blocks("") if text.startswith("models\n"))
    assert config.backend == "onnxruntime" and f"── {config.name}\n" in layout
    assert config.max_batch_size == 16 and config.HasField("dynamic_batching")
    maximum = parsed(text + more)[0].input[1]
    assert (maximum.name, list(maximum.dims), list(maximum.reshape.shape)) == ("maximum", [1], [])
    assert maximum.HasField("reshape")


@pytest.mark.usefixtures("published_weights")
def test_the_numbers_on_the_page_are_those_of_the_published_taggers():
    config, _ = parsed(blocks("protobuf")[0])
    both = genre_jax.load()
    tags = both.tags(np.random.default_rng(0).uniform(-0.1, 0.1, both.samples), both.sample_rate)
    (samples,), ((labels,), (dimensions,)) = config.input[0].dims, [part.dims for part in config.output]
    assert (samples, labels, dimensions) == (both.samples, len(both.labels), tags.embeddings.shape[1])
    numbers = f"sample_rate={both.sample_rate:_}, samples={both.samples:_}, hop={both.network.hop:_})"
    assert all(numbers in SCRIPTS[name] for name in ("triton_client.py", "v2_client.py"))


def test_the_service_of_kserve():
    (text,) = blocks("yaml")
    service = yaml.safe_load(text)
    model = service["spec"]["predictor"]["model"]
    assert (service["kind"], model["modelFormat"]) == ("InferenceService", {"name": "onnx"})
    assert f"/v2/models/{service['metadata']['name']}/infer" in SCRIPTS["v2_client.py"]


# ---------------------------------------------------------------- servers of songs


def test_the_app_answers_with_the_tags_of_a_song(here):
    pytest.importorskip("fastapi", reason="the app needs: pip install fastapi python-multipart httpx")
    from fastapi.testclient import TestClient

    app = runpy.run_path("app.py")
    client = TestClient(app["app"])
    (curl,) = (line for block in blocks("") for line in block.splitlines() if line.startswith("curl --form"))
    _, _, form, url = shlex.split(curl)
    field, path = form.partition("=")[0], url.removeprefix("http://127.0.0.1:8000")
    answer = client.post(path, files={field: (here / "song.wav").read_bytes()})
    expected = genre_jax.load("model.onnx").tags(here / "song.wav")
    assert answer.status_code == 200
    assert answer.json() == {"seconds": expected.seconds, "tags": expected.overall()}
    broken = client.post(path, files={field: b"RIFF of nothing"})
    assert broken.status_code == 422 and broken.json()["detail"].startswith("the audio: ")
    assert client.post(path, files={"other": b""}).status_code == 422
    app["tags"].__globals__["LIMIT"] = 1_000
    assert client.post(path, files={field: bytes(1_001)}).status_code == 413


def test_the_app_of_ray_answers_with_the_tags_of_a_song(here):
    """The class alone, without a cluster."""
    pytest.importorskip("ray.serve", reason="the app needs: pip install 'ray[serve]'")
    from starlette.applications import Starlette
    from starlette.routing import Route
    from starlette.testclient import TestClient

    bound = runpy.run_path("ray_app.py")
    tags = bound["Tags"].func_or_class(*bound["app"]._bound_deployment.init_args)
    client = TestClient(Starlette(routes=[Route("/", tags.__call__, methods=["POST"])]))
    answer = client.post("/", content=(here / "song.wav").read_bytes())
    expected = genre_jax.load("model.onnx").tags(here / "song.wav")
    assert answer.json() == {"seconds": expected.seconds, "tags": expected.overall()}
    broken = client.post("/", content=b"RIFF of nothing")
    assert broken.status_code == 422 and broken.json()["detail"].startswith("the audio: ")


ONLY = """
import importlib.metadata, re, sys
def name(text): return re.split(r"[^\\w.-]", text)[0].lower().replace("_", "-")
legal, left = set(), list(map(name, sys.argv[1:]))
while left:
    if (package := left.pop()) not in legal:
        try:
            needs = importlib.metadata.requires(package) or ()
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        legal.add(package)
        left += [name(text) for text in needs if "extra ==" not in text]
owners = importlib.metadata.packages_distributions()
class Refuse:
    def find_spec(self, module, path=None, target=None):
        there = owners.get(module, ()) if "." not in module else ()
        if there and module != "genre_jax" and not legal & set(map(name, there)):
            raise ImportError(f"the image does not hold {module}")
sys.meta_path.insert(0, Refuse())
import app
for song in ("song.wav", "cd.wav", "phone.m4a"):  # decoded by soundfile, resampled by soxr, decoded by PyAV
    app.tagger.predict(song)
print(*sorted(module for module in sys.modules if module in ("jax", "flax", "tensorflow")), "end")
"""


def test_the_image_holds_all_that_the_app_imports(here):
    """The app runs with the packages of the Dockerfile, and what they require, alone."""
    pytest.importorskip("fastapi", reason="the app needs: pip install fastapi python-multipart httpx")
    (text,) = blocks("dockerfile")
    packages = re.search(r"pip install --no-cache-dir (.+)", text)[1].split()
    done = subprocess.run(
        [sys.executable, "-c", ONLY, *packages], capture_output=True, text=True, check=False, cwd=here,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "GENRE_JAX_CACHE": str(here / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "end\n", "the image needs no JAX"
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()}
    assert copied == {"genre_jax", "app.py", "model.onnx"}
