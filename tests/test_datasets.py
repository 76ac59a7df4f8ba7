"""GTZAN, FMA, MUSAN, noise folders and the records of tensorflow-datasets: small sources in their layouts, every count."""

import csv
import json
import sys
from collections import Counter
from pathlib import Path

import audio_files
import collections_tree
import numpy as np
import pytest

from genre_jax.console import UserError
from genre_jax.data import locate
from genre_jax.datasets import DATASETS, fma, gtzan
from genre_jax.prepare import build, splits, tfds_records, tfrecord, workers
from genre_jax.prepare.__main__ import summary
from genre_jax.prepare.audio import AudioError

RATE = 8000
SHARED = Path(__file__).parents[2] / "shared" / "audio"
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")


def by_split(items) -> dict[str, list]:
    groups: dict[str, list] = {}
    for item in items:
        groups.setdefault(item.split, []).append(item)
    return groups


def sizes(items) -> dict[str, int]:
    return {split: len(group) for split, group in by_split(items).items()}


def classes(items) -> dict[str, Counter]:
    return {split: Counter(item.labels[0] for item in group) for split, group in by_split(items).items()}


# ---------------------------------------------------------------- the draws


def test_draws_are_seeded_exact_and_stable():
    names = {f"{genre}{i}": genre for genre in "ab" for i in range(40)}
    shares = {"train": 0.65, "validation": 0.1, "test": 0.25}
    placed = splits.stratified(names, shares, 3)
    for genre in "ab":
        assert Counter(placed[name] for name in names if names[name] == genre) == {"train": 26, "validation": 4, "test": 10}
    assert placed == splits.stratified(dict(reversed(names.items())), shares, 3) != splits.stratified(names, shares, 4)
    assert splits.shuffled(list("abcde"), 0) == ["c", "b", "e", "d", "a"]  # sorted by SHA-256, the same on every machine
    assert [name for name in splits.shuffled(list("abcde"), 0) if name != "c"] == splits.shuffled(list("abde"), 0)


@pytest.mark.parametrize("text", ["random:x", "random:1:2", "folds", "folds:4:1:2", "rndom", "", "fault_filtered:1"])
def test_a_wrong_split_shows_the_legal_ones(text):
    with pytest.raises(UserError, match=rf"^unknown split '{text}'.*: choose one of clips_4s_20pct\[:SEED\], fault_filtered, "):
        splits.parse(text, gtzan.PROTOCOLS)
    assert splits.parse("folds:4", gtzan.PROTOCOLS) == ("folds", [4, 0])


# ---------------------------------------------------------------- GTZAN


@pytest.fixture(scope="module")
def gtzan_tree(tmp_path_factory) -> Path:
    """GTZAN as it is commonly distributed, with audio and images. One track is missing, and one exists twice."""
    top = tmp_path_factory.mktemp("gtzan")
    for genre in GENRES:
        for kind, extension in (("genres_original", ".wav"), ("images_original", ".png")):
            (top / kind / genre).mkdir(parents=True)
            for number in range(100):
                (top / kind / genre / f"{genre}.{number:05d}{extension}").touch()
    (top / "genres_original/blues/blues.00001.wav").unlink()
    (top / "genres_original/rock/rock.00007.au").touch()
    (top / "genres_original/rock/mix.wav").touch()
    return top


def test_gtzan_is_fault_filtered_unless_told_otherwise(gtzan_tree):
    source = DATASETS["gtzan"](gtzan_tree)
    assert source.labels == GENRES and source.protocol == "fault_filtered"
    assert sizes(source.items) == {"train": 443, "validation": 196, "test": 290}
    assert [(item.name, item.split) for item in source.missing] == [("blues.00001", "validation")]
    counts = classes([*source.items, *source.missing])
    assert [counts["train"][genre] for genre in GENRES] == [46, 48, 45, 42, 47, 43, 44, 41, 43, 44]
    assert [counts["validation"][genre] for genre in GENRES] == [23, 20, 23, 22, 18, 17, 20, 13, 17, 24]
    assert [counts["test"][genre] for genre in GENRES] == [31, 31, 30, 29, 27, 27, 27, 30, 26, 32]
    names = {item.name: item for item in source.items}
    assert names["genres_original/jazz/jazz.00054.wav"].split == "train"  # in the list, although it cannot be decoded
    assert source.notes == (
        "split fault_filtered leaves out 70 tracks of the source (replicas, distortions; Kereliuk et al. 2015)",
        "1 clips of split fault_filtered have no audio file, such as blues.00001",
        "1001 other files and 1 second copies of a track were ignored",
    )


