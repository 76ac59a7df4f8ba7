"""Tagging uses the windows and weights of the run's evaluation, gives the same numbers, and bounds the memory."""

import csv
import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import audio_files
import jax
import numpy as np
import pytest
import soundfile
from conftest import CLASSES, ROOT, finish, run_module, small_config
from damage import write_run

import genre_jax
from genre_jax import config as configs
from genre_jax import console, metrics, tag, tag_inputs, train
from genre_jax import tagger as tagging
from genre_jax.checkpoint import Checkpoints
from genre_jax.console import UserError
from genre_jax.data import locate, shards
from genre_jax.data.order import window_starts
from genre_jax.loop import train_and_evaluate
from genre_jax.prepare import audio

RATE, SAMPLES, HOP = 8000, 2000, 1300


@pytest.fixture(scope="module")
def workdir(tones, tmp_path_factory):
    """A run that classifies the tones. Its windows overlap, and its gain cap needs the maximum of the whole clip."""
    folder = tmp_path_factory.mktemp("run")
    options = {"devices": 1, "evaluate__hop": HOP, "augment__gain_cap": 0.3, "train__duration": "40 steps"}
    train_and_evaluate(small_config(tones, "resnet", schedule__learning_rate=3e-3, **options), folder)
    return folder


@pytest.fixture(scope="module")
def tagger(workdir):
    return genre_jax.load(workdir)


