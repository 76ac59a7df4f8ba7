"""Tests of the shard format: clips are read as they were written, and damaged shards raise an error."""

import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from genre_jax.console import UserError
from genre_jax.data import locate, shards
from genre_jax.prepare import passport, tfrecord

LENGTHS = (1, 2, 3, 63, 64, 127, 128, 1000, 16383, 16385)  # the size of a length field changes at 2**7 and 2**14


def clips(lengths=LENGTHS, seed=0) -> list[tfrecord.Clip]:
    rng = np.random.default_rng(seed)
    made = []
    for number, length in enumerate(lengths):
        audio = rng.integers(-32768, 32768, length).astype(np.int16)
        labels = tuple(int(label) for label in rng.permutation(200)[: number % 4])  # 0 to 3 labels; some need two bytes
        made.append(tfrecord.Clip(f"{number * 7 % 10}/ü {number}.wav", f"t{number // 3}", labels, audio, audio.max() / 32768))
    return made


def write(folder: Path, made: list[tfrecord.Clip], split="train", num_shards=3) -> Path:
    tfrecord.write_shards(folder, "odd", split, made, num_shards)
    facts = {"name": "odd", "sample_rate": 8000, "labels": [f"c{i}" for i in range(200)], "splits": {split: {}}}
    passport.write(folder, facts)
    return folder


