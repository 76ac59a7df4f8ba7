"""An exported file gives the tags of its workdir, in every format, without JAX where it needs none."""

import json
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CLASSES, ROOT, finish, run_module, small_config

import genre_jax
from genre_jax import export, trained
from genre_jax.console import UserError
from genre_jax.export import FORMATS, convert, description, rules, runtime, writer
from genre_jax.export.trace import portable
from genre_jax.loop import train_and_evaluate
from genre_jax.tagger import Tagger

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

# Network of small_run.py → changes of its config: an overlapping hop; statistics of the front end; several labels, and a gain cap
# before a front end whose features depend on the gain.
RUNS = {
    "bytenet": {"evaluate__hop": 1300},
    "resnet": {"frontend__scale": "standardise"},
    "snn": {"loss__name": "sigmoid", "augment__gain_cap": 0.3, "frontend__compression": "log10"},
}


@pytest.fixture(scope="module")
def workdirs(tones, tmp_path_factory):
    """Name in `RUNS` → a finished run. It is trained, because the classifiers begin with zeros."""
    folder = tmp_path_factory.mktemp("exported")
    for name, changes in RUNS.items():
        options = {"devices": 1, "train__duration": "20 steps", "schedule__learning_rate": 3e-3}
        train_and_evaluate(small_config(tones, name, **options, **changes), folder / name)
    return folder


@pytest.fixture(scope="module")
def song():
    """A signal of 2.3 s at 8 kHz that exceeds full scale."""
    time = np.arange(18_400) / 8000
    return (1.2 * np.sin(2 * np.pi * 400 * time) * (time % 0.7) + np.random.default_rng(0).normal(size=len(time)) / 9).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def onnx_files(workdirs):
    """Name in `RUNS` → its ONNX file."""
    return {name: export.write(workdirs / name, workdirs / f"{name}.onnx").path for name in RUNS}


def assert_same_tags(exported: Tagger, other: Tagger, song, atol=1e-5):
    ours, theirs = exported.tags(song, 8000), other.tags(song, 8000)
    assert (ours.labels, ours.task, ours.window_seconds, ours.seconds) == (
        theirs.labels, theirs.task, theirs.window_seconds, theirs.seconds,
    )  # fmt: skip
    np.testing.assert_array_equal(ours.starts, theirs.starts)
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=atol)
    np.testing.assert_allclose(ours.embeddings, theirs.embeddings, atol=atol * max(1, np.abs(theirs.embeddings).max()))
    np.testing.assert_array_equal(ours.probabilities.argmax(1), theirs.probabilities.argmax(1))
    assert np.ptp(theirs.probabilities, 0).max() > 1e-3, "the windows of this signal do not differ"


@pytest.mark.parametrize("name", RUNS)
def test_onnx_gives_the_tags_of_the_workdir(name, workdirs, onnx_files, song):
    assert_same_tags(genre_jax.load(onnx_files[name]), genre_jax.load(workdirs / name), song)


@pytest.mark.parametrize(
    ("format", "name"), [("litert", "bytenet"), ("litert", "resnet"), ("stablehlo", "resnet"), ("stablehlo", "snn")]
)
def test_other_formats_give_the_tags_of_the_workdir(format, name, workdirs, song):
    written = export.write(workdirs / name, workdirs / f"{name}{FORMATS[format]}", format)
    assert written.difference < 1e-5
    assert_same_tags(genre_jax.load(written.path), genre_jax.load(workdirs / name), song)


def test_floats_as_input(workdirs, song):
    path = export.write(workdirs / "resnet", workdirs / "floats.onnx", waveform="float32").path
    assert runtime.Exported(path).description.waveform == "float32"
    assert_same_tags(genre_jax.load(path), genre_jax.load(workdirs / "resnet"), song)


@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_float16_weights_are_smaller_and_near(workdirs, song, monkeypatch, format):
    monkeypatch.setattr(description, "HALVED", 16)
    sizes, suffix = [], FORMATS[format]
    for weights in ("float32", "float16"):
        written = export.write(workdirs / "bytenet", workdirs / f"{weights}{suffix}", format, weights=weights)
        sizes.append(written.path.stat().st_size)
    assert sizes[1] < sizes[0]
    assert 1e-7 < written.difference < 0.02
    assert_same_tags(genre_jax.load(written.path), genre_jax.load(workdirs / "bytenet"), song, atol=0.02)


def test_the_description(workdirs, onnx_files):
    import onnx

    model = onnx.load(onnx_files["snn"])
    about = json.loads({entry.key: entry.value for entry in model.metadata_props}["genre_jax"])
    assert about.pop("weights_sha256") == runtime.Exported(onnx_files["snn"]).description.weights_sha256
    assert about == {
        "name": "snn", "labels": list(CLASSES), "task": "multi", "sample_rate": 8000, "samples": 2000, "hop": 2000,
        "waveform": "int16", "inputs": ["audio", "maximum"], "conditioning": [], "licence": "", "source": "",
        "genre_jax": genre_jax.__version__, "format_version": 1,
    }  # fmt: skip
    sizes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input]
    assert sizes == [["batch", 2000], ["batch"]]
    assert [value.name for value in model.graph.output] == ["probabilities", "embedding"]