@pytest.fixture(scope="module")
def predictions(workdir):
    with np.load(workdir / "predictions.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def clips(tones):
    index = shards.load_index(locate.directory(tones, "tones", RATE), "test")
    return [np.array(index.cut(row, 0, int(index.length[row]))) for row in range(len(index))]


@pytest.fixture(scope="module")
def wavs(clips, tmp_path_factory):
    """The test clips as 16-bit files at the sample rate of the data set."""
    folder = tmp_path_factory.mktemp("wav")
    for row, clip in enumerate(clips):
        soundfile.write(folder / f"{row}.wav", clip, RATE, subtype="PCM_16")
    return [folder / f"{row}.wav" for row in range(len(clips))]


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("block", [1, 7, 10, 64, 1000])
@pytest.mark.parametrize("hop", [1, 3, 10, 25])
def test_windows_of_a_stream_are_those_of_evaluation(block, hop):
    samples = 10
    for length in [*range(1, 45), 99, 100, 101]:
        wave = np.arange(length, dtype=np.float32)
        found = list(tagging.windows((wave[i : i + block] for i in range(0, length, block)), samples, hop))
        assert [start for start, _ in found] == window_starts(length, samples, hop).tolist()
        for start, cut in found:
            np.testing.assert_array_equal(cut, wave[start : start + samples])


# ---------------------------------------------------------------- agreement with the evaluation of the run


def test_a_test_clip_gets_the_probabilities_of_predictions(tagger, wavs, predictions):
    """At the sample rate of the run the samples stay bit-exact, including the gain cap and the padding of short clips."""
    probabilities = metrics.softmax(predictions["logits"])
    assert (probabilities.max(1) > 0.6).mean() > 0.5, "the run learned too little for this test"
    for clip, path in enumerate(wavs):
        rows = predictions["clip"] == clip
        tags = tagger.tags(path)
        np.testing.assert_array_equal(np.rint(tags.starts * RATE), predictions["start"][rows])
        np.testing.assert_allclose(tags.probabilities, probabilities[rows], atol=1e-5)
        assert tags.embeddings.shape == (rows.sum(), 8)
        overall = tags.overall()
        assert list(overall.values()) == sorted(overall.values(), reverse=True)
        assert overall == pytest.approx(dict(zip(CLASSES, probabilities[rows].mean(0), strict=True)), abs=1e-5)
        assert tagger.predict(str(path)) == overall


def test_the_checkpoint_is_the_one_that_was_evaluated(workdir, tagger, wavs, tmp_path):
    """A later checkpoint without a score is ignored if the config says "best", and loaded if it says "last"."""
    folder = shutil.copytree(workdir, tmp_path / "run")
    config = configs.read_json(folder / "config.json")
    checkpoints = Checkpoints(folder, config, CLASSES)
    zeros = train.TrainState(
        step=np.int32(99),
        opt_state={},
        skipped=np.array(0, np.int32),
        **jax.tree.map(np.zeros_like, checkpoints.restore_model(checkpoints.choose("best"))),
    )
    checkpoints.save(99, zeros)
    checkpoints.close()
    assert genre_jax.load(folder).predict(wavs[3]) == tagger.predict(wavs[3])
    config.evaluate.weights = "last"
    write_run(tmp_path / "last", config, zeros)
    assert genre_jax.load(tmp_path / "last").predict(wavs[3]) == dict.fromkeys(CLASSES, 0.25)


def test_a_network_that_computes_nan_is_refused(workdir, clips, wavs):
    tagger = genre_jax.load(workdir)
    scores, start = tagger.network.scores, tagger.tags(wavs[5]).starts[1]

    def broken(batch):
        logits, embeddings = map(np.array, scores(batch))
        logits[1, 2] = np.nan
        return logits, embeddings

    tagger.network.scores = broken
    with pytest.raises(
        UserError, match=f"^{wavs[5]}: the network computes NaN or infinity for 1 of .* window at {start:g} s: its"
    ):
        tagger.tags(wavs[5])
    tagger.network.scores = lambda batch: (scores(batch)[0], np.full((8, 8), np.inf))
    with pytest.raises(UserError, match="^the network computes NaN or infinity for .* first for the window at 0 s"):
        tagger.predict(clips[5], RATE)


def test_another_rate_and_more_channels_change_little(tagger, clips, wavs, tmp_path):
    for row in (0, 5, 8, 11):
        doubled = audio.resample(clips[row].astype(np.float32) / 32768, RATE, 2 * RATE)
        side = 0.1 * np.sin(np.arange(len(doubled)))
        soundfile.write(tmp_path / "stereo.flac", np.stack([doubled + side, doubled - side], 1), 2 * RATE, subtype="PCM_24")
        expected, found = tagger.tags(wavs[row]), tagger.tags(tmp_path / "stereo.flac")
        assert found.seconds == pytest.approx(expected.seconds, abs=1e-3)
        np.testing.assert_allclose(found.probabilities.mean(0), expected.probabilities.mean(0), atol=0.03)


def test_waveforms(tagger, clips, wavs):
    expected = tagger.predict(wavs[5])
    wave = clips[5].astype(np.float32) / 32768
    for same in (clips[5], wave, wave.astype(np.float64), np.stack([wave, wave]), np.stack([clips[5]] * 2)):
        assert tagger.predict(same, RATE) == pytest.approx(expected, abs=1e-5)
    assert tagger.predict(audio.resample(wave, RATE, 44100), 44100) == pytest.approx(expected, abs=0.03)
    loud = tagger.predict(100 * wave, RATE)  # above 1.0: scaled down, as in `prepare`
    assert loud == pytest.approx(tagger.predict(wave / np.abs(wave).max(), RATE), abs=1e-5)


@pytest.mark.parametrize(
    ("wave", "rate", "sentence"),
    [
        (np.zeros(9, np.float32), None, "a waveform needs its sample_rate in Hz, 1000 to 768000, and was given None"),
        (np.zeros(9, np.float32), 1, "a waveform needs its sample_rate in Hz, 1000 to 768000, and was given 1"),
        (np.array([0, np.nan, 0]), RATE, r"the signal holds samples that are not finite \(NaN or infinity\)"),
        (np.zeros(0, np.float32), 16000, "the signal holds no samples"),
        (np.zeros(9, np.int32), RATE, r"a waveform must be floats in \[-1, 1\] or int16, and was given int32"),
        (np.zeros((900, 2)), RATE, r"a waveform must be \(samples,\) or \(channels, samples\), and was given shape \(900, 2\)"),
        (np.zeros((1, 2, 3)), RATE, r"a waveform must be .* and was given shape \(1, 2, 3\)"),
    ],
)
def test_unusable_waveforms_are_refused(tagger, wave, rate, sentence):
    with pytest.raises(UserError, match=f"^{sentence}$"):
        tagger.predict(wave, rate)


def test_unusable_files_and_hops_are_refused(tagger, wavs, tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.inf, 0.0]), RATE, subtype="FLOAT")
    with pytest.raises(UserError, match="the signal holds samples that are not finite"):
        tagger.predict(tmp_path / "nan.wav")
    with pytest.raises(UserError, match="no such file"):
        tagger.predict(tmp_path / "none.wav")
    with pytest.raises(UserError, match="hop must be 0 or more seconds, and was given -1"):
        tagger.tags(wavs[0], hop=-1)
    with pytest.raises(UserError, match="is not the workdir of a run: it holds no labels.json"):
        genre_jax.load(tmp_path)


