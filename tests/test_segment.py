"""The command `segment`: formats, files that cannot be used, and live streams."""

import csv
import io
import json
import os
import signal as signals
import subprocess
import sys
import time
from types import SimpleNamespace

import audio_files
import numpy as np
import pytest
import segment_runs
import soundfile
from conftest import ROOT, finish, run_module
from segment_runs import LABELS, RATE, signal

from genre_jax import __main__ as commands
from genre_jax.console import UserError
from genre_jax.prepare import audio
from genre_jax.segment import __main__ as command
from genre_jax.segment import arguments, live, networks, timeline
from genre_jax.segment.recording import segment
from genre_jax.segment.slider import Options, Rows
from genre_jax.segment.timeline import Segment, Timeline

SEGMENTS = [Segment(0.0, 1.5, "silence", None), Segment(1.5, 3_661.25, "a b", 0.75), Segment(3_661.25, 3_662.0, "c,d", 1.0)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A slim SwishNet with random weights."""
    return segment_runs.write(tmp_path_factory.mktemp("run") / "slim.safetensors")


@pytest.fixture(scope="module")
def network(run):
    return networks.load(run)


@pytest.fixture
def call(network, run, monkeypatch, capfd):
    """A function of file names and flags that runs the command in this process; returns exit code, output and errors."""

    def call(*names: object, **given) -> tuple[int, str, str]:
        values = dict.fromkeys(("json", "rttm", "csv", "audacity", "stream", "changes"), False)
        values |= {"workdir": str(run), "hop": 0.1, "lookahead": None, "median": 200, "silence_db": -60.0, "min_silence": 0.1}
        flags = SimpleNamespace(FLAGS=SimpleNamespace(**(values | {"rate": None} | given)))
        for module in (command, arguments):
            monkeypatch.setattr(module, "flags", flags)
        monkeypatch.setattr(arguments.networks, "load", lambda *arguments: network)
        capfd.readouterr()
        code = command.main(["segment", *map(str, names)])
        return code, *capfd.readouterr()

    return call


# ---------------------------------------------------------------- segments and their formats


def test_runs_of_decisions_become_segments_for_any_blocks():
    rng = np.random.default_rng(0)
    probabilities = np.repeat(rng.random((12, 2)), 5, 0)
    silent = np.repeat(rng.random(12) < 0.3, 5)
    wanted, start = [], 0
    names = ["silence" if quiet else "ab"[row.argmax()] for row, quiet in zip(probabilities, silent, strict=True)]
    for t in range(1, 61):
        if t == 60 or names[t] != names[start]:
            share = None if names[start] == "silence" else probabilities[start:t, "ab".index(names[start])].mean()
            wanted.append((start * 0.01, 0.604 if t == 60 else t * 0.01, names[start], share))
            start = t
    assert len(wanted) > 4
    for size in (1, 7, 60):
        line = Timeline(("a", "b"), 0.01)
        for at in range(0, 60, size):
            line.add(Rows(at, probabilities[at : at + size], silent[at : at + size]))
        found = line.finish(0.604)
        assert [part.label for part in found] == [label for _, _, label, _ in wanted]
        for part, (*times, _, share) in zip(found, wanted, strict=True):
            assert part[:2] == pytest.approx(times) and (part.probability == share or part.probability == pytest.approx(share))


def test_formats():
    assert timeline.as_text("x\n.wav", 3_662.0, SEGMENTS).splitlines() == [
        "x\\n.wav  (1:01:02.00, 3 segments)",
        "     0:00.00 -    0:01.50  silence",
        "     0:01.50 - 1:01:01.25  a b       75%",
        "  1:01:01.25 - 1:01:02.00  c,d      100%",
        "  total: a b 1:00:59.75 (99.9%), silence 0:01.50 (0.0%), c,d 0:00.75 (0.0%)",
    ]
    values = json.loads(timeline.as_json("x.wav", 3_662.0, SEGMENTS))
    assert values["segments"][:2] == [
        {"start": 0.0, "end": 1.5, "label": "silence", "probability": None},
        {"start": 1.5, "end": 3661.25, "label": "a b", "probability": 0.75},
    ]
    assert values["totals"] == {"a b": 3659.75, "silence": 1.5, "c,d": 0.75} and values["seconds"] == 3662.0
    assert timeline.as_rttm("a dir/my show.wav", 3_662.0, SEGMENTS).splitlines() == [
        "SPEAKER my_show 1 1.500 3659.750 <NA> <NA> a_b 0.75 <NA>",
        "SPEAKER my_show 1 3661.250 0.750 <NA> <NA> c,d 1 <NA>",
    ]
    rows = list(csv.DictReader(io.StringIO(f"{timeline.CSV_HEADER}\n{timeline.as_csv('x.wav', 3_662.0, SEGMENTS)}")))
    assert rows[2] == {"file": "x.wav", "start": "3661.250", "end": "3662.000", "label": "c,d", "probability": "1"}
    assert rows[0]["probability"] == ""
    assert timeline.as_audacity("x.wav", 3_662.0, SEGMENTS).splitlines()[1] == "1.500000\t3661.250000\ta b"


def test_the_command_is_listed():
    assert commands.COMMANDS["segment"][0] == "genre_jax.segment"


# ---------------------------------------------------------------- files


def test_a_file_of_any_rate_and_channels_has_segments_that_cover_it(network, tmp_path):
    wave = signal(6.0)
    stereo = np.stack([wave, 0.5 * wave], 1)
    soundfile.write(tmp_path / "x.flac", np.repeat(stereo, 4, 1), 44_100)
    told: list = []
    seconds, parts = segment(network, str(tmp_path / "x.flac"), Options(), lambda *what: told.append(what))
    assert seconds == pytest.approx(len(wave) / 44_100, abs=1e-3) and told[-1] == (seconds, None)
    assert parts[0].start == 0 and parts[-1].end == seconds
    assert [part.end for part in parts[:-1]] == [part.start for part in parts[1:]]
    assert {part.label for part in parts} <= {*LABELS, "silence"} and len(parts) > 1
    assert segment(network, (tmp_path / "x.flac").read_bytes(), Options()) == (seconds, parts)


def test_silence_is_a_segment(network, tmp_path):
    wave = signal(6.0).copy()
    wave[2 * RATE : 3 * RATE] *= 0
    wave[4 * RATE : 4 * RATE + 800] = 0  # 50 ms
    soundfile.write(tmp_path / "x.wav", wave, RATE, subtype="FLOAT")

    def silences(**options) -> list:
        _, parts = segment(network, str(tmp_path / "x.wav"), Options(median=0, **options))
        return [(part.start, part.end) for part in parts if part.label == "silence"]

    # The signal itself is silent from 1 s on for 200 ms. A frame of 25 ms is silent if all of it is.
    assert silences() == [(1.0, pytest.approx(1.18)), (2.0, pytest.approx(2.98))]
    assert (4.0, pytest.approx(4.03)) in silences(least_silence=0.0)
    assert silences(silence_db=20.0) == [(0.0, pytest.approx(6.015))]
    assert silences(silence_db=-400.0) == silences()  # zeros have no power at all


def test_files_that_cannot_be_used_are_told_and_the_others_are_segmented(call, tmp_path):
    wave = signal(3.0)
    soundfile.write(tmp_path / "good.wav", wave, RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "short.wav", wave[:160], RATE)
    soundfile.write(tmp_path / "eight.wav", np.stack([wave] * 8, 1), 48_000)
    broken = wave.copy()
    broken[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, RATE, subtype="FLOAT")
    (tmp_path / "text.mp3").write_text("not music\n" * 300)
    (tmp_path / "empty.wav").write_bytes(b"")
    audio_files.make(tmp_path, "flac", "cut")
    audio_files.cut_in_half(tmp_path / "cut.flac")
    names = ["good.wav", "nan.wav", "silent.wav", "text.mp3", "short.wav", "empty.wav", "cut.flac", "none.wav", "eight.wav"]
    (tmp_path / "folder").mkdir()
    code, out, err = call(*(tmp_path / name for name in names), tmp_path / "folder", json=True)
    assert code == 1
    found = {os.path.basename(line["file"]): line for line in map(json.loads, out.splitlines())}
    assert list(found) == ["good.wav", "silent.wav", "short.wav", "eight.wav"]
    assert found["silent.wav"]["segments"] == [{"start": 0.0, "end": 1.0, "label": "silence", "probability": None}]
    assert [part["end"] for part in found["short.wav"]["segments"]] == [0.01]
    errors = [line.removeprefix(f"error: {tmp_path}/") for line in err.splitlines() if line.startswith("error")]
    assert errors[0] == "folder: found no audio below this folder, expected " + audio.KNOWN
    assert errors[1] == "nan.wav: the signal holds samples that are not finite (NaN or infinity)"
    assert errors[2].startswith("text.mp3: not an audio file") and errors[3] == "empty.wav: the file has zero bytes"
    assert errors[4].startswith("cut.flac: decoding stopped") and errors[5:] == ["none.wav: no such file"]


def test_outputs_of_the_command(call, network, tmp_path):
    soundfile.write(tmp_path / "a.wav", signal(3.0), RATE)
    soundfile.write(tmp_path / "b.wav", signal(4.0, 1), RATE)
    _, parts = segment(network, str(tmp_path / "a.wav"), Options())
    code, out, _ = call(tmp_path, csv=True)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and {os.path.basename(row["file"]) for row in rows} == {"a.wav", "b.wav"}
    assert [row["label"] for row in rows if row["file"].endswith("a.wav")] == [part.label for part in parts]
    assert call(tmp_path / "a.wav", audacity=True)[1].splitlines()[0].split("\t")[2] == parts[0].label
    assert call(tmp_path / "a.wav", rttm=True)[1].startswith("SPEAKER a 1 0.000 ")
    assert call(tmp_path / "a.wav")[1].splitlines()[0].endswith(f"a.wav  (0:03.02, {len(parts)} segments)")


@pytest.mark.parametrize(
    "names, flags, message",
    [
        ([], {}, "at least one audio file or folder is needed: python -m genre_jax.segment --workdir=DIR SHOW.mp3"),
        (["x.wav"], {"json": True, "csv": True}, "--json and --csv were both given: choose one of them"),
        (["x.wav"], {"workdir": None}, "--workdir is needed: the workdir of a trained run, a file of save_pretrained, or hf://…"),
        (["x.wav"], {"rate": 8_000}, "--rate=8000 needs --stream"),
        (["x.wav"], {"changes": True}, "--changes needs --stream"),
        (["x.wav"], {"stream": True}, "--stream reads standard input and prints CSV, and x.wav was given"),
        ([], {"stream": True, "rttm": True}, "--stream reads standard input and prints CSV, and --rttm was given"),
        ([], {"stream": True, "rate": 999}, "--rate must be 1000 to 768000 Hz, and was given 999"),
        ([], {"stream": True, "rate": 768_001}, "--rate must be 1000 to 768000 Hz, and was given 768001"),
        (["a.wav", "b.wav"], {"audacity": True}, "--audacity prints the labels of one file, and 2 were given: call it for each file"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(call, names, flags, message):
    with pytest.raises(UserError) as error:
        call(*names, **flags)
    assert str(error.value) == message


def test_log_mmse_is_left_out_and_said(tmp_path, monkeypatch, capsys):
    run = segment_runs.write(tmp_path / "x.safetensors", data__conditioning=["log_mmse", "equalise_loudness"])
    values = SimpleNamespace(workdir=str(run), hop=0.1, lookahead=None)
    monkeypatch.setattr(arguments, "flags", SimpleNamespace(FLAGS=values))
    arguments.load()
    assert capsys.readouterr().err.splitlines() == [
        "note: the data of this run were conditioned by log_mmse, which needs a whole file: it is left out here"
    ]


# ---------------------------------------------------------------- live streams


def pcm(seconds: float) -> bytes:
    return (signal(seconds) * 32767).astype("<i2").tobytes()


def followed(run, data: list[bytes], rate: int, capsys, changes: bool = False) -> list[list[str]]:
    """The rows that `live.follow` prints for these writes to a pipe."""
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "wb", buffering=0) as pipe:
        for part in data:
            pipe.write(part)
        pipe.close()
        capsys.readouterr()
        live.follow(networks.load(run, live=True), Options(), reading, rate, changes)
    return list(csv.reader(io.StringIO(capsys.readouterr().out)))


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_stream_has_the_decisions_of_a_file(run, network, tmp_path, capsys, rate):
    data = pcm(0.95 * 16_000 / rate * 2)[: 2 * 30_000]  # fits a pipe
    soundfile.write(tmp_path / "x.wav", np.frombuffer(data, "<i2"), rate, subtype="PCM_16")
    _, parts = segment(network, str(tmp_path / "x.wav"), Options())
    head, *rows = followed(run, [data[:1], data[1:5_002], data[5_002:] + b"\x01"], rate, capsys)  # ends within a sample
    assert head == ["time", "label", *LABELS]
    times = [float(row[0]) for row in rows]
    assert times == pytest.approx(np.arange(len(rows)) * 0.01)
    for row, at in zip(rows, times, strict=True):
        (label,) = [part.label for part in parts if part.start <= at + 0.005 < part.end]
        assert row[1] == label
    assert max(float(row[2]) for row in rows) <= 1
    whole = followed(run, [data], rate, capsys)
    assert whole == [head, *rows]
    changed = followed(run, [data], rate, capsys, changes=True)
    expected = [row for row, before in zip(rows, [["", ""], *rows[:-1]], strict=True) if row[1] != before[1]]
    assert changed[1:-1] == expected and changed[-1] == [f"{parts[-1].end:.2f}", "end", *[""] * len(LABELS)]


def start(run, *options: str) -> subprocess.Popen:
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    # A background job of a shell ignores Ctrl-C, and so would its children.
    hears = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    module = "runpy.run_module('genre_jax.segment', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", hears + module, f"--workdir={run}", "--stream", *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def test_a_slow_writer_is_answered_before_the_end_and_ctrl_c_ends_quietly(run):
    process = start(run)
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(pcm(1.0))
    process.stdin.flush()
    time.sleep(0.3)  # a pause
    process.stdin.write(pcm(2.0))
    process.stdin.flush()  # and the pipe stays open
    lines = [process.stdout.readline().decode() for _ in range(100)]
    assert lines[0] == "time,label,music,noise,speech\n" and lines[99].startswith("0.98,")
    process.send_signal(signals.SIGINT)
    try:
        assert process.wait(60) == 130
        assert process.stderr.read().decode().splitlines()[-1] == "interrupted"
    finally:
        process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def test_a_reader_that_goes_away_ends_the_command_quietly(run):
    process = start(run)
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    assert process.communicate(pcm(4.0), timeout=60)[1] == b"" and process.returncode == 141


def test_an_empty_stream_and_a_wrong_rate_are_errors(run):
    process = start(run)
    _, err = process.communicate(b"\x00", timeout=60)
    assert process.returncode == 1 and err.decode().splitlines() == ["error: standard input: the signal holds no samples"]


def test_standard_input_holds_an_encoded_file(run):
    data = io.BytesIO()
    soundfile.write(data, signal(2.0), RATE, format="WAV", subtype="PCM_16")
    process = run_module("genre_jax.segment", f"--workdir={run}", "--json", "-", stdin=subprocess.PIPE)
    process.stdin.buffer.write(data.getvalue())
    out, _ = finish(process)
    values = json.loads(out)
    assert values["file"] == "-" and values["seconds"] == pytest.approx(2.015)