def test_a_litert_file_is_also_a_zip_file_with_labels(workdirs):
    path = export.write(workdirs / "snn", workdirs / "snn.tflite", "litert", licence="CC-BY-4.0").path
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().split() == list(CLASSES)
        assert json.loads(archive.read("genre_jax.json"))["licence"] == "CC-BY-4.0"


def test_onnx_and_litert_need_no_jax(onnx_files, workdirs, song):
    np.save(workdirs / "song.npy", song)
    script = f"""
import sys
sys.modules.update(dict.fromkeys(("jax", "jaxlib", "flax", "tensorflow", "orbax", "ml_collections")))
import numpy as np, genre_jax
for file in sys.argv[1:]:
    print(genre_jax.load(file).predict(np.load({str(workdirs / "song.npy")!r}), 8000))
"""
    litert = export.write(workdirs / "resnet", workdirs / "jaxless.tflite", "litert").path
    done = subprocess.run(
        [sys.executable, "-c", script, onnx_files["resnet"], litert], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = genre_jax.load(workdirs / "resnet").predict(song, 8000)
    alone = script.replace("genre_jax.load(file)", "genre_jax.load()")
    failed = subprocess.run([sys.executable, "-c", alone, "x"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "UserError: a network that is no exported file needs JAX: install it, or give a file of export" in failed.stderr
    for line in done.stdout.splitlines()[-2:]:
        assert eval(line) == pytest.approx(expected, abs=1e-5)


def test_several_networks_in_a_file(workdirs, onnx_files, song, tones):
    """Networks that tag together become a file, with the labels that the first and then the others add."""
    both = Tagger(workdirs / "bytenet", workdirs / "bytenet")
    path = export.write(both, workdirs / "both.onnx").path
    assert_same_tags(genre_jax.load(path), both, song)
    with pytest.raises(UserError, match=f"^an exported file tags alone, and {path} was given with other sources$"):
        genre_jax.load(path, onnx_files["snn"])


def test_long_sums_are_split_and_equal():
    x = np.random.default_rng(0).normal(3, 1, (2, 50_176, 3)).astype(np.float32)

    def function(x):
        return {"mean": jax.jit(lambda y: y.mean(1))(x), "sum": x.sum((1, 2))}

    split = portable(function)
    assert str(jax.make_jaxpr(split)(x)).count("reduce_sum") > str(jax.make_jaxpr(function)(x)).count("reduce_sum")
    for name, value in split(x).items():
        np.testing.assert_allclose(value, function(x)[name], rtol=1e-6)


@pytest.mark.parametrize("length", [400, 625, 2048])
def test_fourier_transforms_of_other_lengths_are_products(length):
    x = np.random.default_rng(0).normal(size=(2, 3, length)).astype(np.float32)
    function = portable(jnp.fft.rfft)
    assert ("dot_general" in str(jax.make_jaxpr(function)(x))) == (length != 2048)
    np.testing.assert_allclose(function(x), np.fft.rfft(x.astype(np.float64)), atol=1e-6 * length)
    with pytest.raises(
        UserError, match="^the Fourier transform of 6000 samples cannot be exported: at most 4096, or a power of two$"
    ):
        function(np.zeros(6000, np.float32))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"target": "model.tflite"}, "a file of the format onnx must end in .onnx, and 'model.tflite' does not"),
        ({"format": "coreml"}, "unknown format 'coreml': choose one of litert, onnx, stablehlo"),
        ({"waveform": "float64"}, "unknown waveform 'float64' (did you mean 'float32'?): choose one of float32, int16"),
        ({"weights": "int8"}, "unknown weights 'int8': choose one of float16, float32"),
    ],
)
def test_illegal_arguments(workdirs, arguments, sentence):
    with pytest.raises(UserError) as error:
        export.write(workdirs / "snn", **{"target": "model.onnx"} | arguments)
    assert str(error.value) == sentence


