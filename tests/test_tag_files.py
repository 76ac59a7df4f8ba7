"""Many files become Parquet: a row for every file, parts that are whole or missing, restarts that change no row, Apache Beam."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import CLASSES, ROOT, finish, run_module, small_config, tone_clip
from damage import initial_run, write_run

import genre_jax
from genre_jax import export, tag, tag_files, tag_inputs
from genre_jax.console import UserError

RATE, PER_PART = 8000, 3
FLAGS = {"list": None, "json": False, "csv": False, "top": None, "embeddings": None, "hop": 0.0, "workers": 1}
FLAGS |= {"files_per_part": PER_PART, "beam_runner": None, "beam_option": []}
SILENT = "the mono mix is silent: no sample exceeds 0.0001 of full scale"


def noisy_run(data_dir: Path, folder: Path, seed: int = 0, model: str = "snn") -> Path:
    """Write a run with random weights, whose predictions differ from file to file; return its workdir."""
    config, rng = small_config(data_dir, model, evaluate__hop=1300), np.random.default_rng(seed)
    _, state = initial_run(config, folder / "initial")
    params = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), state.params)
    write_run(folder / "run", config, state.replace(params=params))
    return folder / "run"


@pytest.fixture(scope="module")
def workdir(tones, tmp_path_factory):
    return noisy_run(tones, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Ten files: good ones, one that is missing, a text and a silent one; a name holds a newline, another is not UTF-8."""
    folder = tmp_path_factory.mktemp("music")
    paths = [folder / (f"{number}.wav" if number else "a\nb.wav") for number in range(10)]
    paths[9] = folder / os.fsdecode(b"\xff.wav")
    for number, path in enumerate(paths):
        clip = tone_clip("test", number % 4, number, 2100 + 900 * number).audio
        soundfile.write(os.fsencode(path), np.zeros_like(clip) if number == 7 else clip, RATE, format="WAV")
    paths[4].unlink()
    paths[5].write_text("not music\n" * 300)
    return list(map(str, paths))


@pytest.fixture
def run_tag(workdir, monkeypatch, capsys):
    """A function of the output folder, names and flags that runs the command in this process, and returns what it prints."""

    def call(output: object, *names: str, fails: str = "", **given) -> str:
        values = FLAGS | {"workdir": str(workdir), "output": str(output)} | given
        monkeypatch.setattr(tag, "flags", SimpleNamespace(FLAGS=SimpleNamespace(**values)))
        capsys.readouterr()
        if fails:
            with pytest.raises(UserError, match=fails):
                tag.main(["tag", *names])
        else:
            assert tag.main(["tag", *names]) == 0
        return capsys.readouterr().out

    return call


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.parquet"))


def rows(folder: Path) -> list[dict]:
    return [row for name in parts(folder) for row in pq.read_table(folder / name).to_pylist()]


@pytest.fixture
def counted(monkeypatch):
    """The numbers of the parts that are written, as they are written."""
    numbers, write = [], tag_files._write

    def counting(rows, job, number):
        write(rows, job, number)
        numbers.append(number)

    monkeypatch.setattr(tag_files, "_write", counting)
    return numbers


# ---------------------------------------------------------------- rows


def test_every_file_is_a_row_with_the_numbers_of_the_tagger_or_an_error(run_tag, workdir, files, tmp_path):
    out = run_tag(
        tmp_path / "a/tags", *files, embeddings="mean", fails=r"^3 files could not be tagged: the column error in /.*tags"
    )
    assert out.splitlines()[-1] == f"{tmp_path}/a/tags: 7 of 10 files are tagged, in 4 parts"
    folder = tmp_path / "a/tags"
    assert parts(folder) == [f"part-0000{n}-of-00004.parquet" for n in range(4)]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    found, tagger = rows(folder), genre_jax.load(workdir)
    assert [row["path"] for row in found] == [*files[:9], files[9].replace("\udcff", "\\udcff")]
    for path, row in zip(files, found, strict=True):
        assert list(row) == [*tag_files.COLUMNS, *CLASSES]
        if row["error"] is None:
            tags = tagger.tags(path)
            assert (row["seconds"], row["windows"]) == (tags.seconds, len(tags.starts))
            np.testing.assert_array_equal(
                [row[label] for label in CLASSES], tags.probabilities.mean(0, dtype=np.float64).astype("f4")
            )
            np.testing.assert_array_equal(row["embedding"], tags.embeddings.mean(0))
        else:
            assert [value for name, value in row.items() if name not in ("path", "error")] == [None] * 7
    assert len({(row["low"], row["seconds"]) for row in found}) == 8 and len({row["low"] for row in found}) > 4, (
        "the predictions do not differ from file to file"
    )
    errors = {n: row["error"] for n, row in enumerate(found) if row["error"] is not None}
    assert errors.keys() == {4, 5, 7} and errors[4] == "no such file" and errors[7] == SILENT
    assert errors[5].startswith("not an audio file that soundfile or FFmpeg can read: ")


