"""AudioSet: exact counts for every layout with missing and broken clips; lists of classes, subsets, bad lists and archives."""

import csv
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path

import audio_files
import audioset_tree
import numpy as np
import pytest
import soundfile
from audioset_tree import RATE, add
from conftest import finish, run_module

from genre_jax.console import UserError
from genre_jax.data import locate, shards
from genre_jax.datasets import DATASETS, audioset
from genre_jax.prepare import build, workers
from genre_jax.prepare.audio import AudioError

find = DATASETS["audioset_music"]
NAMES = audioset.music_labels()
MIDS = tuple(NAMES)


@pytest.fixture(scope="module")
def clips() -> list[audioset_tree.Clip]:
    return audioset_tree.clips(MIDS)


@pytest.fixture(scope="module")
def tree(clips, tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("audioset")
    audioset_tree.write(top, clips)
    return top


@pytest.fixture(scope="module")
def made(tree, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow", None)  # only the metadata of tensorflow-datasets needs TensorFlow
        return build.prepare("audioset_music", tmp_path_factory.mktemp("data"), RATE, tree, workers=2)


def select(clips, **about) -> list[audioset_tree.Clip]:
    return [clip for clip in clips if all(getattr(clip, key) == value for key, value in about.items())]


def class_counts(clips) -> dict[str, int]:
    counts = Counter(NAMES[mid] for clip in clips for mid in clip.mids if mid in NAMES)
    return {name: counts[name] for name in NAMES.values()}


# ---------------------------------------------------------------- every layout, counted


def test_every_clip_of_every_layout_is_accounted_for(clips, made):
    passport = locate.read_passport(made)
    assert passport["labels"] == list(NAMES.values()) and len(passport["labels"]) == 67
    assert len(clips) == 1100 and len(audioset_tree.LAYOUTS) == 11
    for split in ("unbalanced", "balanced", "eval"):
        told, here = passport["splits"][split], select(clips, split=split)
        assert told["clips"] == len(select(here, state="present"))
        assert told["missing"] == passport["missing"][split]["clips"] == len(select(here, state="missing"))
        assert told["classes"] == class_counts(select(here, state="present"))
        assert passport["missing"][split]["classes"] == class_counts(select(here, state="missing"))
    totals = {key: passport["totals"][key] for key in ("clips", "missing", "quarantined")}
    assert totals == {"clips": 1023, "missing": 55, "quarantined": 22}  # 5 and 2 of 100 in each layout
    outside = sum(mid not in NAMES for clip in clips for mid in clip.mids)
    assert passport["notes"] == [
        "55 listed music clips have no audio file (5.0 %)",
        f"{outside} labels outside the 67 music classes were dropped",
    ]


def test_quarantine_and_missing_name_the_clips(clips, made):
    with open(made / "quarantine.csv", newline="") as file:
        quarantined = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert set(quarantined) == {clip.name for clip in select(clips, state="broken")}
    assert all(reason.startswith("not an audio file") for reason in quarantined.values())
    with open(made / "missing.csv", newline="") as file:
        missing = {row["path"]: (row["split"], row["labels"]) for row in csv.DictReader(file)}
    assert missing == {
        clip.id: (clip.split, "|".join(NAMES[mid] for mid in clip.mids if mid in NAMES))
        for clip in select(clips, state="missing")
    }


def test_clips_of_every_layout_have_their_own_samples_and_labels(clips, made):
    by_name = {clip.name: clip for clip in clips}
    seen: Counter[str] = Counter()
    for split in ("unbalanced", "balanced", "eval"):
        index = shards.load_index(made, split)
        for row, name in enumerate(index.names):
            clip = by_name[name]
            np.testing.assert_array_equal(index.cut(row, 0, index.length[row]), clip.pcm())  # a video is cut to its segment
            own = [MIDS.index(mid) for mid in clip.mids if mid in NAMES]
            assert sorted(own) == np.flatnonzero(index.labels[row]).tolist() and index.first_label[row] == own[0]
            assert index.tracks[index.track[row]] == clip.id and clip.split == split
            seen[clip.layout] += 1
    assert seen == dict.fromkeys(audioset_tree.LAYOUTS, 93)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("bytenet", ("model.width=8", "model.max_dilation=2", "data.labels=multi", "loss.name=sigmoid", "train.batch_size=32")),
        ("resnet34_spectrogram", ("model.width=8", "frontend.height=32", "frontend.width=32", "train.batch_size=32")),
    ],
)
def test_the_published_configs_train_on_it_over_four_devices(made, clips, tmp_path, config, options):
    """Train one epoch of binary cross-entropy with smaller networks; evaluation uses the official eval split."""
    common = (f"data.data_dir={made.parents[2]}", f"data.sample_rate={RATE}", "data.samples=4000", "evaluate.batch_size=32")
    arguments = [f"--config.{option}" for option in (*common, *options, "train.duration=1 epochs")]
    finish(run_module("genre_jax.main", f"--config=configs/{config}.py", f"--workdir={tmp_path}", *arguments, devices=4))
    predictions = np.load(tmp_path / "predictions.npz")
    present = [select(clips, split=split, state="present") for split in ("unbalanced", "balanced", "eval")]
    assert len(predictions["clip"]) == len(present[2]) and predictions["labels"].shape[1] == 67
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == -(-len(present[0]) // 32)


# ---------------------------------------------------------------- classes, subsets


def test_a_list_of_mids_takes_the_place_of_the_67_classes(clips, tree, tmp_path):
    chosen = [MIDS[40], MIDS[3], "/m/09x0r"]
    plain = tmp_path / "mine.csv"
    plain.write_text("\n".join(chosen) + "\n")
    source = find(tree, labels=str(plain))
    assert source.labels == (NAMES[MIDS[40]], NAMES[MIDS[3]], "/m/09x0r")
    want = [clip for clip in clips if clip.state != "missing" and set(chosen) & set(clip.mids)]
    assert len(source.items) == len(want)
    official = tmp_path / "named.csv"
    official.write_text(f'index,mid,display_name\n0,{MIDS[3]},"Rock, mine"\n')
    assert find(tree, labels=str(official)).labels == ("Rock, mine",)
    assert build.default_name("audioset_music", tree, {"labels": str(official)}) == "audioset_music_named"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "does not exist: use a CSV with the column mid, or a file with one mid per line"),
        ("/m/064t9\nrock\n", "class 2: 'rock' is not a machine id such as /m/064t9"),
        ("/m/064t9\n/m/064t9\n", "class 2: repeats /m/064t9"),
        ("mid,display_name\n/m/064t9,pop\n/m/0glt670,pop\n", "class 2: repeats 'pop'"),
        ("mid\n", "names no class"),
    ],
)
def test_bad_lists_of_classes_are_errors(tree, tmp_path, text, sentence):
    path = tmp_path / "mine.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        find(tree, labels=str(path))