def test_memory_does_not_grow_with_the_file(tagger, tmp_path, monkeypatch):
    """20 minutes at 8 kHz are 38 MB in float32."""
    monkeypatch.setattr(tagging, "HELD", 60 * RATE)
    minute = audio_files.chord(60, RATE, 1)
    peaks = {}
    for minutes in (1, 20):
        with soundfile.SoundFile(tmp_path / "long.wav", "w", RATE, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(minute)
        tracemalloc.start()
        tags = tagger.tags(tmp_path / "long.wav", hop=1.0)
        peaks[minutes] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert tags.seconds == 60 * minutes
        assert len(tags.starts) == 60 * minutes + 1  # the last window ends at the end of the signal
    assert peaks[20] < 8e6
    assert peaks[20] < peaks[1] + 2e6


# ---------------------------------------------------------------- what is printed


def test_segments_are_runs_of_one_leading_label():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    tags = tagging.Tags(("a", "b"), np.array([0.0, 3.0, 5.0]), 3.0, 8.0, probabilities, np.zeros((3, 4)))
    assert tags.segments() == [(0.0, 5.0, "a", pytest.approx(0.8)), (5.0, 8.0, "b", pytest.approx(0.8))]
    assert tag.as_text("x.wav", tags, top=1).splitlines() == [
        "x.wav  (0:08, 3 windows of 3 s)",
        "  a   60.0%  ████████████",
        "    0:00-0:05  a 80%",
        "    0:05-0:08  b 80%",
    ]
    short = tagging.Tags(("a", "b"), np.array([0.0]), 3.0, 1.23456, probabilities[:1], np.zeros((1, 4)))
    assert tag.as_json("x.wav", short) == {
        "file": "x.wav",
        "seconds": 1.235,
        "labels": {"a": 0.9, "b": 0.1},
        "windows": [{"start": 0.0, "end": 1.235, "labels": {"a": 0.9, "b": 0.1}}],
    }


def test_the_command_tags_the_good_files_and_names_the_bad(tagger, workdir, wavs, tmp_path):
    (tmp_path / "text.mp3").write_text("not music\n" * 300)
    files = [wavs[0], tmp_path / "text.mp3", tmp_path / "none.wav", wavs[11]]
    embeddings = tmp_path / "embeddings.npz"
    arguments = (f"--workdir={workdir}", *map(str, files))
    out, err = finish(run_module("genre_jax.tag", "--json", f"--embeddings={embeddings}", *arguments), code=1)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]  # a slow machine also shows progress
    assert errors[0].startswith(f"error: {files[1]}: not an audio file that soundfile or FFmpeg can read: ")
    assert errors[1] == f"error: {files[2]}: no such file"
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["file"] for line in lines] == [str(files[0]), str(files[3])]
    good = [tagger.tags(path) for path in (files[0], files[3])]
    for line, tags in zip(lines, good, strict=True):
        assert line["labels"] == pytest.approx(tags.overall(), abs=1e-5)
        assert [window["start"] for window in line["windows"]] == pytest.approx(tags.starts, abs=1e-3)
        assert line["windows"][-1]["end"] == pytest.approx(tags.seconds, abs=1e-3)
    with np.load(embeddings) as table:
        assert table["path"].tolist() == [str(files[0])] * len(good[0].starts) + [str(files[3])] * len(good[1].starts)
        np.testing.assert_allclose(table["start"], np.concatenate([tags.starts for tags in good]), atol=1e-6)
        np.testing.assert_allclose(table["embedding"], np.concatenate([tags.embeddings for tags in good]), atol=1e-4)
    out, _ = finish(run_module("genre_jax.tag", "--top=2", *arguments[:2]))
    best = next(iter(good[0].overall()))
    assert out.splitlines()[0].startswith(f"{files[0]}  (0:00, {len(good[0].starts)} windows of 0.25 s)")
    assert out.splitlines()[1].split()[0] == best
    assert sum(line.startswith("  ") and line[2] != " " for line in out.splitlines()) == 2


def test_importing_the_module_defines_no_flags():
    """Programs with flags of their own import it, such as `genre_jax.main`."""
    out, _ = finish(run_module("genre_jax.tag", "--helpshort"), code=1)
    assert "--workdir" in out
    from absl import flags

    from genre_jax import main  # noqa: F401

    assert "embeddings" not in flags.FLAGS


