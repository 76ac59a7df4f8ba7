"""`prepare`: every file is in a shard or in quarantine, tracks stay in one split, and no data set is left incomplete."""

import csv
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import audio_files
import hostile
import numpy as np
import pytest
import soundfile

from genre_jax.console import UserError
from genre_jax.data import locate, shards
from genre_jax.datasets import DATASETS, Item
from genre_jax.prepare import audio, build, parts
from genre_jax.prepare.__main__ import summary
from genre_jax.prepare.workers import Limits

RATE = 16000
OPTIONS = {"validation": 0.1, "test": 0.1, "workers": 2}
LIMITS = Limits(timeout=4.0, memory_gb=1.0)
SHARED = Path(__file__).parents[2] / "shared" / "audio"

BROKEN = {  # name → pattern of the reason in quarantine.csv
    "jazz/half.wav": "^cut off: ",
    "jazz/half.flac": "^decoding stopped after ",
    "jazz/half.ogg": "^cut off: ",
    "jazz/half.mp3": "^cut off: ",
    "jazz/half.opus": "^cut off: ",
    "jazz/half.m4a": "^not an audio file that soundfile or FFmpeg can read: ",
    "jazz/half.webm": "^cut off: ",
    "rock/zero.ogg": "^the file has zero bytes$",
    "rock/text.mp3": "^not an audio file",
    "rock/header.wav": "^empty: the file holds no samples$",
    "rock/silent.flac": "^the mono mix is silent: no sample exceeds 0.0001 of full scale$",
    "rock/antiphase.wav": "^the mono mix is silent, but the channels are not: they cancel each other, ",
    "rock/nan.wav": "^the file holds samples that are not finite",
    "rock/short.wav": r"^too short: 0\.050 s, the minimum is 0\.1 s$",
    "rock/one.wav": "^too short: ",
}


def make_messy(top: Path) -> None:
    """Three classes in files of all kinds, one broken file of each kind, and files that are not audio."""
    for number, kind in enumerate(audio_files.KINDS):
        for genre in ("jazz", "rock", "Hip hop"):
            for copy in range(2):
                deep = f"{genre}/disc {copy}" if copy else genre
                audio_files.make(top / deep, kind, f"song {number}", 0.8, seed=100 * number + copy)
    for kind in ("wav16", "flac", "ogg", "mp3", "opus", "m4a", "webm"):
        audio_files.cut_in_half(audio_files.make(top / "jazz", kind, "half", 4.0))
    (top / "rock/zero.ogg").touch()
    (top / "rock/text.mp3").write_text("not music\n" * 300)
    tone = audio_files.chord(0.5, 8000, 1)
    soundfile.write(top / "rock/header.wav", tone[:0], 8000)
    soundfile.write(top / "rock/silent.flac", tone * 0, 8000)
    soundfile.write(top / "rock/antiphase.wav", np.concatenate([tone, -tone], axis=1), 8000)
    soundfile.write(top / "rock/nan.wav", np.where(np.arange(4000)[:, None] == 1234, np.nan, tone), 8000, subtype="FLOAT")
    soundfile.write(top / "rock/short.wav", tone[:400], 8000)
    soundfile.write(top / "rock/one.wav", tone[:1] + 0.5, 8000)
    soundfile.write(top / "rock/loud.wav", tone * 10, 8000, subtype="FLOAT")
    (top / "rock/cover.jpg").write_bytes(b"\xff\xd8")
    (top / "rock/notes.txt").write_text("live")
    (top / "rock/._song.mp3").write_bytes(b"\0\5\x16\7")
    (top / "scans").mkdir()
    (top / "scans/a.jpg").write_bytes(b"\xff\xd8")
    soundfile.write(top / "stray.wav", tone, 8000)
    (top / "jazz/again").symlink_to(top / "jazz")  # a loop


@pytest.fixture(scope="module")
def messy(tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("My Music 2")
    make_messy(top)
    return top


@pytest.fixture(scope="module")
def made(messy, tmp_path_factory) -> Path:
    """The messy folder, prepared."""
    data_dir = tmp_path_factory.mktemp("data")
    folder = build.prepare("folder", data_dir, RATE, messy, "messy", **OPTIONS)
    assert folder == locate.directory(data_dir, "messy", RATE)
    return folder


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "genre_jax.prepare", *map(str, args)]