def test_every_cut_of_every_clip(tmp_path):
    made = {clip.name: clip for clip in clips()}
    index = shards.load_index(write(tmp_path, list(made.values())), "train")
    assert list(index.names) == sorted(made) and len(index) == len(LENGTHS)
    for row, name in enumerate(index.names):
        clip = made[name]
        assert index.length[row] == len(clip.audio)
        assert index.tracks[index.track[row]] == clip.track
        assert index.maximum[row] == np.float32(clip.maximum)
        assert set(np.flatnonzero(index.labels[row])) == set(clip.labels)
        assert index.first_label[row] == (clip.labels[0] if clip.labels else -1)
        padded = np.concatenate([clip.audio, np.zeros(60, np.int16)])
        for start in {0, 1, 2, len(clip.audio) // 2, len(clip.audio) - 1, len(clip.audio)}:
            for samples in (1, 3, 50):
                np.testing.assert_array_equal(index.cut(row, start, samples), padded[start:][:samples])


def test_tensorflow_reads_the_shards(tmp_path):
    tf = pytest.importorskip("tensorflow")
    made = clips()
    write(tmp_path, made)
    features = {
        "audio": tf.io.FixedLenFeature([], tf.string),
        "labels": tf.io.VarLenFeature(tf.int64),
        "name": tf.io.FixedLenFeature([], tf.string),
        "maximum": tf.io.FixedLenFeature([], tf.float32),
    }
    paths = [str(path) for path in sorted(tmp_path.glob("*.tfrecord*"))]
    found = {}
    for record in tf.data.TFRecordDataset(paths).as_numpy_iterator():  # TensorFlow verifies both checksums
        example = tf.io.parse_single_example(record, features)
        found[example["name"].numpy().decode()] = example
    assert set(found) == {clip.name for clip in made}
    for clip in made:
        example = found[clip.name]
        assert example["audio"].numpy() == clip.audio.tobytes()
        assert tuple(example["labels"].values.numpy()) == clip.labels
        assert example["maximum"].numpy() == np.float32(clip.maximum)


def test_checksum_is_castagnolis():
    # 0xE3069283 is the published check value of CRC-32C for "123456789".
    crc = 0xE3069283
    assert tfrecord.masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_the_cached_index_is_used_and_is_dropped_when_the_shards_change(tmp_path):
    write(tmp_path, clips())
    first = shards.load_index(tmp_path, "train")
    stamp = (tmp_path / "index-train.npz").stat().st_mtime_ns
    again = shards.load_index(tmp_path, "train")
    assert (tmp_path / "index-train.npz").stat().st_mtime_ns == stamp
    assert again.names == first.names
    np.testing.assert_array_equal(again.offset, first.offset)
    write(tmp_path, clips(LENGTHS[:4], seed=1))
    assert shards.load_index(tmp_path, "train").length.tolist() == sorted(LENGTHS[:4], key=lambda n: LENGTHS.index(n) * 7 % 10)
    (tmp_path / "index-train.npz").write_bytes(b"not an index")
    assert len(shards.load_index(tmp_path, "train")) == 4


def test_a_shard_that_is_cut_off_is_told(tmp_path):
    write(tmp_path, clips(), num_shards=1)
    shard = next(tmp_path.glob("*.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"^shard .* is damaged in the record at byte \d+ \(it is cut off\): restore the file"):
        shards.load_index(tmp_path, "train")


def test_an_unknown_split_is_told(tmp_path):
    write(tmp_path, clips())
    with pytest.raises(UserError, match=r"^data set 'odd' has no split 'test': choose one of train for --config"):
        shards.load_index(tmp_path, "test")


def test_prepared_lists_what_has_a_passport(tmp_path):
    assert locate.prepared(tmp_path) == {}
    for name, rate in (("odd", 8000), ("odd", 16000), ("even", 8000)):
        write(locate.directory(tmp_path, name, rate), clips(LENGTHS[:2]))
    locate.directory(tmp_path, "half", 8000).mkdir(parents=True)
    found = locate.prepared(tmp_path)
    assert set(found) == {"odd", "even"} and sorted(found["odd"]) == [8000, 16000]
    shutil.rmtree(tmp_path / "odd")
    assert locate.prepared(tmp_path) == {"even": [8000]}


# ---------------------------------------------------------------- damage


def flip(path: Path, bit: int) -> None:
    """Invert one bit of a file, and keep its length."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def content_of(folder: Path) -> list:
    """Return everything that a data set holds. Raises `UserError` if it is damaged."""
    index = shards.load_index(folder, "train")
    columns = [getattr(index, key).tolist() for key in shards.COLUMNS]
    return [
        index.names,
        index.tracks,
        index.classes,
        columns,
        [index.cut(row, 0, int(n)).tolist() for row, n in enumerate(index.length)],
    ]


@pytest.mark.parametrize("kind", ["*.tfrecord*", "index-train.npz", "passport.json"])
def test_no_flipped_bit_is_silent(tmp_path, kind):
    """A flipped bit leads to a sentence, or changes nothing: then the cached index is made again, or no reader needs the bit."""
    whole = content_of(write(tmp_path / "whole", clips(LENGTHS[:6])))
    rng, outcomes = np.random.default_rng(0), set()
    for number in range(100):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", folder)
        path = sorted(folder.glob(kind))[number % len(list(folder.glob(kind)))]
        flip(path, int(rng.integers(8 * path.stat().st_size)))
        try:
            assert content_of(folder) == whole
            outcomes.add("equal")
        except UserError:
            outcomes.add("refused")
        shutil.rmtree(folder)
    assert outcomes == ({"equal"} if kind == "index-train.npz" else {"refused"}) or (
        kind == "*.tfrecord*" and "refused" in outcomes
    )


def test_a_shard_that_is_cut_while_it_is_read_is_no_silence(tmp_path):
    write(tmp_path, clips(), num_shards=1)
    index = shards.load_index(tmp_path, "train")
    row = int(np.argmax(index.offset))
    with open(index.shards[0], "r+b") as file:
        file.truncate(int(index.offset[row]) + 10)
    for verify in ("first", "never"):
        with pytest.raises(
            shards.DamagedClip, match=r"^clip '.*' in shard .* is damaged \(the file ends at byte \d+\): restore"
        ):
            index.cut(row, 0, int(index.length[row]), verify=verify)


def test_a_shard_that_changes_is_verified_again(tmp_path):
    write(tmp_path, clips(), num_shards=1)
    index = shards.load_index(tmp_path, "train")
    row = int(np.argmax(index.length))
    before = index.cut(row, 0, 100).copy()
    flip(index.shards[0], 8 * int(index.offset[row]))
    assert not np.array_equal(index.cut(row, 0, 100, verify="never"), before)
    for verify in ("first", "always"):
        with pytest.raises(shards.DamagedClip, match="its bytes differ from its checksum"):
            index.cut(row, 0, 100, verify=verify)
    assert index.state[row] == shards.DAMAGED


def test_shards_splits_and_labels_are_those_of_the_passport(tmp_path):
    folder = write(tmp_path / "a", clips())
    first, second = sorted(folder.glob("*.tfrecord*"))[:2]
    content = first.read_bytes()
    first.unlink()
    with pytest.raises(UserError, match=r"lacks odd-train.tfrecord-00000-of-00003, 1 of 3 shards of split 'train': restore"):
        shards.load_index(folder, "train")
    first.write_bytes(content)
    stray = folder / "odd-train.tfrecord-00000-of-00001"
    stray.write_bytes(content)
    with pytest.raises(UserError, match=r"holds odd-train.tfrecord-00000-of-00001, which is not a shard of its passport: take"):
        shards.load_index(folder, "train")
    stray.unlink()
    for other in (bytes(len(content)), second.read_bytes(), b""):
        first.write_bytes(other)
        with pytest.raises(
            UserError, match="shard .*00000-of-00003 (is damaged|does not hold the clips that its passport lists)"
        ):
            shards.load_index(folder, "train")
    first.write_bytes(content)
    assert len(shards.load_index(folder, "train")) == len(LENGTHS)
    facts = json.loads((folder / "passport.json").read_text())
    for changes in ({"labels": facts["labels"][::-1]}, {"sample_rate": 16000}, {"splits": {}}):
        (folder / "passport.json").write_text(json.dumps(facts | changes))
        with pytest.raises(UserError, match="passport.json has changed since prepare wrote it: prepare the data set again"):
            shards.load_index(folder, "train")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is damaged"),
        ('{"name": "od', "is damaged"),
        ("[]", "is damaged"),
        ("{}", "has no checksums, because an earlier genre_jax wrote it"),
    ],
)
def test_a_damaged_passport_is_told(tmp_path, content, sentence):
    (tmp_path / "passport.json").write_text(content)
    with pytest.raises(UserError, match=f"passport.json {sentence}.*: prepare the data set again, with --overwrite"):
        locate.read_passport(tmp_path)


def test_a_read_only_data_set_without_an_index_is_read(tmp_path, monkeypatch):
    write(tmp_path, clips())

    def refuse(path, *arguments, **options):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(
        "builtins.open", lambda path, mode="r", *a, _open=open, **k: refuse(path) if "w" in mode else _open(path, mode, *a, **k)
    )
    monkeypatch.setattr(Path, "unlink", refuse)
    assert len(shards.load_index(tmp_path, "train")) == len(LENGTHS)
