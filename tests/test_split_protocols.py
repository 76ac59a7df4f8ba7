"""Folds and the other split protocols: exact counts, whole artists and tracks, and every protocol on small collections."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import audioset_tree
import collections_tree
import numpy as np
import pytest

from genre_jax.console import UserError
from genre_jax.data import locate, shards
from genre_jax.datasets import DATASETS, audioset, gtzan
from genre_jax.prepare import audit, build, splits
from genre_jax.prepare.__main__ import _next_command, summary

RATE = 8000


def spread(counts) -> int:
    """Returns the largest count minus the smallest."""
    return max(counts) - min(counts)


# ---------------------------------------------------------------- folds


@pytest.mark.parametrize("count", [2, 3, 5, 10, 13])
def test_folds_of_single_tracks_differ_by_one_clip_at_most(count):
    sizes = {"a": 17, "b": 5, "c": 1, "d": 30}
    groups = {f"{label}{n}": [label] for label, size in sizes.items() for n in range(size)}
    placed = splits.folds(groups, count, 0)
    assert placed.keys() == groups.keys() and set(placed.values()) == {f"fold{n}" for n in range(count)}
    cells = Counter((fold, groups[name][0]) for name, fold in placed.items())
    folds = sorted(set(placed.values()))
    assert spread([sum(cells[fold, label] for label in sizes) for fold in folds]) <= 1
    assert all(spread([cells[fold, label] for fold in folds]) <= 1 for label in sizes)
    assert placed == splits.folds(dict(reversed(groups.items())), count, 0) != splits.folds(groups, count, 1)


def test_large_groups_come_first_and_go_where_their_labels_lack():
    groups = {"A": "xxx", "B": "xx", "C": "x", "D": "yy", "E": "y"}
    # A → fold0. B → fold1, which holds no x. D → fold1, which is smaller than fold0, because no fold holds a y. C → fold1, which
    # holds two x of six, and fold0 three. E → fold0, which holds no y.
    expected = {"A": "fold0", "B": "fold1", "C": "fold1", "D": "fold1", "E": "fold0"}
    assert splits.folds(groups, 2, 0) == splits.folds(groups, 2, 5) == expected


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_folds_of_artists_are_about_as_even_as_those_of_scikit_learn(seed):
    selection = pytest.importorskip("sklearn.model_selection")
    rng = np.random.default_rng(seed)
    artist = rng.integers(0, 151, 803)
    genre = (artist + (rng.random(803) < 0.2) * rng.integers(0, 5, 803)) % 5  # most artists have one genre
    groups: dict[str, list[str]] = {}
    for a, g in zip(artist, genre, strict=True):
        groups.setdefault(str(a), []).append(str(g))
    placed = splits.folds(groups, 7, seed)
    ours = Counter((placed[str(a)], g) for a, g in zip(artist, genre, strict=True))
    theirs = Counter()
    for fold, (_, test) in enumerate(selection.StratifiedGroupKFold(7).split(genre, genre, artist)):
        theirs.update((f"fold{fold}", g) for g in genre[test])
    uneven = [max(spread([cells[f"fold{n}", g] for n in range(7)]) for g in range(5)) for cells in (ours, theirs)]
    assert uneven[0] <= uneven[1] + 2  # of 23 clips of a genre in a fold


@pytest.mark.parametrize("count", [0, 1, 4])
def test_too_few_or_too_many_folds_are_a_sentence(count):
    with pytest.raises(
        UserError, match=rf"^--split=folds:{count} cannot be made: use 2 folds or more, and at most one for each"
    ):
        splits.folds({"a": ["x"], "b": ["x"], "c": ["y"]}, count, 0)


def test_folds_of_a_user_s_music_keep_tracks_whole(tmp_path):
    rows = [
        f"{track}{clip}.wav,{labels},{track}" for track, labels in zip("abcdefgh", "xxxxyyyy", strict=True) for clip in "012"
    ]
    table = tmp_path / "songs.csv"
    table.write_text("\n".join(["path,labels,track", *rows, "i.wav,x|y,i"]) + "\n")
    found = DATASETS["folder"](table, split="folds:4:1")
    placed = {item.track: item.split for item in found.items}
    assert all(placed[item.track] == item.split for item in found.items) and found.protocol == "folds:4:1"
    for label in "xy":
        counts = Counter(item.split for item in found.items if item.labels == (label,))
        assert counts == {f"fold{n}": 3 for n in range(4)}
    assert [item.split for item in DATASETS["folder"](table, split="hash").items] == [None] * 25
    table.write_text("path,labels,split\na.wav,x,\nb.wav,y,test\n")
    with pytest.raises(UserError, match=r"songs.csv gives split 'test' to b.wav: remove its column split, or --split=folds:2$"):
        DATASETS["folder"](table, split="folds:2")


def test_folds_of_fma_hold_whole_artists(tmp_path):
    genres = ("Folk", "Rock")
    rows = [f"{n},0,a,{n // 3},training,small,{genres[n // 3 % 2]},x" for n in range(60)]
    rows += [f"{n},0,a,,training,small,{genres[n % 2]},x" for n in range(60, 70)]  # the table names no artist
    collections_tree.write_tracks(tmp_path, *rows)
    (tmp_path / "000003.mp3").touch()
    found = DATASETS["fma_small"](tmp_path, split="folds:5")
    everything = [*found.items, *found.missing]
    assert len(everything) == 70 and len(found.items) == 1
    artists = {item.track: int(item.track) // 3 if int(item.track) < 60 else item.track for item in everything}
    folds = {artist: {item.split for item in everything if artists[item.track] == artist} for artist in artists.values()}
    assert all(len(of) == 1 for of in folds.values())
    assert Counter(item.split for item in everything) == {f"fold{n}": 14 for n in range(5)}
    assert spread(Counter((item.split, item.labels[0]) for item in everything).values()) == 0
    assert len({item.split for item in everything if int(item.track) >= 60}) == 5  # ten artists, not one


# ---------------------------------------------------------------- draws


def test_gtzan_random_draws_tracks_without_regard_to_genre(tmp_path):
    (tmp_path / "blues.00000.wav").touch()
    found = DATASETS["gtzan"](tmp_path, split="random:3")
    placed = {item.track: item.split for item in (*found.items, *found.missing)}
    order = splits.shuffled(gtzan.TRACKS, 3)
    expected = {"train": order[:800], "validation": order[800:900], "test": order[900:]}
    assert placed == {track: split for split, tracks in expected.items() for track in tracks}
    assert spread(Counter(track.split(".")[0] for track in expected["train"]).values()) > 2


def test_a_quarter_of_the_files_of_each_class_is_for_training(tmp_path):
    for kind, files in (("music", 64), ("speech", 61)):
        (tmp_path / f"{kind}_wav").mkdir()
        for number in range(files):
            (tmp_path / f"{kind}_wav/{number}.wav").touch()
    found = DATASETS["gtzan_music_speech"](tmp_path, split="25_75:2")
    counts = Counter((item.split, item.labels[0]) for item in found.items)
    assert counts == {("train", "music"): 16, ("test", "music"): 48, ("train", "speech"): 15, ("test", "speech"): 46}
    assert found.notes == ()


# ---------------------------------------------------------------- every protocol on small collections

THIRDS = {"train", "validation", "test"}
FOLDS = {"fold0", "fold1", "fold2"}


def prepared(dataset: str, source: Path, split: str | None, data_dir: Path, monkeypatch) -> tuple[dict, str]:
    """Prepare a collection, and return its passport and the summary. Every shard is read, and every split has a clip."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    options = {} if split is None else {"split": split}
    folder = build.prepare(dataset, data_dir, RATE, source, workers=1, **options)
    passport = locate.read_passport(folder)
    for name, told in passport["splits"].items():
        assert len(shards.load_index(folder, name)) == told["clips"] > 0
    return passport, summary(passport, folder)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("fault_filtered", THIRDS),
        ("random:1", THIRDS),
        ("stratified_80_10_10", THIRDS),
        ("stratified_750_250", {"train", "test"}),
        ("clips_4s_20pct", {"train", "test"}),
        ("folds:3", FOLDS),
    ],
)
def test_small_gtzan(split, expected, tmp_path, monkeypatch):
    seconds = 29.7 if split == "clips_4s_20pct" else 0.5
    source = collections_tree.gtzan(tmp_path / "GTZAN", split, 1, seconds)
    passport, text = prepared("gtzan", source, split, tmp_path, monkeypatch)
    assert passport["splits"].keys() == expected and passport["empty_splits"] == []
    assert passport["totals"]["missing"] >= 900 and "has no clip of" not in text
    assert passport["totals"]["quarantined"] == 0
    assert all(told["classes"][genre] >= 1 for told in passport["splits"].values() for genre in passport["labels"])