def test_subsets_are_nested_and_seeded(clips, tree):
    def videos(text: str) -> set[str]:
        return {item.track for item in find(tree, subset=text).items if item.split == "unbalanced"}

    fifty, hundred, other = videos("50:1"), videos("100:1"), videos("100:2")
    assert (len(fifty), len(hundred), len(other)) == (50, 100, 100)
    assert fifty < hundred and hundred != other
    source, whole = find(tree, subset="50:1"), find(tree)
    assert (source.protocol, whole.protocol) == ("subset:50:1", "")
    kept = {item.track for item in (*source.items, *source.missing)}
    dropped = sum(mid not in NAMES for clip in clips if clip.id in kept for mid in clip.mids)
    assert source.notes[-1] == f"{dropped} labels outside the 67 music classes were dropped"
    for split in ("balanced", "eval"):
        kept = [[item for item in some.items if item.split == split] for some in (source, whole)]
        assert kept[0] == kept[1]
    there = [clip for clip in select(clips, split="unbalanced") if clip.state != "missing"]
    assert len(videos(f"{len(there)}")) == len(there)
    more = find(tree, subset=f"{len(there) + 1}")
    assert more.items == whole.items and more.missing == whole.missing
    assert more.notes[0] == f"warning: --subset={len(there) + 1} keeps all {len(there)} clips of unbalanced that have audio"
    for text in ("0", "x", "5:a"):
        with pytest.raises(UserError, match=f"^--subset={text} "):
            find(tree, subset=text)


# ---------------------------------------------------------------- bad lists, bad archives, odd files


def small_tree(top: Path, *rows: str) -> Path:
    top.mkdir(exist_ok=True)
    (top / "eval_segments.csv").write_text(audioset_tree.HEADER + "\n".join(rows) + "\n")
    return top


def tone(seconds: float) -> np.ndarray:
    return audio_files.chord(seconds, RATE, 1)[:, 0]