@pytest.mark.parametrize(
    ("split", "counts"),
    [
        ("stratified_80_10_10", {"train": 80, "validation": 10, "test": 10}),
        ("stratified_750_250:7", {"train": 75, "test": 25}),
        ("folds:10:3", {f"fold{number}": 10 for number in range(10)}),
    ],
)
def test_gtzan_drawn_by_track(gtzan_tree, split, counts):
    source = DATASETS["gtzan"](gtzan_tree, split=split)
    everything = [*source.items, *source.missing]
    assert {name: set(group.values()) for name, group in classes(everything).items()} == {k: {v} for k, v in counts.items()}
    assert len({item.track for item in everything}) == 1000
    assert source.notes[0].startswith(f"split {split} draws single tracks, therefore replicas, excerpts of one recording and")
    assert sum("draws" in note for note in source.notes) == 1


def test_gtzan_seeds_differ_and_missing_files_move_nothing(gtzan_tree, tmp_path):
    placed = [{i.track: i.split for i in DATASETS["gtzan"](gtzan_tree, split=f"random:{seed}").items} for seed in (0, 1)]
    assert placed[0] != placed[1]
    for track in ("rock.00003", "jazz.00099"):
        (tmp_path / f"{track}.au").touch()
    few = DATASETS["gtzan"](tmp_path, split="random:1")
    assert {item.track: item.split for item in few.items} == {t: placed[1][t] for t in ("rock.00003", "jazz.00099")}
    assert len(few.missing) == 998


def test_gtzan_windows_on_both_sides_are_called_that(gtzan_tree):
    source = DATASETS["gtzan"](gtzan_tree, split="clips_4s_20pct")
    assert sizes([*source.items, *source.missing]) == {"train": 8000, "test": 2000}
    assert len(source.missing) == 10
    assert {item.duration for item in source.items} == {4.0} and max(item.start for item in source.items) == 25.65
    files = [{item.path for item in group} for group in by_split(source.items).values()]
    assert len(files[0] & files[1]) > 800  # the reason for the warning
    assert source.notes[0].startswith("split clips_4s_20pct draws single clips, therefore windows of one track are in both")


def test_gtzan_says_what_it_looked_for(tmp_path):
    with pytest.raises(
        UserError, match=r"^data set 'gtzan' needs --source=FOLDER with GENRE.NNNNN.wav or .au files \(got None"
    ):
        DATASETS["gtzan"](None)
    with pytest.raises(
        UserError, match=rf"^found none of the 1000 tracks of GTZAN below {tmp_path}, expected files such as blues.00000.wav"
    ):
        DATASETS["gtzan"](tmp_path)


