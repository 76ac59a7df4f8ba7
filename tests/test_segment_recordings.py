"""Synthetic recordings are what their annotations say, the same for the same seed, and are scored as they must be."""

import csv
import hashlib
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import segment_runs
import soundfile
from conftest import finish, run_module

from genre_jax.console import UserError
from genre_jax.data import locate
from genre_jax.prepare import passport, tfrecord
from genre_jax.segment import arguments, networks, recordings, score, timeline
from genre_jax.segment.slider import Options
from genre_jax.segment.timeline import Segment

RATE, CLASSES = 16_000, ("music", "noise", "speech")
LEVELS = {"music": 1_000, "noise": 2_000, "speech": 3_000}  # of all samples of a class
QUIET = 8  # level of natural silence, -72 dB


def write_set(data_dir: Path, quiet: int = QUIET) -> Path:
    """Write a data set whose clips are constant, at the level of their class; speech has 0.5 s of silence in each clip."""
    folder, clips = locate.directory(data_dir, "levels", RATE), []
    for number, label in enumerate(CLASSES):
        for n in range(3):
            audio = np.full(RATE * (2 + n), LEVELS[label], np.int16)
            if label == "speech" and quiet:
                audio[4_800:12_800] = quiet
            name = f"test/{label}/{n}.wav"
            clips.append(tfrecord.Clip(name, name, (number,), audio, audio.max() / 32768))
    both = np.full(RATE, 9_000, np.int16)
    clips.append(tfrecord.Clip("test/both.wav", "both", (0, 1), both, 0.3))
    tfrecord.write_shards(folder, "levels", "test", clips, num_shards=1)
    passport.write(folder, {"name": "levels", "sample_rate": RATE, "labels": CLASSES, "splits": {"test": {}}})
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return recordings.material(write_set(tmp_path_factory.mktemp("data")), "test", 0, {})


def test_segments_hold_the_sound_of_their_class(parts):
    lengths: dict[str, list] = {}
    joins = {"abrupt": 0, "through silence": 0}
    for number in range(60):
        samples, segments = recordings.make(parts, np.random.default_rng(number))
        assert 20 <= len(samples) / RATE == segments[-1].end <= 120 and segments[0].start == 0
        for one, two in itertools.pairwise(segments):
            assert one.end == two.start and one.label != two.label
            joins["abrupt"] += "silence" not in (one.label, two.label)
            joins["through silence"] += two.label == "silence"
        for start, end, label, _ in segments:
            level = {QUIET} if label == "silence" else {LEVELS[label], *([QUIET] if label == "speech" else [])}
            assert set(samples[round(start * RATE) : round(end * RATE)].tolist()) <= level, label
        for part in segments[:-1]:
            lengths.setdefault(part.label, []).append(part.end - part.start)
    assert 0.8 < joins["abrupt"] / joins["through silence"] < 1.25
    for label, mean in {"silence": 0.5, "noise": 5, "speech": 10, "music": 12}.items():
        # The last piece of each recording is cut, therefore long ones are a little rarer.
        assert 0.75 * mean < np.mean(lengths[label]) < 1.2 * mean, label
        assert min(lengths[label]) >= 0.25


def test_means_can_be_set(tmp_path):
    assert recordings.parse_means("music=3,other=0.5") == {"music": 3.0, "other": 0.5}
    means = recordings.material(write_set(tmp_path), "test", 0, {"music": 3.0}).means
    assert means == {"music": 3.0, "noise": 5.0, "speech": 10.0, "silence": 0.5}
    for text in ("music", "music=", "music=0", "music=x", "music=inf"):
        with pytest.raises(UserError, match=f"positive seconds, as in music=12,noise=5, and was given '{text}'"):
            recordings.parse_means(text)
    with pytest.raises(UserError, match=r"unknown class of --means 'musik' \(did you mean 'music'\?\)"):
        recordings.material(write_set(tmp_path / "more"), "test", 0, {"musik": 3.0})