def test_bad_rows_are_quarantined_and_the_rest_goes_on(tmp_path):
    good = 'goodgoodgoo, 0.000, 10.000, "/m/064t9,/m/064t9"'
    bad = {
        "abc, ten, 10.000, /m/064t9": "'abc, ten, 10.000, /m/064t9' is not ID, START, END, \"MID,MID\"",
        "abc, 0.000, 10.000": "'abc, 0.000, 10.000' is not ID, ",
        'abc, 10.000, 0.000, "/m/064t9"': "'abc, 10.000, 0.000, /m/064t9' is not ID, ",
        'abc, nan, inf, "/m/064t9"': "'abc, nan, inf, /m/064t9' is not ID, ",
        good: "repeats video 'goodgoodgoo' of eval_segments.csv, row 4",
        'unknownmid_, 0.000, 10.000, "/m/064t9,rock"': "unknown mid 'rock'",
        '../escaped_, 0.000, 10.000, "/m/064t9"': None,  # no file outside the source is looked up, therefore missing
    }
    top = small_tree(tmp_path / "source", good, *bad)
    for name in ("goodgoodgoo.wav", "unknownmid_.wav", "../escaped_.wav"):
        soundfile.write(top / name, tone(1), RATE)
    source = find(top)
    assert [(item.name, item.labels) for item in source.items] == [("goodgoodgoo.wav", ("Pop music",))]
    assert [item.name for item in source.missing] == ["../escaped_"]
    assert [where for where, _ in source.refused] == [f"eval_segments.csv, row {row}" for row in range(5, 11)]
    for (_, reason), want in zip(source.refused, bad.values(), strict=False):
        assert reason.startswith(want)