def test_a_few_tracks_of_gtzan_leave_splits_empty_with_a_warning(tmp_path, monkeypatch):
    for genre in gtzan.GENRES:
        for number in range(2):
            collections_tree.write(tmp_path, f"{genre}.{number:05d}.wav", "music", 22050, 0.3)
    passport, _ = prepared("gtzan", tmp_path, "random:1", tmp_path / "data", monkeypatch)
    assert passport["totals"]["clips"] == 20 and passport["totals"]["missing"] == 980
    (tmp_path / "data").rename(tmp_path / "old")
    for path in tmp_path.glob("*.00001.wav"):
        path.unlink()
    for genre in gtzan.GENRES[:8]:
        (tmp_path / f"{genre}.00000.wav").unlink()
    passport, text = prepared("gtzan", tmp_path, "folds:3", tmp_path / "data", monkeypatch)
    assert list(passport["missing"]) == sorted(FOLDS) and passport["totals"]["clips"] == 2
    assert len(passport["splits"]) + len(passport["empty_splits"]) == 3 and passport["empty_splits"]
    empty = passport["empty_splits"][0]
    assert f"warning: split '{empty}' is empty because none of its clips is there and can be used: add files to the" in text


@pytest.mark.parametrize(
    ("split", "expected"),
    [("official", THIRDS), ("70_30", {"train", "test"}), ("artists_70_30:1", {"train", "test"}), ("folds:3", FOLDS)],
)
def test_small_fma(split, expected, tmp_path, monkeypatch, fma_source):
    passport, _ = prepared("fma_small", fma_source, split, tmp_path, monkeypatch)
    assert passport["splits"].keys() == expected and passport["totals"]["quarantined"] == 0
    assert passport["totals"]["clips"] == 32 and passport["labels"] == list(collections_tree.FMA_GENRES)