def read_quarantine(folder: Path) -> dict[str, str]:
    with open(folder / "quarantine.csv", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def file_table(passport: dict) -> dict[str, dict]:
    return {row[0]: dict(zip(passport["files"]["columns"], row, strict=True)) for row in passport["files"]["rows"]}


# ---------------------------------------------------------------- a folder of real files


def test_every_file_is_in_the_shards_or_in_quarantine(messy, made):
    quarantined = read_quarantine(made)
    assert set(quarantined) == set(BROKEN)
    for name, pattern in BROKEN.items():
        assert re.search(pattern, quarantined[name]), (name, quarantined[name])
    passport = locate.read_passport(made)
    good = 3 * 2 * len(audio_files.KINDS) + 1
    assert passport["totals"] | {"seconds": 0} == {
        "clips": good, "seconds": 0, "scaled": 1, "warned": 0, "quarantined": len(BROKEN), "missing": 0
    }  # fmt: skip
    assert passport["labels"] == ["Hip hop", "jazz", "rock"]
    assert passport["notes"] == [
        "3 files were ignored, because their extension is not listed (2 .jpg, 1 .txt)",
        "1 audio files outside the class folders were ignored",
    ]
    names = [name for split in passport["splits"] for name in shards.load_index(made, split).names]
    assert len(names) == len(set(names)) == good
    assert set(names) == set(file_table(passport))


def test_shards_hold_what_the_files_hold(messy, made):
    passport = locate.read_passport(made)
    table = file_table(passport)
    counts: Counter[str] = Counter()
    for split, told in passport["splits"].items():
        index = shards.load_index(made, split)
        assert len(index) == told["clips"]
        assert sum(index.length) / RATE == pytest.approx(told["seconds"], abs=1e-3)
        for row, name in enumerate(index.names):
            loaded = audio.load(messy / name, RATE)
            peak = float(np.abs(loaded.samples).max())
            pcm = audio.to_pcm(loaded.samples, peak)
            np.testing.assert_array_equal(index.cut(row, 0, index.length[row]), pcm)
            told_file = table[name]
            assert (told_file["codec"], told_file["rate"], told_file["channels"]) == (
                loaded.format.codec, loaded.format.rate, loaded.format.channels
            )  # fmt: skip
            assert told_file["scaled"] == (peak > 1) == (name == "rock/loud.wav")
            assert told_file["split"] == split
            assert index.maximum[row] == np.float32(pcm.max() / 32768)
            assert told_file["peak"] == pytest.approx(np.abs(pcm.astype(int)).max() / 32768, rel=1e-5)
            assert told_file["rms"] == pytest.approx(np.sqrt(np.mean(pcm.astype(float) ** 2)) / 32768, rel=1e-5)
            label = passport["labels"][index.first_label[row]]
            assert label == name.split("/")[0]
            counts[split, label] += 1
    assert {(s, c): n for s, told in passport["splits"].items() for c, n in told["classes"].items() if n} == counts


def test_passport_can_be_checked_with_sha256sum(messy, made):
    table = file_table(locate.read_passport(made))
    done = subprocess.run(["sha256sum", "rock/loud.wav"], cwd=messy, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == table["rock/loud.wav"]["sha256"]


def test_tensorflow_datasets_reads_it_back(made):
    tfds = pytest.importorskip("tensorflow_datasets")
    passport = locate.read_passport(made)
    found = tfds.builder_from_directory(made)
    assert {name: split.num_examples for name, split in found.info.splits.items()} == {
        name: split["clips"] for name, split in passport["splits"].items()
    }
    assert found.info.features["labels"].feature.names == passport["labels"]
    assert (found.info.name, found.info.config_name) == ("messy", "16000hz")


def test_an_existing_data_set_is_kept_unless_overwritten(messy, made, capsys):
    data_dir, stamp = made.parents[2], (made / "passport.json").stat().st_mtime_ns
    build.prepare("folder", data_dir, RATE, messy, "messy", **OPTIONS)
    assert capsys.readouterr().out == f"{made} already exists and is kept: use --overwrite to make it again with these flags\n"
    assert (made / "passport.json").stat().st_mtime_ns == stamp


def test_strict_exits_with_one_and_the_summary_names_the_quarantined(messy, made):
    arguments = (f"--source={messy}", "--name=messy", f"--data_dir={made.parents[2]}")
    done = subprocess.run(command(*arguments, "--strict"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: 15 files are quarantined in {made / 'quarantine.csv'}, and --strict allows none\n"
    assert "warning: the mono mix of 2 files is silent; in 1 of them the channels cancel" in done.stdout.splitlines()
    assert "15 quarantined, 1 scaled down because their peak exceeded 1.0" in done.stdout
    assert f"and 10 more in {made / 'quarantine.csv'}" in done.stdout
    assert "--config.data.name=messy" in done.stdout.splitlines()[-1]
    assert subprocess.run(command(*arguments), capture_output=True, check=False).returncode == 0


def test_without_tensorflow_the_same_clips_are_written(messy, made, tmp_path, monkeypatch):
    for module in ("tensorflow", "tensorflow_datasets", "tqdm"):
        monkeypatch.setitem(sys.modules, module, None)
    other = build.prepare("folder", tmp_path, RATE, messy, "messy", **OPTIONS)
    assert not (other / "features.json").exists()
    passports = [locate.read_passport(folder) for folder in (made, other)]
    assert passports[0] == passports[1]
    for split in passports[0]["splits"]:
        a, b = (shards.load_index(folder, split) for folder in (made, other))
        assert (a.names, a.tracks, a.classes) == (b.names, b.tracks, b.classes)
        assert [path.name for path in a.shards] == [path.name for path in b.shards]
        for column in ("track", "length", "maximum", "labels", "first_label"):
            np.testing.assert_array_equal(getattr(a, column), getattr(b, column))
        for row in range(len(a)):
            np.testing.assert_array_equal(a.cut(row, 37, 5000), b.cut(row, 37, 5000))


# ---------------------------------------------------------------- hostile decoders, sudden ends


def test_a_decoder_that_crashes_hangs_or_eats_memory_costs_one_clip(tmp_path, monkeypatch):
    for module in ("tensorflow", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    folder = build.build(hostile.source(*hostile.BAD), tmp_path, "hostile", 8000, limits=LIMITS, **OPTIONS)
    quarantined = read_quarantine(folder)
    assert set(quarantined) == {f"{label}/{bad}" for label in "xy" for bad in hostile.BAD}
    for name, reason in quarantined.items():
        assert re.fullmatch(hostile.BAD[name.split("/")[1]], reason), (name, reason)
    passport = locate.read_passport(folder)
    assert sorted(file_table(passport)) == [f"{label}/{good}" for label in "xy" for good in hostile.GOOD]


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path):
    source = hostile.source("raises")
    bad = [item for item in source.items if item.name.endswith("raises")]
    with pytest.raises(
        UserError, match=r"^none of the 2 clips can be used; the first clip is 'x/raises': the decoder failed with "
    ):
        build.build(dataclasses.replace(source, items=tuple(bad)), tmp_path / "data", "bad", 8000, limits=LIMITS, **OPTIONS)
    assert list((tmp_path / "data").iterdir()) == []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
@pytest.mark.parametrize("delay", [0.3, 2.5])
def test_a_killed_prepare_leaves_no_half_data_set_and_no_process(messy, tmp_path, delay):
    arguments = command(f"--source={messy}", "--name=killed", f"--data_dir={tmp_path}", "--workers=2")
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / ".preparing-killed-16000hz").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(delay)
    family = children(process.pid)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert locate.prepared(tmp_path) == {}
    assert not (tmp_path / "killed").exists()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    folder = build.prepare("folder", tmp_path, RATE, messy, "killed", **OPTIONS)
    assert locate.prepared(tmp_path) == {"killed": [RATE]}
    assert locate.read_passport(folder)["totals"]["quarantined"] == len(BROKEN)
    assert not (tmp_path / ".preparing-killed-16000hz").exists()


def test_two_at_once_are_one_too_many(tmp_path):
    with (
        parts.staging(tmp_path, "music-16000hz"),
        pytest.raises(UserError, match=r"^another prepare of music-16000hz is running in "),
        parts.staging(tmp_path, "music-16000hz"),
    ):
        pass


# ---------------------------------------------------------------- splits


def items(count: int, genres=("a", "b"), clips=3) -> list[Item]:
    return [
        Item(f"{genre}/{track}@{clip}", f"{genre}/{track}", (genre,))
        for genre in genres
        for track in range(count)
        for clip in range(clips)
    ]


def where(splits: dict[str, list[Item]]) -> dict[str, str]:
    return {item.name: split for split, members in splits.items() for item in members}


def test_adding_or_removing_a_file_moves_no_other():
    few, many = where(build.assign_splits(items(50), 0.1, 0.2)), where(build.assign_splits(items(90), 0.1, 0.2))
    assert {name: many[name] for name in few} == few


def test_clips_of_a_track_share_a_split_and_every_class_has_its_share():
    splits = build.assign_splits(items(1000), 0.1, 0.2)
    assert list(splits) == ["train", "validation", "test"]
    tracks = [{item.track for item in members} for members in splits.values()]
    assert sum(map(len, tracks)) == len(set.union(*tracks)) == 2000
    for genre in "ab":
        shares = [sum(track[0] == genre for track in members) / 1000 for members in tracks]
        np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.05)  # 4 standard deviations


@pytest.mark.parametrize("songs", [1, 2, 3, 5])
def test_a_small_class_is_in_each_split(songs):
    """A class of three songs or more is in each split, and a smaller class is at least in training."""
    given = [Item(f"{genre}/{n}", f"{genre}/{n}", (genre,)) for genre in map(str, range(60)) for n in range(songs)]
    splits = build.assign_splits(given, 0.1, 0.1)
    for split in ("train", "test", "validation") if songs >= 3 else ("train",):
        assert len({item.labels for item in splits[split]}) == 60, split


def test_all_songs_of_an_artist_share_a_split():
    given = [Item(f"{n}", f"{n}", (f"g{n % 3}",), artist=f"artist{n % 10}") for n in range(60)]
    splits = build.assign_splits(given, 0.2, 0.2)
    artists = [{item.artist for item in members} for members in splits.values()]
    assert all(artists)
    assert sum(map(len, artists)) == 10


def test_a_given_split_holds_for_the_whole_track():
    given = [Item("x@0", "x", ("a",), "test"), Item("x@1", "x", ("b",)), Item("y", "y", ("a",), "train")]
    assert where(build.assign_splits(given, 0.1, 0.1)) == {"x@0": "test", "x@1": "test", "y": "train"}
    with pytest.raises(UserError, match=r"^track 'x' is in both split 'test' and split 'train': all clips of one track must"):
        build.assign_splits([*given, Item("x@2", "x", ("a",), "train")], 0.1, 0.1)
    with pytest.raises(UserError, match=r"^two clips have the name 'y': names must be unique in a data set$"):
        build.assign_splits([*given, given[2]], 0.1, 0.1)


def test_splits_that_chance_left_empty_are_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    source = dataclasses.replace(hostile.source(), kind="folder")
    with monkeypatch.context() as patch:
        patch.setattr(build, "hashed", lambda groups, shares: {name: "test" if name == "x/a" else "train" for name in groups})
        folder = build.build(source, tmp_path, "small", 8000, limits=LIMITS, **OPTIONS)
    text = summary(locate.read_passport(folder), folder)
    assert "warning: split 'validation' is empty because there are few tracks: assign tracks with the split column" in text
    assert "are of one class" not in text
    assert "warning: split 'test' has no clip of y: assign tracks with the split column of a CSV" in text


def test_a_data_set_of_one_class_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    source = hostile.source()
    one = dataclasses.replace(source, items=tuple(item for item in source.items if item.labels == ("x",)))
    folder = build.build(one, tmp_path, "one", 8000, limits=LIMITS, **OPTIONS)
    text = summary(locate.read_passport(folder), folder)
    assert "warning: all clips are of one class, 'x': there is nothing to tell apart, add files of another class" in text


# ---------------------------------------------------------------- CSV


def write_csv(folder: Path, *lines: str) -> Path:
    path = folder / "songs.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_csv_with_cuts_labels_and_splits(tmp_path):
    samples = audio_files.chord(4.0, RATE, 1)
    soundfile.write(tmp_path / "long, take 2.wav", samples, RATE)
    soundfile.write(tmp_path / "b.wav", samples[: RATE // 2], RATE)
    path = write_csv(
        tmp_path,
        "\ufeffpath,labels,track,split,start,duration",
        '"long, take 2.wav",rock|loud,,train,0.5,1',
        '"long, take 2.wav",rock,,,2,',
        "b.wav, jazz | rock |jazz,one,test,,",
        "",
        "gone.wav,jazz,,test,,",
    )
    source = DATASETS["folder"](path)
    assert source.labels == ("jazz", "loud", "rock")
    assert [item.name for item in source.items] == ["long, take 2.wav@0.5", "long, take 2.wav@2", "b.wav", "gone.wav"]
    assert [item.labels for item in source.items] == [("rock", "loud"), ("rock",), ("jazz", "rock"), ("jazz",)]
    assert [item.track for item in source.items] == ["long, take 2", "long, take 2", "one", "gone"]
    folder = build.prepare("folder", tmp_path / "data", RATE, path, **OPTIONS)
    assert folder.parts[-3] == "songs"
    assert read_quarantine(folder) == {"gone.wav": "no such file"}
    train, test = (shards.load_index(folder, split) for split in ("train", "test"))
    np.testing.assert_array_equal(train.labels, [[0, 1, 1], [0, 0, 1]])
    np.testing.assert_array_equal(test.labels, [[1, 0, 1]])
    assert (train.first_label[0], test.first_label[0]) == (2, 0)
    pcm = np.round(samples[:, 0] * 32768).clip(-32768, 32767)
    for row, (start, stop) in enumerate([(0.5, 1.5), (2, 4)]):
        want = pcm[round(start * RATE) : round(stop * RATE)]
        assert train.length[row] == len(want)
        np.testing.assert_allclose(train.cut(row, 0, len(want)), want, atol=1)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ((), "songs.csv has no column 'path' in its first row '': expected path,labels[,track,artist,split,start,duration]"),
        (("path,label", "a.wav,x"), "has no column 'labels' in its first row 'path,label': expected path,labels[,track"),
        (
            ("path,labels,genre", "a.wav,x,y"),
            "songs.csv has the unknown column 'genre': expected path,labels[,track,artist,split",
        ),
        (("path,labels,path", "a.wav,x,y"), "songs.csv has the repeated column 'path': expected "),
        (("path,labels",), "songs.csv has a header, but no rows"),
        (
            ("path,labels", "a.wav"),
            "a header, but no usable rows; songs.csv, row 2: the row has 1 cells, but the header has 2 columns",
        ),
    ],
)
def test_csv_without_a_usable_row_is_an_error(tmp_path, lines, sentence):
    path = write_csv(tmp_path, *lines) if lines else tmp_path / "songs.csv"
    path.touch()
    with pytest.raises(UserError) as error:
        DATASETS["folder"](path)
    assert sentence in str(error.value)


BAD_ROWS = {
    "b.wav, | ,,,,": "no label in '|', expected names separated by '|'",
    ",x,,,,": "the path is empty",
    "b.wav": "the row has 1 cells, but the header has 6 columns",
    "b.wav,x,,dev,,": "unknown split 'dev', choose one of train, validation, test or leave it empty",
    "b.wav,x,,,1:30,": "start is '1:30', expected seconds, 0 to 1000000, such as 12.5",
    "b.wav,x,,,-1,": "start is '-1', expected seconds, 0 to 1000000, such as 12.5",
    "b.wav,x,,,,nan": "duration is 'nan', expected seconds, 0 to 1000000, such as 12.5",
    "b.wav,x,,,,0": "duration is '0', expected seconds above 0 or nothing",
    "a.wav,y,,test,,": "repeats 'a.wav' of row 2 with another track, split or duration",
    "../b.wav,x,,,,": "'../b.wav' leads out of the folder of the CSV: use the absolute path of the file",
}


def test_bad_rows_of_a_csv_are_quarantined(tmp_path):
    path = write_csv(tmp_path, "path,labels,track,split,start,duration", "a.wav,x,,,,", *BAD_ROWS)
    source = DATASETS["folder"](path)
    assert [item.name for item in source.items] == ["a.wav"] and source.labels == ("x",)
    assert source.refused == tuple((f"songs.csv, row {n}", reason) for n, reason in enumerate(BAD_ROWS.values(), start=3))


@pytest.mark.skipif(not SHARED.exists(), reason="needs shared/audio")
def test_leave_one_out_is_one_csv_per_fold(tmp_path):
    """A user makes folds with the split column. In this test, every speaker and every piece of music is held out once."""
    tracks = {kind: sorted((SHARED / kind).glob("*.ogg")) for kind in ("music", "speech")}
    held_out: Counter[str] = Counter()
    for fold in range(3):
        lines = ["path,labels,track,split,start,duration"]
        for kind, paths in tracks.items():
            for number, path in enumerate(paths):
                split = "test" if number % 3 == fold else "train"
                lines += [f"{path},{kind},{path.stem},{split},{start},2" for start in (0, 2)]
        source = write_csv(tmp_path, *lines)
        folder = build.prepare("folder", tmp_path / "data", RATE, source, f"fold_{fold}", **OPTIONS)
        train, test = (shards.load_index(folder, split) for split in ("train", "test"))
        assert not set(train.tracks) & set(test.tracks)
        assert len(train) + len(test) == len(lines) - 1
        assert set(test.length) == {2 * RATE}
        assert test.labels.any(axis=0).all() and train.labels.any(axis=0).all()
        held_out.update(test.tracks)
    assert held_out == Counter(path.stem for paths in tracks.values() for path in paths)


# ---------------------------------------------------------------- the other data sets


def make_audioset(top: Path) -> None:
    """Official lists and a few clips in every layout: rock /m/06by7, pop /m/064t9, speech /m/09x0r (no music)."""
    header = (
        "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=3\n# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    lists = {
        "balanced_train_segments.csv": ['--aE2O5G5WE, 0.000, 10.000, "/m/06by7,/m/09x0r"'],
        "eval_segments.csv": ['-_0123456Yb, 30.000, 40.000, "/m/064t9,/m/06by7"', 'gone_______, 0.000, 10.000, "/m/064t9"'],
        "unbalanced_train_segments.csv": [
            'aaaaaaaaaaa, 30.000, 40.000, "/m/064t9"',
            'bbbbbbbbbbb, 12.500, 22.500, "/m/09x0r,/m/06by7,/m/064t9"',
            'speech_____, 0.000, 10.000, "/m/09x0r"',
            'alsogone___, 0.000, 10.000, "/m/064t9"',
            'broken_____, 0.000, 10.000, "/m/064t9"',
        ],
    }
    for name, rows in lists.items():
        (top / "csv").mkdir(parents=True, exist_ok=True)
        (top / "csv" / name).write_text(header + "\n".join(rows) + "\n")
    clip = audio_files.chord(0.5, RATE, 1)
    names = ["a/--aE2O5G5WE.wav", "b/Y-_0123456Yb.flac", "aaaaaaaaaaa_30.wav", "b/Ybbbbbbbbbbb_12.500.ogg", "speech_____.wav"]
    for name in names:
        (top / name).parent.mkdir(exist_ok=True)
        soundfile.write(top / name, clip, RATE)
    (top / "broken_____.mp3").write_text("<html>HTTP 429</html>")


def test_audioset_lists_and_layouts(tmp_path):
    make_audioset(tmp_path / "audioset")
    folder = build.prepare("audioset_music", tmp_path / "data", RATE, tmp_path / "audioset", **OPTIONS)
    passport = locate.read_passport(folder)
    assert (passport["name"], len(passport["labels"])) == ("audioset_music", 67)
    assert passport["labels"][0] == "Pop music" and passport["labels"][3] == "Rock music"
    assert {split: (told["clips"], told["missing"]) for split, told in passport["splits"].items()} == {
        "unbalanced": (2, 1), "balanced": (1, 0), "eval": (1, 1)
    }  # fmt: skip
    assert {k: passport["totals"][k] for k in ("clips", "missing", "quarantined")} == {
        "clips": 4, "missing": 2, "quarantined": 1
    }  # fmt: skip
    assert passport["notes"] == [
        "2 listed music clips have no audio file (28.6 %)",
        "2 labels outside the 67 music classes were dropped",
    ]
    assert set(read_quarantine(folder)) == {"broken_____.mp3"}
    index = shards.load_index(folder, "unbalanced")
    assert index.tracks == ("aaaaaaaaaaa", "bbbbbbbbbbb")
    assert [np.flatnonzero(row).tolist() for row in index.labels] == [[0], [0, 3]]
    assert index.first_label.tolist() == [0, 3]  # the order of the list, not of the classes


def test_audioset_says_what_it_looked_for(tmp_path):
    with pytest.raises(
        UserError, match=r"^data set 'audioset_music' needs --source=FOLDER with unbalanced_train_segments.csv, "
    ):
        DATASETS["audioset_music"](None)
    with pytest.raises(
        UserError, match=rf"^found none of the official lists unbalanced_train_segments.csv, .* below {tmp_path}$"
    ):
        DATASETS["audioset_music"](tmp_path)
    table = tmp_path / "eval_segments.csv"
    table.write_text('# a\n# b\n# c\nabc, 0.000, 10.000, "/m/064t9"\n')
    with pytest.raises(
        UserError, match=r"^found no audio for the 1 music clips in eval_segments.csv below .*, expected files ID.EXT, "
    ):
        DATASETS["audioset_music"](tmp_path)
    table.write_text("# a\nabc, ten, 10.000, /m/064t9\n")
    with pytest.raises(UserError, match=r"row 2: 'abc, ten, 10.000, /m/064t9' is not ID, START, END"):
        DATASETS["audioset_music"](tmp_path)


def test_embedded_data_sets_are_made_by_light_workers(tmp_path, monkeypatch):
    from genre_jax.datasets import synthetic

    for module in ("tensorflow", "jax", "librosa", "soundfile", "soxr", "av"):  # worker processes inherit this path
        (tmp_path / f"{module}.py").write_text("raise ImportError('must not be imported here')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(synthetic, "TRACKS", {"train": 2, "validation": 1, "test": 1})
    single = DATASETS["synthetic"](None)
    assert len(single.labels) == 10 and Counter(item.labels[0] for item in single.items) == dict.fromkeys(single.labels, 4)
    several = DATASETS["synthetic_multilabel"](None)
    few = dataclasses.replace(several, items=several.items[:4])
    limits = dataclasses.replace(LIMITS, timeout=60.0)
    folder = build.build(few, tmp_path, "synthetic_multilabel", 8000, limits=limits, **OPTIONS)
    index = shards.load_index(folder, "train")
    assert set(index.length) == {80000} and index.labels.any(axis=1).all()
    assert index.labels.sum() == sum(locate.read_passport(folder)["splits"]["train"]["classes"].values())
    with pytest.raises(UserError, match=r"^data set 'synthetic' is synthesised and needs no source: remove --source=x$"):
        DATASETS["synthetic"](Path("x"))


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            (),
            "no source was given: set --source=DIR to a folder of music, or --dataset to one of audioset_music, fma_medium, ",
        ),
        (("--dataset=sinthetic",), "unknown data set 'sinthetic' (did you mean 'synthetic'?): choose one of audioset_music"),
        (
            ("--dataset=gtzan", "--source=.", "--split=folds"),
            "unknown split 'folds': choose one of clips_4s_20pct[:SEED], fault_filtered, folds:K[:SEED], random[:SEED], ",
        ),
        (
            ("--dataset=folder", "--split=random"),
            "unknown split 'random': choose one of folds:K[:SEED], hash",
        ),
        (("--dataset=folder",), "data set 'folder' needs --source=PATH: a folder with one sub-folder per class, or a .csv"),
        (("music",), "unexpected argument 'music': set the source folder with --source=music"),
        (("--source=nowhere",), "--source=nowhere does not exist: use a folder with one sub-folder per class, or a .csv"),
        (("--source=.", "--name=My-Music"), "--name=My-Music is not a legal name: use lower-case letters, digits and _"),
        (("--source=.", "--sample_rate=16"), "--sample_rate=16 is not between 1000 and 768000 Hz"),
        (("--source=.", "--validation=0.6", "--test=0.4"), "--validation=0.6 and --test=0.4 are not legal shares: each must"),
        (("--source=.", "--workers=0"), "--workers=0 is not a legal number of processes: it must be 1 or more"),
        (("--source=.", "--timeout=0"), "--timeout=0 (seconds) and --memory_gb=4 (GiB) must be above 0"),
        (("--source=.",), "found no audio below .: expected ./CLASS/FILE, files with one of"),
    ],
)
def test_command_line_errors(tmp_path, arguments, sentence):
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(command(*arguments), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: " + sentence) and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "name"), [("My Music (2)", "my_music_2"), ("1999", "data_1999"), ("音楽", "data"), ("a/b.x.CSV", "b_x")]
)
def test_names_are_made_from_the_folder(source, name):
    assert build.default_name("folder", Path(source)) == name


def test_prepare_apart_runs_the_command(tmp_path):
    with pytest.raises(UserError, match=r"^data set 'folder' could not be prepared in .* \(see above\)$"):
        locate._prepare_embedded("folder", tmp_path, RATE)