def test_a_data_set_without_silence_gets_faint_noise(tmp_path):
    parts = recordings.material(write_set(tmp_path, quiet=0), "test", 0, {"silence": 5.0})
    assert parts.quiet == []
    samples, segments = recordings.make(parts, np.random.default_rng(3))
    silent = np.concatenate([samples[round(p.start * RATE) : round(p.end * RATE)] for p in segments if p.label == "silence"])
    assert 20 * np.log10(silent.astype(float).std() / 32768) == pytest.approx(-70, abs=0.3)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_command_writes_the_same_files_for_the_same_seed(tmp_path):
    write_set(tmp_path)
    made = []
    for seed, output in ((0, "a"), (1, "c")):
        arguments = ("--data_set=levels", f"--data_dir={tmp_path}", "--count=2", f"--seed={seed}")
        out, _ = finish(run_module("genre_jax.segment.recordings", *arguments, f"--output={tmp_path / output}"))
        made.append(digests(tmp_path / output))
    assert "2 recordings, " in out and "silence: 3 portions of the data set" in out
    again = recordings.material(locate.directory(tmp_path, "levels", RATE), "test", 0, {})
    (tmp_path / "b").mkdir()
    recordings.write(again, tmp_path / "b", 2, 0)
    assert made[0] == digests(tmp_path / "b")
    assert list(made[0]) == ["0000.csv", "0000.rttm", "0000.wav", "0001.csv", "0001.rttm", "0001.wav", "index.json"]
    assert all(made[0][name] != made[1][name] for name in made[0])
    labels, files = recordings.read(tmp_path / "a")
    facts = json.loads((tmp_path / "a/index.json").read_text())
    assert labels == list(CLASSES) and [entry["sha256"] for entry in facts["files"]] == [
        made[0][f"{n:04d}.wav"] for n in (0, 1)
    ]
    for path, segments in files:
        assert segments[-1].end == soundfile.info(path).duration
        lines = path.with_suffix(".rttm").read_text().splitlines()
        assert [line.split()[7] for line in lines] == [part.label for part in segments if part.label != "silence"]
    _, err = finish(run_module("genre_jax.segment.recordings", *arguments, f"--output={tmp_path / 'a'}"), code=1)
    assert err.splitlines()[-1] == f"error: --output={tmp_path / 'a'} exists and is not an empty folder: name a new one"