def test_the_schema_says_where_the_numbers_are_from(run_tag, workdir, files, tmp_path):
    run_tag(tmp_path / "tags", *files[:2], hop=0.1)
    schema = pq.read_schema(tmp_path / "tags/part-00000-of-00001.parquet")
    facts = json.loads(schema.metadata[b"genre_jax"])
    assert facts == json.loads((tmp_path / "tags/_manifest.json").read_text())
    assert facts["labels"] == list(CLASSES) and facts["task"] == "single" and facts["weights"] == str(workdir)
    assert (facts["sample_rate"], facts["hop"], facts["files"], facts["embeddings"]) == (RATE, 0.1, 2, False)
    assert schema.names == [*tag_files.COLUMNS[:4], *CLASSES] and str(schema.field("low").type) == "float"
    starts = genre_jax.load(workdir).tags(files[1], hop=0.1).starts
    assert rows(tmp_path / "tags")[1]["windows"] == len(starts) == 3


def test_a_label_with_the_name_of_a_column_is_quoted(tmp_path):
    manifest = tag_files.Manifest(1, 1, "/", "", "", "", ("rock", "error"), "multi", RATE, 0.0, embeddings=False)
    assert tag_files.Job(tmp_path, (), manifest).schema().names == ["path", "seconds", "windows", "error", "rock", '"error"']


def test_lack_of_memory_is_a_row(run_tag, files, tmp_path, monkeypatch):
    from genre_jax.tagger import Tagger

    monkeypatch.setattr(Tagger, "tags", lambda *args, **options: (_ for _ in ()).throw(MemoryError()))
    run_tag(tmp_path / "tags", files[0], fails="^1 files could not be tagged")
    assert rows(tmp_path / "tags")[0]["error"] == "tagging needs more memory than this machine has free"