def test_mids_are_checked_by_the_official_table_where_it_is_there(tmp_path):
    rows = [f'video_{number}____, 0.000, 10.000, "/m/064t9,{mid}"' for number, mid in enumerate(("/m/09x0r", "/m/nosuch"))]
    top = small_tree(tmp_path, *rows)
    for number in range(2):
        soundfile.write(top / f"video_{number}____.wav", tone(1), RATE)
    assert len(find(top).items) == 2
    (top / "class_labels_indices.csv").write_text('index,mid,display_name\n0,/m/09x0r,"Speech"\n27,/m/064t9,"Pop music"\n')
    source = find(top)
    assert (len(source.items), source.refused) == (1, (("eval_segments.csv, row 5", "unknown mid '/m/nosuch'"),))
    (top / "class_labels_indices.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=r"has no columns mid and display_name"):
        find(top)


def test_archives_that_lead_out_or_break_off_are_quarantined(tmp_path):
    ids = [f"video_{number}____" for number in range(4)]
    top = small_tree(tmp_path / "source", *(f'{name}, 0.000, 0.500, "/m/064t9"' for name in ids))
    wav = tmp_path / "a.wav"
    soundfile.write(wav, tone(0.5), RATE)
    data = wav.read_bytes()
    with tarfile.open(top / "a.tar", "w") as tar:
        add(tar, f"../../{ids[0]}.wav", data)
        add(tar, f"/{ids[0]}.wav", data)
        link = tarfile.TarInfo(f"{ids[0]}.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add(tar, f"{ids[1]}.json", b"[1, 2")
        add(tar, f"{ids[1]}.wav", data)
        add(tar, f"{ids[2]}.json", b"{" + b" " * (1 << 20) + b"}")
        add(tar, f"{ids[3]}.wav", data)
    cut = (top / "a.tar").read_bytes()
    (top / "a.tar").write_bytes(cut[: cut.rindex(data[:60]) + 1000])  # inside the last member
    (top / "b.tar").write_bytes(b"no archive" * 100)
    (top / "c.tar.gz").write_bytes(b"\x1f\x8b")
    (top / "d.parquet").write_bytes(b"PAR1 no table")
    before = sorted(tmp_path.rglob("*"))
    source = find(top)
    assert [(item.name, item.track) for item in source.items] == [(f"a.tar/{ids[1]}.wav", ids[1])]
    assert len(source.missing) == 3
    refused = dict(source.refused)
    assert refused.pop("a.tar").startswith("the archive cannot be read after its first 2 clips: ")
    assert refused.pop("b.tar").startswith("the archive cannot be read after its first 0 clips: ")
    assert refused.pop("d.parquet").startswith("not a readable parquet file: ")
    assert refused == {
        f"a.tar/../../{ids[0]}.wav": "the path of the member leads out of the archive",
        f"a.tar//{ids[0]}.wav": "the path of the member leads out of the archive",
        f"a.tar/{ids[0]}.wav": "the member is a link or a device, not a file",
        f"a.tar/{ids[1]}.json": "not a JSON object",
        f"a.tar/{ids[2]}.json": "not a JSON object",
        f"a.tar/{ids[3]}.wav": "cut off: the archive ends inside this member",
        "c.tar.gz": "compressed archives are not read: unpack it, or use a plain .tar",
    }
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked


def test_parquet_without_audio_or_names_is_quarantined(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    top = small_tree(tmp_path, 'video_0____, 0.000, 0.500, "/m/064t9"')
    soundfile.write(top / "video_0____.wav", tone(0.5), RATE)
    pq.write_table(pa.table({"video_id": ["a"]}), top / "a.parquet")
    pq.write_table(pa.table({"audio": [b"x"]}), top / "b.parquet")
    pq.write_table(pa.table({"audio": [b"x", None], "id": ["video_0____", None]}), top / "c.parquet")
    assert dict(find(top).refused) == {
        "a.parquet": "the file has no column of audio bytes, expected one of audio, bytes, audio_bytes, wav, flac, mp3, ogg, "
        "m4a, opus",
        "b.parquet": "the file has no column of clip ids, expected one of video_id, ytid, YTID, youtube_id, segment_id, id, "
        "name, __key__",
        "c.parquet/0/1": "column id is None, expected the id of the clip",
    }


def sparse_wav(path: Path, seconds: int, rate: int, loud: slice) -> None:
    """Write a long file that uses little disk space: silence, except for the samples in `loud`."""
    soundfile.write(path, np.zeros(8, np.int16), rate)
    header = bytearray(path.read_bytes()[:44])
    size = 2 * seconds * rate
    header[4:8], header[40:44] = (36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")
    with open(path, "wb") as file:
        file.write(header)
        file.seek(44 + 2 * loud.start)
        file.write(np.full(loud.stop - loud.start, 5000, "<i2").tobytes())
        file.truncate(44 + size)


def test_odd_files_give_a_clip_or_a_sentence(tmp_path):
    starts = {"long_video_": 9000.0, "long_cut___": 9000.0, "one_sample_": 0.0, "high_rate__": 0.0, "channels_8_": 0.0}
    names = [*starts, "wrong_ext__", "ends_early_"]
    top = small_tree(tmp_path, *(f'{n}, {starts.get(n, 5.0):.3f}, {starts.get(n, 5.0) + 1:.3f}, "/m/064t9"' for n in names))
    for name in ("long_video_", "long_cut____9000"):
        sparse_wav(top / f"{name}.wav", 3 * 3600, RATE, slice(9000 * RATE, 9001 * RATE))
    soundfile.write(top / "one_sample_.wav", tone(1)[:1], RATE)
    soundfile.write(top / "high_rate__.wav", np.full(384_000, 0.25), 384_000)
    soundfile.write(top / "channels_8_.wav", np.tile(tone(1)[:, None], (1, 8)), RATE)
    soundfile.write(top / "wrong_ext__.mp3", tone(1), RATE, format="WAV")
    soundfile.write(top / "ends_early_.wav", tone(4), RATE)
    (top / "loop").symlink_to(top)
    (top / "broken.wav").symlink_to(top / "nowhere")
    clips = {}
    for item in find(top).items:
        try:
            clips[item.track] = workers.render_clip(audioset.render, item, RATE).pcm
        except AudioError as error:
            clips[item.track] = str(error)
    assert {name: clip for name, clip in clips.items() if isinstance(clip, str)} == {
        "long_cut___": "too long: 2.0 s or more, but its name says that it is the segment of 1 s",
        "one_sample_": "too short: 0.000 s, the minimum is 0.1 s",
        "ends_early_": "the file ends at 4.0 s, before the clip starts at 5.0 s",
    }
    assert {name: len(clip) for name, clip in clips.items() if not isinstance(clip, str)} == dict.fromkeys(
        ("long_video_", "high_rate__", "channels_8_", "wrong_ext__"), RATE
    )
    assert (clips["long_video_"] == 5000).all()
    np.testing.assert_allclose(clips["high_rate__"][100:-100], 8192, atol=2)
    np.testing.assert_array_equal(clips["channels_8_"], clips["wrong_ext__"])