def test_imports_change_no_setting_of_the_process():
    """In a child process, because this process has imported the modules already."""
    code = """
import logging, os
import absl.logging, jax
def settings():
    levels = {name: logging.getLogger(name).level for name in (None, "absl", "jax", "matplotlib", "orbax")}
    return dict(jax.config.values), absl.logging.get_verbosity(), levels, dict(os.environ)
before = settings()
import genre_jax, genre_jax.frontends, genre_jax.models, genre_jax.tag, genre_jax.train
assert settings() == before
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- the arguments of the command


@pytest.fixture
def run_tag(tagger, monkeypatch, capsys):
    """A function of file names and flags that runs the command in this process; returns exit code, output and errors."""

    def call(*names: object, **given) -> tuple[int, str, str]:
        values = {"workdir": "run", "json": False, "csv": False, "embeddings": None, "top": 1, "hop": 0.0}
        values |= {"list": None, "output": None} | given
        monkeypatch.setattr(tag, "flags", SimpleNamespace(FLAGS=SimpleNamespace(**values)))
        monkeypatch.setattr(tag, "Tagger", lambda workdir: tagger)
        capsys.readouterr()
        code = tag.main(["tag", *map(str, names)])
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(5, "x"), RecursionError(), struct.error("x"), MemoryError()])
def test_any_exception_of_a_decoder_is_one_line_and_the_next_file_is_tagged(run_tag, wavs, tmp_path, monkeypatch, error):
    bad = shutil.copy(wavs[0], tmp_path / "bad.wav")
    read = soundfile.SoundFile.read

    def broken(file, *args, **options):
        if b"bad.wav" in os.fsencode(file.name):
            raise error
        return read(file, *args, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", broken)
    code, out, err = run_tag(bad, wavs[11])
    assert code == 1
    assert err.startswith(f"error: {bad}: ") and err.count("\n") == 1
    assert out.startswith(f"{wavs[11]}  (")


def test_silence_and_channels_that_cancel_are_not_tagged(run_tag, tagger, wavs, tmp_path):
    tone = audio_files.chord(0.5, RATE, 1)
    paths = [tmp_path / f"{name}.wav" for name in ("silent", "cancelled", "quiet", "audible")]
    soundfile.write(paths[0], np.zeros((4000, 2)), RATE)
    soundfile.write(paths[1], np.concatenate([tone, -tone], 1), RATE)
    for path, step in ((paths[2], 3), (paths[3], 4)):  # 1e-4 lies between these steps of 16 bits
        soundfile.write(path, np.where(np.arange(4000) % 100, 0, step).astype(np.int16), RATE)
    code, out, err = run_tag(*paths)
    assert code == 1 and out.splitlines()[0].startswith(f"{paths[3]}  (")
    assert err.splitlines() == [
        f"error: {paths[0]}: the mono mix is silent: no sample exceeds 0.0001 of full scale",
        f"error: {paths[1]}: the mono mix is silent, but the channels are not: they cancel each other, therefore invert one "
        "channel or use one alone",
        f"error: {paths[2]}: the mono mix is silent: no sample exceeds 0.0001 of full scale",
    ]
    with pytest.raises(UserError, match=r"^the audio: the mono mix is silent, but the channels are not"):
        tagger.predict(paths[1].read_bytes())
    assert tagger.predict(wavs[5].read_bytes()) == tagger.predict(wavs[5])


def test_embeddings_that_cannot_be_written_end_the_command_before_the_model_is_loaded(monkeypatch, tmp_path, wavs):
    monkeypatch.setattr(tag, "Tagger", lambda workdir: pytest.fail("the model was loaded"))
    values = {"workdir": "run", "json": True, "csv": False, "embeddings": f"{tmp_path}/none/e.npz"}
    values |= {"list": None, "output": None}
    monkeypatch.setattr(tag, "flags", SimpleNamespace(FLAGS=SimpleNamespace(**values)))
    with pytest.raises(
        UserError, match=rf"^--embeddings={tmp_path}/none/e.npz: the folder {tmp_path}/none does not exist: create"
    ):
        tag.main(["tag", str(wavs[0])])
    (tmp_path / "folder.npz").mkdir()
    tag.flags.FLAGS.embeddings = str(tmp_path / "folder")
    with pytest.raises(UserError, match=r"/folder cannot be written: choose another path$"):
        tag.main(["tag", str(wavs[0])])
    tag.flags.FLAGS.embeddings, tag.flags.FLAGS.csv = None, True
    with pytest.raises(UserError, match=r"^--json and --csv were both given: choose one of them$"):
        tag.main(["tag", str(wavs[0])])


def test_embeddings_are_written_beside_files_that_failed(run_tag, wavs, tmp_path):
    code, _, _ = run_tag(tmp_path / "none.wav", wavs[0], embeddings=str(tmp_path / "e"))
    with np.load(tmp_path / "e.npz") as file:
        assert code == 1 and set(file["path"]) == {str(wavs[0])}


def test_a_folder_stands_for_the_audio_below_it(run_tag, wavs, tmp_path, monkeypatch):
    for name in ("b/2.WAV", "a.wav", "b/1.wav", ".hidden.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(wavs[0], tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(console, "QUIET", -1.0)
    code, out, err = run_tag(tmp_path / "empty", tmp_path, json=True)
    assert code == 1
    assert [json.loads(line)["file"] for line in out.splitlines()] == [
        f"{tmp_path}/{name}" for name in ("a.wav", "b/1.wav", "b/2.WAV")
    ]
    lines = err.splitlines()
    assert lines[0].startswith(f"error: {tmp_path}/empty: found no audio below this folder, expected files with one of")
    assert lines[1:] == ["tag: file 1 of 3, 0:00 decoded"]


def test_dashes_standard_input_and_csv(tagger, workdir, wavs, tmp_path):
    """AudioSet's ids may begin with dashes."""
    names = ["-0SdAVK79lg.wav", "--aE2O5G5WE.wav", "é, 1.wav"]
    for name, path in zip(names, wavs, strict=False):
        shutil.copy(path, tmp_path / name)
    command = [sys.executable, "-m", "genre_jax.tag", f"--workdir={workdir}", "--csv", names[0], "-", names[2], "--", names[1]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(wavs[5], "rb") as file:
        done = subprocess.run(command, cwd=tmp_path, env=environment, stdin=file, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    header, *rows = csv.reader(done.stdout.splitlines())
    assert header == ["file", "seconds", *CLASSES]
    assert [row[0] for row in rows] == [names[0], "-", names[2], names[1]]
    for row, path in zip(rows, (wavs[0], wavs[5], wavs[2], wavs[1]), strict=True):
        tags = tagger.tags(path)
        assert float(row[1]) == pytest.approx(tags.seconds, abs=1e-3)
        np.testing.assert_allclose([float(cell) for cell in row[2:]], tags.probabilities.mean(0), atol=1e-4)


def test_a_name_with_a_dash_that_is_no_file_stays_a_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("-a.wav").touch()
    assert tag_inputs.parse_flags(["tag", "x", "-a.wav", "--", "-b.wav"]) == ["tag", "x", "-a.wav", "-b.wav"]
    with pytest.raises(SystemExit):
        tag_inputs.parse_flags(["tag", "-b.wav"])


def test_a_closed_pipe_ends_the_command_silently(workdir, wavs):
    """As in `tag … | head -1`."""
    process = run_module("genre_jax.tag", f"--workdir={workdir}", "--json", *map(str, wavs))
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 141)
    process.stderr.close()


# ---------------------------------------------------------------- the three commands on a folder of every format


@pytest.mark.slow
def test_prepare_train_and_tag_a_folder_of_every_format(tmp_path):
    """The three commands of the README on mixed sample rates and channels, with one broken file per format."""
    kinds = ("mp3", "ogg", "flac", "m4a", "wav16")
    music = tmp_path / "My Music"
    for genre in ("jazz", "rock"):
        for copy in range(5):
            for kind in kinds:
                audio_files.make(music / genre, kind, f"{kind} {copy}", 0.6, seed=2 * copy + (genre == "rock"))
    for kind in kinds:
        audio_files.cut_in_half(audio_files.make(music / "jazz", kind, f"broken {kind}", 4.0))
    data = tmp_path / "data"
    out, _ = finish(run_module(
        "genre_jax.prepare", f"--source={music}", f"--data_dir={data}", "--sample_rate=8000", "--validation=0.2", "--test=0.2"
    ))  # fmt: skip
    assert "50 clips" in out and "5 quarantined" in out and "broken m4a.m4a" in out
    run = tmp_path / "run"
    out, _ = finish(run_module(
        "genre_jax.main", f"--config={ROOT}/tests/small_run.py:resnet", f"--workdir={run}", "--config.data.name=my_music",
        f"--config.data.data_dir={data}", "--config.data.labels=first",
    ))  # fmt: skip
    assert (run / "report" / "index.html").exists()
    files = [next((music / "rock").glob(f"{kind} 0.*")) for kind in kinds]
    out, _ = finish(run_module("genre_jax.tag", f"--workdir={run}", "--json", *map(str, files)))
    tags = [json.loads(line) for line in out.splitlines()]
    assert [line["file"] for line in tags] == list(map(str, files))
    for line in tags:
        assert set(line["labels"]) == {"jazz", "rock"}
        assert sum(line["labels"].values()) == pytest.approx(1)
        assert line["seconds"] == pytest.approx(0.6, abs=0.15)  # codecs pad