def test_an_exported_file_needs_no_jax(run_tag, tones, files, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra [export])")
    workdir = noisy_run(tones, tmp_path, model="resnet")
    export.write(genre_jax.load(workdir), tmp_path / "model.onnx", format="onnx")
    arguments = (
        f"--workdir={tmp_path}/model.onnx",
        f"--output={tmp_path}/tags",
        "--files_per_part=3",
        "--workers=1",
        *files[1:4],
    )
    finish(run_module("genre_jax.tag", *arguments, hide=("jax", "flax", "tensorflow")))
    run_tag(tmp_path / "here", *files[1:4], workdir=str(workdir))
    for row, expected in zip(rows(tmp_path / "tags"), rows(tmp_path / "here"), strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
    assert run_tag(tmp_path / "tags", *files[1:4], workdir=f"{tmp_path}/model.onnx").startswith("resuming: 1 of 1 parts")
    run_tag(tmp_path / "tags", *files[1:4], workdir=str(workdir), fails=r"was begun with the weights .*model\.onnx \(sha256")


# ---------------------------------------------------------------- restart


def test_a_killed_run_leaves_whole_parts_and_the_next_one_changes_no_row(run_tag, workdir, files, tmp_path, counted):
    """The process is killed when half of the third part is written."""
    code = """
import os, signal, sys
from pyarrow import parquet
write, count = parquet.write_table, 0
def half(table, file, **options):
    global count
    count += 1
    if count == 3:
        file.write(b"PAR1 half of a part"), file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(table, file, **options)
parquet.write_table = half
from genre_jax import console, tag, tag_inputs
tag.define_flags()
console.run(tag.main, tag_inputs.parse_flags)
"""
    folder = tmp_path / "tags"
    (tmp_path / "list.txt").write_bytes(b"\r\n".join(os.fsencode(name) for name in files[1:]) + b"\n \n")
    arguments = [f"--workdir={workdir}", f"--output={folder}", "--files_per_part=2", "--workers=1"]
    command = [sys.executable, "-c", code, *arguments, f"--list={tmp_path}/list.txt"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert parts(folder) == ["part-00000-of-00005.parquet", "part-00001-of-00005.parquet"]
    assert [path for path in folder.iterdir() if path.name.endswith(".partial")], "it was not killed in the middle"
    kept = {name: (folder / name).stat().st_mtime_ns for name in parts(folder)}
    out = run_tag(folder, list=f"{tmp_path}/list.txt", files_per_part=2, fails="^3 files could not be tagged")
    assert out.startswith("resuming: 2 of 5 parts are done\n") and counted == [2, 3, 4]
    assert kept.items() <= {name: (folder / name).stat().st_mtime_ns for name in parts(folder)}.items()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    run_tag(tmp_path / "whole", *files[1:], files_per_part=2, fails="^3 files could not be tagged")
    assert rows(folder) == rows(tmp_path / "whole")


def test_an_interrupted_run_says_that_its_parts_are_kept(run_tag, files, tmp_path, monkeypatch, capsys):
    write = tag_files._write

    def interrupted(rows, job, number):
        if number == 1:
            raise KeyboardInterrupt
        write(rows, job, number)

    monkeypatch.setattr(tag_files, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_tag(tmp_path / "tags", *files[:4])
    assert capsys.readouterr().out == f"the finished parts are kept in {tmp_path}/tags: run the same command again to resume\n"
    assert parts(tmp_path / "tags") == ["part-00000-of-00002.parquet"]


def test_without_names_the_stored_list_goes_on_and_damaged_parts_are_made_again(run_tag, files, tmp_path, counted, monkeypatch):
    monkeypatch.chdir(Path(files[0]).parent)
    folder = tmp_path / "tags"
    names = [os.path.basename(files[number]) for number in (0, 1, 2, 3, 6, 8, 9)]
    run_tag(folder, *names, files_per_part=2)
    first = rows(folder)
    (folder / parts(folder)[1]).write_bytes((folder / parts(folder)[1]).read_bytes()[:-9])
    pq.write_table(pq.read_table(folder / parts(folder)[2])[:1], folder / parts(folder)[2])
    (folder / parts(folder)[0]).unlink()
    monkeypatch.chdir(tmp_path)
    run_tag(folder, files_per_part=2)
    assert counted == [0, 1, 2, 3, 0, 1, 2] and rows(folder) == first
    run_tag(folder, *(f"{Path(files[0]).parent}/{name}" for name in names), files_per_part=2)  # the same files, absolute
    assert len(counted) == 7


def test_flags_that_are_not_given_have_the_values_of_the_folder(run_tag, files, tmp_path, counted):
    run_tag(tmp_path / "tags", *files[:4], files_per_part=2, hop=0.1, embeddings="mean")
    first = rows(tmp_path / "tags")
    (tmp_path / "tags" / parts(tmp_path / "tags")[1]).unlink()
    run_tag(tmp_path / "tags", files_per_part=None)
    assert counted == [0, 1, 1] and rows(tmp_path / "tags") == first
    run_tag(
        tmp_path / "tags", files_per_part=None, embeddings="none",
        fails="with --embeddings=mean, and this command has --embeddings=none: run",
    )  # fmt: skip
    run_tag(tmp_path / "new", *files[:4], files_per_part=None)
    assert json.loads((tmp_path / "new/_manifest.json").read_text())["files_per_part"] == tag_files.PER_PART


def test_the_bar_counts_the_parts(run_tag, files, tmp_path, monkeypatch):
    import tqdm

    shown, close = [], tqdm.tqdm.close
    monkeypatch.setattr(tqdm.tqdm, "close", lambda bar: shown.append(getattr(bar, "postfix", None)) or close(bar))
    run_tag(tmp_path / "tags", *files[:4])
    assert "2 of 2 parts, 0 failed" in shown


def test_another_list_weights_or_hop_are_refused(run_tag, workdir, tones, files, tmp_path):
    folder = tmp_path / "tags"
    run_tag(folder, *files[:2])
    end = ": run the first command again, or choose another --output$"
    run_tag(folder, *files[:3], fails=f"tags was begun with another list of 2 files, and this command lists 3{end}")
    run_tag(folder, files[1], files[0], fails=f"tags was begun with another list of 2 files, and this command lists 2{end}")
    run_tag(folder, *files[:2], hop=0.1, fails=rf"tags was begun with --hop=0\.1625, and this command has --hop=0\.1{end}")
    run_tag(
        folder, *files[:2], files_per_part=5, embeddings="mean",
        fails=f"with --files_per_part=3, --embeddings=none, and this command has --files_per_part=5, --embeddings=mean{end}",
    )  # fmt: skip
    run_tag(
        folder, *files[:2], workdir=str(noisy_run(tones, tmp_path, seed=1)),
        fails=rf"the weights {workdir} \(sha256 [0-9a-f]{{12}}…\), and this command has {tmp_path}/run \(sha256 [0-9a-f]+…\){end}",
    )  # fmt: skip
    moved = shutil.copytree(workdir, tmp_path / "moved")
    run_tag(folder, *files[:2], workdir=str(moved))
    manifest = json.loads((folder / "_manifest.json").read_text())
    (folder / "_manifest.json").write_text(json.dumps(manifest | {"version": 0}))
    run_tag(folder, *files[:2], fails="has version 0, and this genre_jax reads 1: choose another --output$")
    (folder / "_manifest.json").write_text(json.dumps(manifest | {"x": 0}))
    run_tag(folder, *files[:2], fails=r"_manifest.json was changed or damaged \(.*'x'\): choose another --output$")


# ---------------------------------------------------------------- arguments


def test_flags_that_do_not_go_together_are_refused(run_tag, files, tmp_path):
    folder = tmp_path / "tags"
    run_tag(folder, files[0], csv=True, fails="^--csv and --output were both given: --output writes Parquet, with all labels")
    run_tag(folder, files[0], top=3, fails="^--top and --output were both given")
    run_tag(
        folder,
        files[0],
        embeddings="e.npz",
        fails=r"^with --output, --embeddings must be mean, .* or none, and was given 'e\.npz'$",
    )
    run_tag(folder, "-", fails="^--output needs files with a path, and - stands for audio on standard input$")
    run_tag(folder, fails="^at least one audio file or folder is needed: --list=FILE, or as an argument$")
    run_tag(files[1], files[0], fails=rf"^--output={files[1]} is a file: choose a folder$")
    folder.mkdir()
    (folder / "notes.txt").touch()
    run_tag(folder, files[0], fails=r"^--output=.*tags is not empty and holds no _manifest\.json: choose another folder$")
    run_tag(folder, list=f"{tmp_path}/none", fails="^--list=/.*none cannot be read: No such file or directory$")
    (tmp_path / "blank").write_text("\n \n")
    run_tag(folder, list=f"{tmp_path}/blank", fails="^--list=/.*blank names no file: it must have the path of one audio file")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x09genre\0jax\n")
    run_tag(
        folder, list=f"{tmp_path}/model.onnx", fails=r"^--list=/.*model\.onnx is not a list of paths, because it holds a NUL"
    )


def test_without_pyarrow_the_command_says_what_to_install(run_tag, files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    run_tag(tmp_path / "tags", files[0], fails="^--output needs pyarrow, which is not installed: pip install pyarrow$")
    assert not (tmp_path / "tags").exists()


def test_a_list_has_folders_and_any_name(tmp_path, monkeypatch):
    (tmp_path / "list").write_bytes(b"# 1.wav\r\n\n  b.wav\n\xff.wav\nfolder")
    assert tag_inputs.listed(str(tmp_path / "list")) == ["# 1.wav", "  b.wav", "\udcff.wav", "folder"]
    with open(tmp_path / "list", encoding="latin-1") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert len(tag_inputs.listed("-")) == 4


def test_a_folder_without_audio_is_an_error_beside_the_rows(workdir, files, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    values = FLAGS | {"workdir": str(workdir), "output": str(tmp_path / "tags")}
    assert tag_files.main(SimpleNamespace(**values), [files[0], str(tmp_path / "empty")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/empty: found no audio below this folder")
    assert [row["path"] for row in rows(tmp_path / "tags")] == files[:1]


# ---------------------------------------------------------------- Apache Beam


@pytest.fixture
def fake_beam(monkeypatch):
    """A module apache_beam that sends everything through pickle, as a runner does; returns the options of its pipelines."""
    seen: list[list[str]] = []

    class Pipeline:
        def __init__(self, options):
            seen.append(options)

        def __enter__(self):
            return ()

        def __exit__(self, *_):
            pass

    class Stage:
        def __init__(self, apply):
            self._apply = apply

        def __ror__(self, elements):
            return self._apply(pickle.loads(pickle.dumps(elements)))

    beam = ModuleType("apache_beam")
    beam.Pipeline = Pipeline
    beam.Create = lambda todo: Stage(lambda _: todo)
    beam.Reshuffle = lambda: Stage(lambda elements: elements[::-1])
    beam.Map = lambda function, *job: Stage(
        lambda elements: [function(one, *pickle.loads(pickle.dumps(job))) for one in elements]
    )
    options = ModuleType("apache_beam.options.pipeline_options")
    options.PipelineOptions = lambda values: values
    for name, module in {"apache_beam": beam, "apache_beam.options": ModuleType("o"), options.__name__: options}.items():
        monkeypatch.setitem(sys.modules, name, module)
    tag_files._tagger.cache_clear()
    return seen


def test_beam_writes_the_same_rows_and_loads_the_network_once(run_tag, files, tmp_path, fake_beam, counted, monkeypatch):
    run_tag(tmp_path / "here", *files, embeddings="mean", fails="^3 files could not be tagged")
    counted.clear()
    loads, load = [], genre_jax.load
    monkeypatch.setattr(genre_jax, "load", lambda *sources: loads.append(sources) or load(*sources))
    monkeypatch.setattr(tag_files, "_tag_parts", lambda *_: pytest.fail("the parts were written without Beam"))
    options = {"embeddings": "mean", "beam_runner": "DirectRunner", "beam_option": ["--x=1"]}
    out = run_tag(tmp_path / "beam", *files, fails="^3 files could not be tagged", **options)
    assert out.startswith("Apache Beam tags 10 files in 4 parts (--runner=DirectRunner --x=1)\n")
    assert fake_beam == [["--runner=DirectRunner", "--x=1"]] and counted == [3, 2, 1, 0]
    assert len(loads) == 2, "the command and the worker load the networks once each"
    assert rows(tmp_path / "beam") == rows(tmp_path / "here")


def test_parts_that_beam_loses_and_other_weights_on_a_worker_are_sentences(run_tag, files, tmp_path, fake_beam, monkeypatch):
    options = {"beam_runner": "DirectRunner"}
    answers = iter("ab")
    monkeypatch.setattr(tag_files, "weights_sha256", lambda *_: next(answers))
    run_tag(
        tmp_path / "a", *files, **options, fails="^the weights /.* on this Beam worker have the sha256 b…, and a… is expected"
    )
    monkeypatch.setattr(tag_files, "weights_sha256", lambda *_: "a")
    monkeypatch.setattr(tag_files, "_write", lambda *_: None)
    run_tag(
        tmp_path / "b", *files, **options,
        fails=f"^Apache Beam did not write 4 of 4 parts into {tmp_path}/b: every Beam worker must see this folder under the same",
    )  # fmt: skip


def test_beam_itself(run_tag, files, tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed (extra [beam])")
    run_tag(tmp_path / "here", *files, fails="^3 files could not be tagged")
    run_tag(tmp_path / "beam", *files, beam_runner="DirectRunner", fails="^3 files could not be tagged")
    assert rows(tmp_path / "beam") == rows(tmp_path / "here")