@pytest.fixture(scope="module")
def fma_source(tmp_path_factory) -> Path:
    return collections_tree.fma_small(tmp_path_factory.mktemp("fma"), seconds=15.1)


@pytest.mark.parametrize(("split", "expected"), [("65_10_25", THIRDS), ("25_75", {"train", "test"}), ("folds:3", FOLDS)])
def test_small_speech_music_and_noise(split, expected, tmp_path, monkeypatch):
    for dataset, write, clips in (
        ("musan", collections_tree.musan, 24),
        ("gtzan_music_speech", collections_tree.gtzan_music_speech, 16),
        ("hunonspeech", lambda top, seconds: collections_tree.hunonspeech(top, 8, seconds), 8),
    ):
        passport, text = prepared(dataset, write(tmp_path / dataset, seconds=0.3), split, tmp_path / "data", monkeypatch)
        assert passport["splits"].keys() == expected and passport["totals"]["clips"] == clips
        assert "warning" not in text


def test_small_audioset_with_a_subset_larger_than_it_is(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    made = audioset_tree.clips(tuple(audioset.music_labels()), each=10)
    audioset_tree.write(tmp_path / "AudioSet", made)
    folder = build.prepare("audioset_music", tmp_path, RATE, tmp_path / "AudioSet", "music", workers=1, subset="19042:0")
    passport = locate.read_passport(folder)
    assert folder.parts[-3] == passport["name"] == "music" and list(passport["splits"]) == ["unbalanced", "balanced", "eval"]
    there = [clip for clip in made if clip.state == "present" and set(clip.mids) - set(audioset_tree.OUTSIDE)]
    assert {split: told["clips"] for split, told in passport["splits"].items()} == Counter(clip.split for clip in there)
    index = shards.load_index(folder, "unbalanced")
    first = {clip.id: next(mid for mid in clip.mids if mid not in audioset_tree.OUTSIDE) for clip in there}
    order = list(audioset.music_labels())
    assert [order[n] for n in index.first_label] == [first[index.tracks[n]] for n in index.track]
    (warning,) = [note for note in passport["notes"] if note.startswith("warning")]
    assert warning.startswith("warning: --subset=19042:0 keeps all ")


# ---------------------------------------------------------------- after prepare


def test_the_next_command_of_folds_names_every_fold_once(tmp_path, monkeypatch):
    source = collections_tree.musan(tmp_path / "MUSAN", each=12, seconds=0.3)
    passport, _ = prepared("musan", source, "folds:12", tmp_path, monkeypatch)
    assert list(passport["splits"]) == [f"fold{n}" for n in range(12)]  # and not fold1, fold10, fold11, fold2
    keys = f"--config.data.name=musan_folds_12 --config.data.data_dir=data --config.data.sample_rate={RATE}"
    train = "+".join(f"fold{n}" for n in range(2, 12))
    assert _next_command(passport, "data").endswith(
        f"{keys} --config.data.train={train} --config.data.validation=fold1 --config.data.test=fold0"
    )
    two = passport | {"splits": {name: passport["splits"][name] for name in ("fold0", "fold1")}}
    assert _next_command(two, "data").endswith(
        f"{keys} --config.data.train=fold1 --config.data.validation= --config.data.test=fold0"
    )
    fold = passport | {"splits": {"fold0": passport["splits"]["fold0"]}}
    assert _next_command(fold, "data").startswith("training needs a train and a test split")


def test_the_next_command_of_your_own_music_starts_from_published_weights():
    """Without a validation split it is the linear probe alone; at another rate, the published features do not fit."""
    split = {"classes": {"a": 1, "b": 1}, "clips": 2}
    passport = {"dataset": "folder", "name": "mine", "sample_rate": 16_000, "conditioning": []}
    whole = passport | {"splits": dict.fromkeys(("train", "validation", "test"), split)}
    assert _next_command(whole, "data").startswith("python -m genre_jax.main --config=own_music --config.data.name=mine ")
    assert ":single" in _next_command(whole | {"sample_rate": 8_000}, "data")
    short = _next_command(passport | {"splits": dict.fromkeys(("train", "test"), split)}, "data")
    assert "--config=own_music:frozen " in short and short.endswith(" --config.data.validation=")
    folds = _next_command(passport | {"splits": {f"fold{n}": split for n in range(3)}}, "data")
    assert "--config=own_music " in folds and "--config.data.validation=fold1 " in folds


def test_the_audit_finds_a_copy_in_another_fold(tmp_path, monkeypatch):
    pytest.importorskip("google_crc32c")
    source = collections_tree.musan(tmp_path / "MUSAN", each=3, seconds=4.0)
    placed = {item.name: item.split for item in DATASETS["musan"](source, split="folds:3").items}
    first, *_, last = sorted((name for name in placed if name.startswith("music/")), key=lambda name: placed[name])
    shutil.copy(source / first, source / last)
    passport, _ = prepared("musan", source, "folds:3", tmp_path, monkeypatch)
    facts = audit.check(tmp_path / "musan_folds_3" / f"{RATE}hz" / "1.0.0", workers=1)
    assert list(facts["splits"]) == list(passport["splits"]) == ["fold0", "fold1", "fold2"]
    assert facts["leaks"]["across_splits"] == facts["leaks"]["excluded"] == 1
    index = shards.load_index(tmp_path / "musan_folds_3" / f"{RATE}hz" / "1.0.0", "fold0")
    assert first not in index.names  # of a pair, the clip in the later fold stays
    with pytest.raises(UserError, match=r"^1 clips of .* are also in another split \(see duplicates.csv\)"):
        audit.command(tmp_path, "musan_folds_3", 1, True)
