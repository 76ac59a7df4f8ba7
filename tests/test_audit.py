"""`prepare --check` reports missing, faulty and leaking clips, and training never draws an excluded clip."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import audit_set
import numpy as np
import pytest
from conftest import ROOT, finish, run_module, small_config

from genre_jax.console import UserError
from genre_jax.data import locate, shards
from genre_jax.data.batches import TrainBatches
from genre_jax.datasets.audioset import music_labels
from genre_jax.datasets.synthetic import music
from genre_jax.prepare import audit, audit_clips, audit_report, tfrecord
from genre_jax.prepare import passport as passports
from genre_jax.run import Run

RATE = 8000
SHARED = ROOT.parent / "shared" / "audio"


def pcm(samples: np.ndarray) -> np.ndarray:
    return np.round(np.clip(samples, -1, 32767 / 32768) * 32768).astype(np.int16)


def write(data_dir: Path, rows, name: str = "odd", **changes) -> Path:
    """A data set at 8 kHz from rows (split, name, labels, samples)."""
    folder = locate.directory(data_dir, name, RATE)
    splits = list(dict.fromkeys(row[0] for row in rows))
    for split in splits:
        clips = [
            tfrecord.Clip(row[1], row[1], row[2], pcm(row[3]), float(pcm(row[3]).max()) / 32768)
            for row in rows
            if row[0] == split
        ]
        tfrecord.write_shards(folder, name, split, clips)
    facts = {"name": name, "sample_rate": RATE, "labels": ["high", "low"], "splits": {split: {} for split in splits}} | changes
    passports.write(folder, facts)
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def tracks() -> list[np.ndarray]:
    return list(audit_set.tracks(10, RATE, 6.0).values())


@pytest.fixture(scope="module")
def odd(tmp_path_factory, tracks) -> Path:
    """A data set with every fault once, two copies across splits, and one copy within a split."""
    half = music.render("swing", 9, sample_rate=8000, seconds=3.0)
    narrow = np.interp(np.arange(6 * RATE) / 2, np.arange(len(half)), half)
    spectrum = np.fft.rfft(narrow)
    spectrum[len(spectrum) // 2 :] = 0  # like the result of a resampler
    rows = [("train", f"t{n}", (n % 2,), track) for n, track in enumerate(tracks)]
    rows += [
        ("train", "clipped", (0,), np.clip(4 * tracks[0][::-1], -1, 1)),
        ("train", "silent", (0,), np.zeros(RATE)),
        ("train", "narrow", (1,), np.fft.irfft(spectrum, len(narrow))),
        ("train", "again", (0,), tracks[1]),  # a copy of t1 with the other label
        ("test", "later", (1,), tracks[3][2 * RATE :]),
        ("test", "quieter", (0,), 0.5 * tracks[4]),
        ("test", "silent too", (0,), np.zeros(RATE)),
        ("test", "own", (1,), music.render("waltz", 50, sample_rate=RATE, seconds=6.0)),
    ]
    columns, files = ["name", "rate"], [[row[1], 44100 if row[1] != "narrow" else 4000] for row in rows]
    missing = {"test": {"clips": 3, "classes": {"high": 1, "low": 2}}}
    return write(tmp_path_factory.mktemp("odd"), rows, files={"columns": columns, "rows": files}, missing=missing)


@pytest.fixture(scope="module")
def checked(odd, tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("checked") / "odd" / f"{RATE}hz" / "1.0.0"
    shutil.copytree(odd, folder)
    return audit.check(folder, workers=1), folder


def test_faults_are_told_by_name(checked):
    facts, _ = checked
    audio = facts["audio"]
    assert audio["clipped"] == ["clipped"]
    assert audio["silent"] == ["silent", "silent too"]
    assert audio["narrow"] == ["narrow"]
    assert audio["from_a_lower_rate"] == 1 and audio["folder_says_hz"] == RATE and audio["too_long"] == []
    assert audio["identical"] == 2  # the clips "again" and "silent too"
    assert audio["identical_with_other_labels"] == 1


def test_clips_are_counted_by_split_and_class_beside_what_is_missing(checked):
    facts, _ = checked
    train_split, test_split = facts["splits"]["train"], facts["splits"]["test"]
    assert (train_split["clips"], train_split["missing"], train_split["published"]) == (14, 0, None)
    assert train_split["classes"] == {"high": {"clips": 8, "missing": 0}, "low": {"clips": 6, "missing": 0}}
    assert (test_split["clips"], test_split["missing"]) == (4, 3)
    assert test_split["classes"] == {"high": {"clips": 2, "missing": 1}, "low": {"clips": 2, "missing": 2}}
    assert test_split["map_error"] > 0 and "map_error" not in train_split


def test_pairs_end_in_a_table_and_the_training_clip_is_excluded(checked):
    facts, folder = checked
    rows = [{key: row[key] for key in ("stays", "goes", "goes_split", "kind")} for row in table(folder / "duplicates.csv")]
    assert rows == [
        {"stays": "later", "goes": "t3", "goes_split": "train", "kind": "alike"},
        {"stays": "quieter", "goes": "t4", "goes_split": "train", "kind": "alike"},
        {"stays": "again", "goes": "t1", "goes_split": "train", "kind": "identical"},
    ]
    (late,) = [row for row in table(folder / "duplicates.csv") if row["stays"] == "later"]
    assert float(late["offset_seconds"]) == pytest.approx(2.0, abs=0.02)  # the sound begins later in the clip that goes
    excluded = [(row["name"], row["split"], row["duplicate_of"]) for row in table(folder / "exclude.csv")]
    assert excluded == [("t3", "train", "later"), ("t4", "train", "quieter")]
    assert facts["leaks"]["across_splits"] == 2 and facts["leaks"]["within_splits"] == 1 and facts["leaks"]["excluded"] == 2
    page = (folder / "check.md").read_text()
    assert "| later | test | t3 | train | alike | 2.00 |" in page and "| high | 8 (0) | 2 (1) |" in page
    assert json.loads((folder / "check.json").read_text()) == facts


def test_checking_again_gives_the_same_and_keeps_what_was_written_by_hand(odd, checked, tmp_path):
    facts, _ = checked
    other = locate.directory(tmp_path, "odd", RATE)
    shutil.copytree(odd, other)
    (other / "exclude.csv").write_text("split,name\ntrain,t7\n")
    audit.check(other, workers=1)
    for _ in range(2):
        rows = [(row["name"], row["duplicate_of"]) for row in table(other / "exclude.csv")]
        assert rows == [("t7", ""), ("t3", "later"), ("t4", "quieter")]
        assert audit.check(other, workers=1) == facts | {"folder": str(other)}  # excluded clips are checked too


def test_an_excluded_clip_is_never_drawn(tones, tmp_path, capsys):
    shutil.copytree(tones / "tones", tmp_path / "tones")
    folder = locate.directory(tmp_path, "tones", 8000)
    whole = shards.load_index(folder, "train")
    gone = {whole.names[2], whole.names[13]}
    (folder / "exclude.csv").write_text("name,split\n" + "".join(f"{name},train\n" for name in sorted(gone)))
    config = small_config(tmp_path)
    capsys.readouterr()
    run = Run(config)
    assert capsys.readouterr().out.splitlines() == ["exclude.csv leaves out 2 clips of data set 'tones'"]
    index = run.splits["train"]
    assert set(index.names) == set(whole.names) - gone and run.program.clips == len(index) == len(whole) - 2
    batches = TrainBatches(index, config)
    drawn = Counter(index.names[clip] for number in range(3 * 22) for clip in batches(number)["clip"])
    assert set(drawn) == set(index.names)
    for row, name in enumerate(index.names):  # all columns have the same order as the names
        old = whole.names.index(name)
        np.testing.assert_array_equal(index.cut(row, 0, 500), whole.cut(old, 0, 500))
        assert index.tracks[index.track[row]] == whole.tracks[whole.track[old]]
        assert (index.labels[row] == whole.labels[old]).all() and index.first_label[row] == whole.first_label[old]
    assert len(shards.load_index(folder, "test")) == 12
    assert len(shards.load_index(folder, "train", whole=True)) == len(whole)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("name,split\nnone.wav,train\n", "exclude.csv of data set 'tones' lists 'none.wav', and split 'train' has no such clip: take "
         "the row out"),
        ("name,split\na,trian\n", r"exclude.csv, row 2: unknown split 'trian' \(did you mean 'train'\?\): choose one of test, train, "
         "validation$"),
        ("clip\na\n", "exclude.csv needs the columns name and split, and has clip$"),
        ("", "exclude.csv needs the columns name and split, and has none$"),
    ],
)  # fmt: skip
def test_a_wrong_exclude_file_gets_a_sentence(tones, tmp_path, content, sentence):
    shutil.copytree(tones / "tones", tmp_path / "tones")
    folder = locate.directory(tmp_path, "tones", 8000)
    (folder / "exclude.csv").write_text(content)
    with pytest.raises(UserError, match=sentence):
        shards.load_index(locate.find(small_config(tmp_path)), "train")


def audioset(data_dir: Path, tracks, **changes) -> Path:
    rows = [("eval", f"e{n}", (n,), track) for n, track in enumerate(tracks[:3])]
    rows += [("balanced", f"b{n}", (n, 66), track) for n, track in enumerate(tracks[3:5])]
    facts = {"dataset": "audioset_music", "labels": list(music_labels().values())} | changes
    return write(data_dir, rows, "audioset_music", **facts)


def test_audioset_is_counted_beside_the_published_numbers(tmp_path, tracks, monkeypatch):
    monkeypatch.setattr(audit_report, "missing_error", lambda labels, missing: 0.05)
    facts = audit.check(audioset(tmp_path / "a", tracks), workers=1)
    lines = audit_report.findings(facts)
    assert lines[0] == "eval: 3 clips of 2,574 published (0.1%), 2,571 missing"
    assert lines[2] == "balanced: 2 clips of 3,146 published (0.1%), 3,144 missing"
    assert "±0.050" in lines[1]
    unchanged = "unchanged since the data set was prepared, equal to the order of AudioSet's 67 music classes"
    assert facts["labels"]["order"] == unchanged
    swapped = list(music_labels().values())
    swapped[3], swapped[5] = swapped[5], swapped[3]
    facts = audit.check(audioset(tmp_path / "b", tracks, labels=swapped), workers=1)
    changed = "unchanged since the data set was prepared, different from the order of AudioSet's 67 music classes"
    assert facts["labels"]["order"] == changed
    facts = audit.check(audioset(tmp_path / "c", tracks, protocol="100:0"), workers=1)
    assert facts["splits"]["eval"]["published"] is None  # a subset is not compared with the published numbers


def test_error_bar_grows_with_what_is_missing_and_shrinks_with_what_is_there():
    rng = np.random.default_rng(0)
    labels = (rng.random((800, 4)) < 0.05).astype(np.uint8)
    few, many = (audit_report.missing_error(labels, missing) for missing in (8, 200))
    assert 0 < few < many / 2 < 0.1
    assert audit_report.missing_error(labels[:100], 25) > 1.5 * many  # the same share of fewer clips
    assert audit_report.missing_error(labels, 0) == 0.0
    assert audit_report.missing_error(labels, 8) == few


def test_workers_hear_what_one_process_hears(odd, monkeypatch):
    alone, damaged = audit_clips.read(odd, ["train", "test"], 1)
    assert not damaged
    monkeypatch.setattr(audit_clips, "_FEW", 0)
    monkeypatch.setattr(audit_clips, "_CHUNK", 3)
    for one, other in zip(alone, audit_clips.read(odd, ["train", "test"], 2)[0], strict=True):
        assert (one.name, one.split, one.heard.digest, one.heard.rms) == (
            other.name,
            other.split,
            other.heard.digest,
            other.heard.rms,
        )
        np.testing.assert_array_equal(one.heard.fingerprint.hashes, other.heard.fingerprint.hashes)


def test_progress_tells_rate_and_time_left(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(audit_clips.time, "monotonic", lambda: now[0])
    progress = audit_clips.Progress("listening", 1000)
    for done, seconds in ((10, 1), (200, 4), (210, 4.1), (600, 12)):
        now[0] = 100 + seconds
        progress(done, 1000)
    assert capsys.readouterr().out.splitlines() == [
        "listening: 200/1,000 clips  50 clips/s  ETA 0:16",
        "listening: 600/1,000 clips  50 clips/s  ETA 0:08",
    ]


def test_the_command_line(odd, tmp_path):
    shutil.copytree(odd.parents[2], tmp_path / "data")
    command = ("genre_jax.prepare", "--check", str(tmp_path / "data"), "--strict")
    out, err = finish(run_module(*command, hide=("tensorflow", "librosa", "jax")), code=1)
    assert "leak audit: 2 pairs across splits, 1 pairs within a split" in out
    folder = locate.directory(tmp_path / "data", "odd", RATE)
    assert f"reports: {folder}/check.md, duplicates.csv; exclude.csv lists 2 clips, which training leaves out" in out
    assert err == f"error: 2 clips of {folder} are also in another split (see duplicates.csv), and --strict allows none\n"


def test_the_data_set_to_check_is_named_found_or_told(odd, tmp_path):
    data_dir = odd.parents[2]
    assert audit._folders(odd, None) == audit._folders(data_dir, None) == audit._folders(data_dir, "odd") == [odd]
    with pytest.raises(UserError, match=r"unknown data set 'old' \(did you mean 'odd'\?\): choose one of odd"):
        audit._folders(data_dir, "old")
    with pytest.raises(
        UserError,
        match="there is no prepared data set in '.*': pass the --data_dir of a prepare, or the folder of one data set",
    ):
        audit._folders(tmp_path, None)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/audio")
@pytest.mark.parametrize("seed", [0, 5])
def test_twenty_copies_among_four_hundred_clips(tmp_path, seed):
    """Real recordings, noises of ESC-10 and synthetic tracks. A pair is false if its clips are from different recordings."""
    rate = 16000
    clips = audit_set.real(SHARED, rate)
    clips |= audit_set.tracks(380 - len(clips), rate)
    planted = audit_set.plant(clips, rate, each=4, seed=seed)
    splits = {"train": clips, "test": {name: samples for name, (_, samples) in planted.items()}}
    assert sum(map(len, splits.values())) == 400
    folder = audit_set.write(locate.directory(tmp_path, "audit", rate), rate, splits)
    audit.check(folder)
    original = {name: of for name, (of, _) in planted.items()}
    pairs = [(row["stays"], row["goes"]) for row in table(folder / "duplicates.csv")]
    found = {stays for stays, goes in pairs if original.get(stays) == goes}
    recordings = [{original.get(name, name).partition("/")[0] for name in pair} for pair in pairs]
    false = [pair for pair, names in zip(pairs, recordings, strict=True) if len(names) > 1]
    print(f"found {len(found)} of 20, {len(false)} false, {len(pairs) - len(found) - len(false)} of one recording that repeats")
    assert len(found) >= 19 and len(false) <= 1
    assert {row["name"] for row in table(folder / "exclude.csv")} >= {original[name] for name in found}


@pytest.mark.slow
def test_the_benchmark_finds_what_it_plants(tmp_path):
    finish(run_module("genre_jax.bench", "audit", "--clips=20", "--copies=5", f"--json={tmp_path / 'row.json'}"))
    row = json.loads((tmp_path / "row.json").read_text())["row"]
    assert row["clips"] == 25 and row["planted"] == 5
    assert row["found"] >= 4 and row["other_pairs"] == []
    assert row["peak_mb"] > 0 and row["listening_core_s"] > 0


def test_damage_is_named_and_ends_with_code_1(odd, tmp_path):
    """A clip, a shard and a passport: each of three data sets has a fault, and all three are checked."""
    from test_shards import flip

    folders = {}
    for name in ("clip", "shard", "passport"):
        folders[name] = locate.directory(tmp_path, name, RATE)
        shutil.copytree(odd, folders[name])
    index = shards.load_index(folders["clip"], "train")
    flip(index.shards[0], 8 * int(index.offset[2]) + 3)
    next(folders["shard"].glob("*-test.tfrecord-*")).unlink()
    flip(folders["passport"] / "passport.json", 100)
    out, err = finish(run_module("genre_jax.prepare", "--check", str(tmp_path)), code=1)
    assert "1 damaged clips, whose bytes differ from their checksums" in out
    facts = json.loads((folders["clip"] / "check.json").read_text())
    assert facts["audio"]["damaged"] == [index.names[2]] and facts["clips"] == sum(len(s) for s in _splits(folders["clip"])) - 1
    assert f"error: {folders['shard']} lacks odd-test.tfrecord-00000-of-00001" in err
    assert f"error: {folders['passport'] / 'passport.json'} " in err


def _splits(folder: Path) -> list:
    return [shards.load_index(folder, split, whole=True) for split in locate.read_passport(folder)["splits"]]