def test_recordings_that_cannot_be_read_are_errors(tmp_path):
    with pytest.raises(UserError, match=r"holds no index.json: make recordings with"):
        recordings.read(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index.json is damaged: make the recordings again"):
        recordings.read(tmp_path)
    (tmp_path / "index.json").write_text('{"labels": ["a"], "files": [{"file": "0.wav"}]}')
    with pytest.raises(UserError, match=r"0.csv is missing"):
        recordings.read(tmp_path)
    for text in ("start,end,label\n", "start,end,label\n2,1,a\n", "start,end,label\n0,1,\n", "start,end,label\nx,1,a\n"):
        (tmp_path / "0.csv").write_text(text)
        with pytest.raises(UserError, match=r"0.csv (needs rows with|is damaged)"):
            recordings.read(tmp_path)


# ---------------------------------------------------------------- scores


def test_accuracies_of_a_confusion_matrix():
    confusion = np.array([[8, 1, 1], [2, 3, 0], [1, 0, 4]])  # annotated music, noise, speech
    assert score.accuracies(confusion, CLASSES) == {
        "accuracy": 15 / 20,
        "speech": (4 + 8 + 1 + 2 + 3) / 20,
        "recall": {"music": 0.8, "noise": 0.6, "speech": 0.8},
    }
    nothing = score.accuracies(np.zeros((2, 2), int), ("a", "b"))
    assert nothing == {"accuracy": None, "speech": None, "recall": {"a": None, "b": None}}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A network with random weights, a recording of 12 s whose annotation is what the network says, and options."""
    folder = tmp_path_factory.mktemp("scored")
    network = networks.load(segment_runs.write(folder / "x.safetensors"))
    wave = segment_runs.signal(12.0)
    soundfile.write(folder / "0000.wav", wave, RATE, subtype="PCM_16")
    return network, folder / "0000.wav", Options(median=0, lookahead=0.5)


def test_a_network_that_is_right_everywhere_scores_100_percent(scored, monkeypatch):
    network, path, how = scored
    monkeypatch.setattr(arguments, "options", lambda: how)
    raw, silent = score._rows(network, how, soundfile.read(path, dtype="float32")[0])
    line = timeline.Timeline(network.labels, 0.01)
    line.add(timeline.Rows(0, raw, silent))
    truth = line.finish(12.015)
    assert len(truth) > 3
    results = score.score(network, [(path, truth)], [], 10)
    assert results["frames"]["slid"]["accuracy"] == 1
    assert sum(map(sum, results["confusion"]["slid"])) == len(raw) - silent.sum()
    assert (
        results["segments_of_1_s"]["overall"]["f_measure"] == results["events"]["onset_and_offset"]["overall"]["f_measure"] == 1
    )
    # A second that is called by another name costs its frames and one or two segments.
    wrong = [Segment(0.0, 1.0, "noise", None), *[part for part in truth if part.start >= 1.0]]
    results = score.score(network, [(path, wrong)], [], 10)
    assert 0.8 < results["frames"]["slid"]["accuracy"] < 1
    assert "slid, median filter" in score.table(results) and "event" in score.table(results)


def test_windows_by_themselves_are_clips_of_the_network(scored):
    network, path, _ = scored
    pcm = soundfile.read(path, dtype="int16")[0]
    classify = networks.classifier(network)
    found = score.Windows(network, 0.5).probabilities(pcm, 100)
    last = 1 + (len(pcm) - 400) // 160 - 50
    for row, frame in zip(found, range(0, 1_201, 100), strict=False):
        start = min(max(0, frame - 25), last) * 160
        logits = classify(pcm[None, start : start + 49 * 160 + 400])
        np.testing.assert_allclose(row, np.asarray(score.metrics.softmax(logits))[0], rtol=0, atol=1e-5)
    assert found.std(0).min() > 1e-2
    # Zeros before a window are another context than the true one.
    slid, _ = score._rows(network, Options(median=0, lookahead=0.25), soundfile.read(path, dtype="float32")[0])
    assert np.abs(slid[300:900:100] - found[3:9]).max() > 1e-3


def test_windows_of_another_length_than_a_network_reads_are_an_error(tmp_path):
    run = segment_runs.write(
        tmp_path / "x.safetensors", "swishnet.py:teacher", gain=1.0, model__name="choi_cnn", model__hidden=4
    )
    network = networks.load(run)
    with pytest.raises(UserError, match=r"this network reads windows of 2.015 s alone, and was given 0.5 s: set --context"):
        score.Windows(network, 0.5).probabilities(np.zeros(RATE, np.int16), 100)


def test_the_command_scores_and_refuses(scored, tmp_path, monkeypatch, capsys):
    network, path, how = scored
    folder = path.parent
    (folder / "index.json").write_text(json.dumps({"labels": CLASSES, "files": [{"file": "0000.wav"}]}))
    monkeypatch.setattr(arguments, "options", lambda: how)
    monkeypatch.setattr(arguments, "load", lambda: network)
    values = {"workdir": "run", "recordings": str(folder), "context": ["0.5"], "every": 200, "limit": None, "json": None}

    def call(label: str, **given):
        with (folder / "0000.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("start", "end", "label"), (0, 6, label), (6, 12, "music")])
        monkeypatch.setattr(score, "flags", SimpleNamespace(FLAGS=SimpleNamespace(**(values | given))))
        score.main(["score"])
        return capsys.readouterr().out

    out = call("speech", json=str(tmp_path / "x.json"))
    assert out.startswith("1 recordings of music, noise, speech\nframes (%)")
    written = json.loads((tmp_path / "x.json").read_text())
    assert list(written["frames"]) == ["slid, median filter", "slid", "0.5 s windows, median filter", "0.5 s windows"]
    assert sum(map(sum, written["confusion"]["slid"])) == 1_200 and sum(map(sum, written["confusion"]["0.5 s windows"])) == 6
    assert written["frames"]["slid"]["recall"]["noise"] is None
    with pytest.raises(UserError, match="the recordings hold the class 'jazz', and run knows music, noise, speech"):
        call("jazz")
    with pytest.raises(UserError, match=r"--context must be lengths of 0.05 to 60 s, as in 0.5,1,2, and was given '1,x'"):
        call("speech", context=["1", "x"])
    with pytest.raises(UserError, match="--workdir=DIR and --recordings=DIR are needed"):
        call("speech", workdir=None)