def test_jazz_00054_is_quarantined_by_measurement(tmp_path):
    for genre, number in (("blues", 29), ("jazz", 54), ("jazz", 55), ("rock", 12), ("rock", 31)):
        audio_files.make(tmp_path / "source" / genre, "wav16", f"{genre}.{number:05d}", 0.3, seed=number)
    (tmp_path / "source/jazz/jazz.00054.wav").write_bytes(b"\xab\xcd" * 5000)  # not decodable, as in the common copy
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow", None)
        folder = build.prepare("gtzan", tmp_path / "data", RATE, tmp_path / "source", workers=1)
    with open(folder / "quarantine.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["jazz/jazz.00054.wav"] and rows[0]["reason"].startswith("not an audio file that")
    passport = locate.read_passport(folder)
    lists = {split: set(gtzan.fault_filtered(split)) for split in ("train", "valid", "test")}
    known = {f"{g}.{n:05d}" for g, n in (("blues", 29), ("jazz", 55), ("rock", 12), ("rock", 31))} & set.union(*lists.values())
    assert passport["totals"]["clips"] == len(known) and passport["protocol"] == "fault_filtered"
    assert passport["totals"]["missing"] == 930 - len(known) - 1
    assert summary(passport, folder).count("leaves out") == 1


# ---------------------------------------------------------------- FMA


@pytest.fixture(scope="module")
def fma_tree(tmp_path_factory) -> Path:
    """100 tracks of the small set, 20 more of the medium set and 5 of the large set. Three tracks have no file."""
    top = tmp_path_factory.mktemp("fma")
    rows = []
    for number in range(2, 127):
        subset = "small" if number < 102 else "medium" if number < 122 else "large"
        genre = ("Hip-Hop", "Rock", "Folk", "Jazz")[number % (2 if subset == "small" else 4)]
        split = ("training",) * 8 + ("validation", "test")
        rows.append(f'{number},0,"An album,\nin two lines",{number // 5},{split[number // 5 % 10]},{subset},{genre},x')
        if number not in (7, 50, 105):
            path = top / f"fma_medium/{number // 1000:03d}/{number:06d}.mp3"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    collections_tree.write_tracks(top, *rows)
    (top / "fma_metadata/genres.csv").touch()
    return top


def test_fma_takes_the_official_split(fma_tree):
    small, medium = (DATASETS[f"fma_{subset}"](fma_tree) for subset in ("small", "medium"))
    assert small.labels == ("Hip-Hop", "Rock") and medium.labels == ("Folk", "Hip-Hop", "Jazz", "Rock")
    assert (len(small.items), len(small.missing)) == (98, 2) and (len(medium.items), len(medium.missing)) == (117, 3)
    assert sizes([*small.items, *small.missing]) == {"train": 80, "validation": 10, "test": 10}
    assert {item.name for item in small.missing} == {"000/000007.mp3", "000/000050.mp3"}
    assert small.items[0].name == "fma_medium/000/000002.mp3" and small.items[0].track == "000002"
    assert small.notes == ("2 of the 100 clips of FMA small have no audio file, such as 000/000007.mp3",)


def test_fma_drawn_by_clip_or_by_artist(fma_tree):
    drawn, artists = (DATASETS["fma_small"](fma_tree, split=split) for split in ("70_30:1", "artists_70_30:1"))
    assert sizes([*drawn.items, *drawn.missing]) == {"train": 70, "test": 30}
    assert drawn.notes[-1] == (
        "split 70_30:1 draws single clips, therefore works of one artist may be in both splits; the official split keeps "
        "artists apart"
    )
    sides = [{int(item.track) // 5 for item in group} for group in by_split(artists.items).values()]
    assert not sides[0] & sides[1] and not any("draws" in note for note in artists.notes)


def test_fma_rows_that_are_none_are_quarantined(tmp_path):
    good = "2,0,a,1,training,small,Rock,x"
    bad = {
        good: "repeats track 2",
        "3,0,a,1,dev,small,Rock,x": "track 3 is in split 'dev', expected one of training, validation, test",
        "4,0,a,1,training,small,,x": "track 4 has no genre_top",
        "x,0,a,1,training,small,Rock,x": "track_id is 'x', expected a number",
        "5,0,a": "the row has too few cells, expected set.split, set.subset, track.genre_top, artist.id",
    }
    collections_tree.write_tracks(tmp_path, good, *bad)
    (tmp_path / "000002.mp3").touch()
    source = DATASETS["fma_small"](tmp_path)
    assert len(source.items) == 1
    assert source.refused == tuple((f"tracks.csv, row {row}", reason) for row, reason in enumerate(bad.values(), start=5))


def test_fma_says_what_it_looked_for(tmp_path):
    with pytest.raises(
        UserError, match=r"^data set 'fma_small' needs --source=FOLDER with tracks.csv and clips such as 000/00"
    ):
        DATASETS["fma_small"](None)
    with pytest.raises(UserError, match=r"^found no tracks.csv below .*: it is part of fma_metadata.zip$"):
        DATASETS["fma_medium"](tmp_path)
    (tmp_path / "tracks.csv").write_text("track_id,title\n2,x\n")
    with pytest.raises(
        UserError, match=r"is not the table of FMA with three header rows: it has no set.split, set.subset, track.genre_"
    ):
        DATASETS["fma_medium"](tmp_path)
    collections_tree.write_tracks(tmp_path / "a", "2,0,a,1,training,small,Rock,x")
    (tmp_path / "tracks.csv").unlink()
    with pytest.raises(
        UserError, match=r"^found no audio below .* for the 1 clips that .*tracks.csv lists for FMA small, expected"
    ):
        DATASETS["fma_small"](tmp_path)


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [(0.0, "^not an audio file"), (1.6, "^too short: 1.6 s, where FMA clips have 30 s"), (0.5, "^too short: ")],
)
def test_fma_files_are_measured(tmp_path, seconds, reason):
    path = tmp_path / "099134.mp3"
    path.write_bytes(b"ID3\3" + bytes(40)) if not seconds else audio_files.write(
        path, "mp3", audio_files.chord(seconds, 44100, 2), 44100
    )
    item = fma.Item(path.name, "099134", ("Rock",), path=str(path))
    with pytest.raises(AudioError, match=reason):
        workers.render_clip(fma.render, item, RATE)


# ---------------------------------------------------------------- MUSAN, music and speech, noises


@pytest.fixture(scope="module")
def musan_tree(tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("musan")
    counts = {"music/fma": 20, "music/rfm": 20, "noise/free-sound": 60, "speech/librivox": 40}
    for folder, count in counts.items():
        (top / folder).mkdir(parents=True)
        for number in range(count):
            (top / folder / f"{folder.replace('/', '-')}-{number:04d}.wav").touch()
        for name in ("ANNOTATIONS", "LICENSE"):
            (top / folder / name).touch()
    (top / "README").touch()
    return top


def test_musan_is_drawn_65_10_25_by_file_and_seed(musan_tree):
    source = DATASETS["musan"](musan_tree)
    assert source.labels == ("music", "noise", "speech") and source.notes == ()
    assert classes(source.items) == {
        "train": {"music": 26, "noise": 39, "speech": 26},
        "validation": {"music": 4, "noise": 6, "speech": 4},
        "test": {"music": 10, "noise": 15, "speech": 10},
    }
    other = DATASETS["musan"](musan_tree, split="65_10_25:1")
    assert sizes(other.items) == sizes(source.items) and other.items != source.items
    assert source.items == DATASETS["musan"](musan_tree).items
    with pytest.raises(
        UserError, match=r"^unknown split 'random': choose one of 25_75\[:SEED\], 65_10_25\[:SEED\], folds:K\[:SEED\]$"
    ):
        DATASETS["musan"](musan_tree, split="random")


def test_gtzan_music_speech_in_its_archive_s_folders(tmp_path):
    for kind in ("music", "speech"):
        (tmp_path / f"music_speech/{kind}_wav").mkdir(parents=True)
        for number in range(64):
            (tmp_path / f"music_speech/{kind}_wav/{kind}{number}.wav").touch()
    source = DATASETS["gtzan_music_speech"](tmp_path)
    assert classes(source.items) == {
        k: {"music": n, "speech": n} for k, n in {"train": 42, "validation": 6, "test": 16}.items()
    }


def test_any_folder_is_a_noise_bank(musan_tree, tmp_path):
    source = DATASETS["hunonspeech"](musan_tree / "noise")
    assert source.labels == ("noise",) and sizes(source.items) == {"train": 60}
    assert sizes(DATASETS["hunonspeech"](musan_tree / "noise", split="65_10_25").items) == {
        "train": 39,
        "validation": 6,
        "test": 15,
    }
    with pytest.raises(UserError, match=r"^found no audio below .*, expected files with one of \d+ extensions, such as .wav"):
        DATASETS["hunonspeech"](tmp_path)


def test_musan_says_which_folder_it_did_not_find(tmp_path):
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise/a.wav").touch()
    with pytest.raises(
        UserError, match=r"^found no audio of music, speech below .*, expected folders with the names music, noise, speech$"
    ):
        DATASETS["musan"](tmp_path)
    with pytest.raises(
        UserError, match=r"^data set 'musan' needs --source=FOLDER with the folders music, noise, speech \(got None"
    ):
        DATASETS["musan"](None)


@pytest.mark.skipif(not SHARED.exists(), reason="needs shared/audio")
def test_musan_s_layout_made_of_real_recordings(tmp_path):
    counts = {kind: len([*(SHARED / kind).rglob("*.ogg")]) for kind in ("music", "noise", "speech")}
    source = DATASETS["musan"](SHARED)
    assert Counter(item.labels[0] for item in source.items) == counts
    noise = next(item for item in source.items if item.labels == ("noise",))
    clip = workers.render_clip(source.render, noise, RATE)
    assert clip.facts.seconds > 0.1 and clip.labels == ("noise",)


# ---------------------------------------------------------------- tensorflow-datasets' own


def write_tfds(data_dir: Path, name: str, labels: tuple[str, ...], files: dict[str, np.ndarray]) -> None:
    """Write `name` in the form of tensorflow-datasets: one split with the features of its builder."""
    tfds = pytest.importorskip("tensorflow_datasets")
    features = tfds.features.FeaturesDict({
        "audio": tfds.features.Audio(file_format="wav", sample_rate=22050),
        "label": tfds.features.ClassLabel(names=labels),
        "audio/filename": tfds.features.Text(),
    })  # fmt: skip

    class Fake(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for file, samples in files.items():
                label = next(label for label in labels if file.startswith(label))
                yield file, {"audio": samples, "label": label, "audio/filename": file}

    Fake.name = name
    Fake(data_dir=data_dir).download_and_prepare()


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    names = [f"{genre}.{number:05d}.wav" for genre in ("blues", "jazz", "rock") for number in (0, 30, 54)]
    files = {name: rng.integers(-32768, 32768, 22050 + 100 * i) for i, name in enumerate(names)}
    top = tmp_path_factory.mktemp("tensorflow_datasets")
    write_tfds(top, "gtzan", GENRES, files)
    write_tfds(
        top,
        "gtzan_music_speech",
        ("music", "speech"),
        {f"{k}{n}.wav": files[names[n]] for k in ("music", "speech") for n in range(4)},
    )
    return top, files


def test_tfds_gtzan_is_read_without_tensorflow(tfds_dir, monkeypatch):
    top, files = tfds_dir
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    sources = [DATASETS["gtzan"](place, split="random") for place in (top, top / "gtzan", top / "gtzan/1.0.0")]
    assert sources[0] == sources[1] == sources[2]
    assert (len(sources[0].items), len(sources[0].missing)) == (9, 991)
    for item in sources[0].items:
        clip = workers.render_clip(sources[0].render, item, 22050)
        np.testing.assert_array_equal(clip.pcm, files[item.name])
        assert item.labels == (item.name.split(".")[0],)
    cut = DATASETS["gtzan"](top, split="clips_4s_20pct").items[1]
    assert cut.name == "blues.00000.wav@2.85" and cut.start == 2.85
    with pytest.raises(AudioError, match="^empty"):  # the fake tracks have a length of about one second
        workers.render_clip(sources[0].render, cut, 22050)
    sources = DATASETS["gtzan_music_speech"](top)
    assert Counter(item.labels[0] for item in sources.items) == {"music": 4, "speech": 4}
    assert all(item.name.startswith(item.labels[0]) for item in sources.items)


def test_tfds_of_another_kind_is_an_error(tmp_path):
    (tmp_path / "dataset_info.json").write_text(json.dumps({"name": "gtzan"}))
    with pytest.raises(UserError, match=r"holds no gtzan-\*.tfrecord-\* files: prepare it in .* with file_format='tfrecord'$"):
        DATASETS["gtzan"](tmp_path)
    tfrecord.write_shards(tmp_path, "gtzan", "train", [tfrecord.Clip("a", "a", (0,), np.zeros(9, np.int16), 0.0)])
    with pytest.raises(
        UserError,
        match=r"holds the features audio, labels, maximum, name, track, expected audio, audio/filename, label for gtzan$",
    ):
        DATASETS["gtzan"](tmp_path)


def test_int64_lists_of_any_size_are_read():
    def encode(values: list[int]) -> bytes:
        packed = b"".join(tfrecord._encode_varint(value & (2**64 - 1)) for value in values)
        return tfrecord._delimited(1, packed)

    for values in ([], [0], [-1, 5, -32768, 32767, 2**40, 127, 128], list(range(-300, 300))):
        assert tfds_records.int64_list(encode(values)).tolist() == values


# ---------------------------------------------------------------- options on the command line


def test_options_belong_to_data_sets(tmp_path):
    with pytest.raises(
        UserError,
        match=r"^data set 'synthetic' does not support --split=hash: it supports none of --split, --labels, --subset$",
    ):
        build.prepare("synthetic", tmp_path, RATE, split="hash")
    with pytest.raises(
        UserError, match=r"^data set 'audioset_music' does not support --split=x: it supports --labels, --subset$"
    ):
        build.prepare("audioset_music", tmp_path, RATE, tmp_path, split="x")


@pytest.mark.parametrize(
    ("dataset", "options", "name"),
    [
        ("gtzan", {}, "gtzan"),
        ("gtzan", {"split": "fault_filtered"}, "gtzan"),
        ("gtzan", {"split": "folds:10:3"}, "gtzan_folds_10_3"),
        ("audioset_music", {"subset": "19042:1", "labels": "x/Mood 2.csv"}, "audioset_music_mood_2_subset_19042_1"),
    ],
)
def test_no_two_protocols_share_a_folder(dataset, options, name):
    assert build.default_name(dataset, Path("x"), options) == name