def test_an_unfinished_run_is_refused(tones, tmp_path):
    train_and_evaluate(small_config(tones, "snn", devices=1, train__duration="2 steps"), tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    with pytest.raises(
        UserError, match="holds no results.json, because its run is not finished: resume it with the same command"
    ):
        export.write(tmp_path / "run", tmp_path / "run.onnx")
    assert not (tmp_path / "run.onnx").exists()


def test_a_network_without_a_rule_is_named(workdirs, monkeypatch):
    monkeypatch.delitem(rules.RULES, "dot_general")
    with pytest.raises(UserError) as error:
        export.write(workdirs / "snn", workdirs / "none.onnx")
    assert str(error.value) == (
        "log_mel + snn cannot be exported as onnx: the operation 'dot_general' of JAX has no rule for ONNX; "
        "--format=stablehlo has no such limit"
    )


def test_a_network_that_is_too_large_for_onnx(workdirs, monkeypatch):
    monkeypatch.setattr(convert, "LARGEST", 100)
    with pytest.raises(
        UserError, match="^log_mel [+] snn cannot be exported as onnx: its constants take .* at most 2 GB; --format"
    ):
        export.write(workdirs / "snn", workdirs / "large.onnx")


def test_a_file_that_computes_something_else_is_not_written(workdirs, monkeypatch):
    (workdirs / "wrong.onnx").write_text("an older file")
    monkeypatch.setitem(rules.ELEMENTWISE, "add", rules.ELEMENTWISE["sub"])
    with pytest.raises(
        UserError, match="^the file would compute probabilities that differ by .* from those of JAX: nothing is written$"
    ):
        export.write(workdirs / "resnet", workdirs / "wrong.onnx")
    assert (workdirs / "wrong.onnx").read_text() == "an older file"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("format", FORMATS)
def test_truncated_files(workdirs, onnx_files, tmp_path, format, share):
    whole = onnx_files["snn"] if format == "onnx" else workdirs / f"truncated{FORMATS[format]}"
    if not whole.exists():
        export.write(workdirs / "snn", whole, format)
    path = tmp_path / f"short{FORMATS[format]}"
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    with pytest.raises(UserError, match=f"^{path} is damaged, or was not written by genre_jax.export: "):
        genre_jax.load(path)


def test_other_files_are_refused(workdirs, onnx_files, tmp_path):
    import onnx

    model = onnx.load(onnx_files["snn"])
    model.metadata_props[0].value = json.dumps({"format_version": 2})
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(UserError, match="its format is version 2, and this genre_jax reads 1$"):
        genre_jax.load(tmp_path / "newer.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(
        UserError,
        match="other.onnx: it holds no description under the key 'genre_jax', and was therefore not written by export",
    ):
        genre_jax.load(tmp_path / "other.onnx")
    with pytest.raises(
        UserError, match=r"absent.onnx does not exist: python -m genre_jax.export --output=.*absent.onnx writes it$"
    ):
        genre_jax.load(tmp_path / "absent.onnx")
    with pytest.raises(UserError, match="snn.onnx is an exported file already: give the workdir that it was made from"):
        export.write(onnx_files["snn"], tmp_path / "again.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UserError, match="is a folder, and an exported file is needed"):
        genre_jax.load(tmp_path / "folder.onnx")
    with pytest.raises(UserError, match=f"^'{tmp_path}' is not the workdir of a run: it holds no labels.json$"):
        export.write(tmp_path, tmp_path / "none.onnx")
    with pytest.raises(UserError, match="an exported file cannot be exported again: give the workdir"):
        export.write(genre_jax.load(onnx_files["snn"]), tmp_path / "again.onnx")


def test_descriptions_are_checked():
    with pytest.raises(UserError, match="it holds no description under the key"):
        description.from_json("[]")


def test_the_command(workdirs, tmp_path):
    out, _ = finish(run_module("genre_jax.export", f"--workdir={workdirs / 'snn'}", f"--output={tmp_path / 'snn.onnx'}"))
    first, second = out.splitlines()
    assert first.startswith(f"wrote {tmp_path / 'snn.onnx'}, 0.") and first.endswith("windows of 0.25 s at 8000 Hz, 4 labels")
    assert second.startswith("largest difference of a probability between the file and JAX on three test signals: ")
    tags, _ = finish(run_module("genre_jax.tag", f"--workdir={tmp_path / 'snn.onnx'}", "--json", _wav(tmp_path)))
    assert json.loads(tags)["labels"] == pytest.approx(genre_jax.load(workdirs / "snn").predict(_wav(tmp_path)), abs=1e-5)
    out, _ = finish(run_module("genre_jax.export", f"--workdir={workdirs / 'snn'}", f"--output={tmp_path / 'snn.tflite'}"))
    assert out.startswith(f"wrote {tmp_path / 'snn.tflite'}, 0."), "the format follows from the name"
    _, err = finish(run_module("genre_jax.export", f"--workdir={workdirs / 'snn'}"), code=1)
    assert err == "error: --output is needed: the file to write, such as --output=model.onnx\n"


def _wav(folder) -> str:
    import soundfile

    soundfile.write(folder / "song.wav", np.random.default_rng(0).normal(size=8000) / 9, 8000)
    return str(folder / "song.wav")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "litert", "stablehlo"])
def test_published_taggers(published_weights, tmp_path, format):
    networks = trained.Networks()
    written = export.write(None, tmp_path / f"musicnn{FORMATS[format]}", format)
    assert written.difference < 1e-5
    assert written.description.licence.startswith("ISC")
    assert len(written.description.labels) == len(networks.labels) == 67
    signals = writer.test_signals(networks.samples, networks.sample_rate)
    assert np.abs(signals).max() > 8000
