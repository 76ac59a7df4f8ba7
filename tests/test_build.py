"""The build gives the same bytes after interruptions, damaged parts and full disks, and with Apache Beam."""

import contextlib
import dataclasses
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hostile
import numpy as np
import pytest

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.data import locate, shards
from genre_jax.datasets import Item, Source
from genre_jax.prepare import build, parts, tfrecord
from genre_jax.prepare.audio import AudioError, explained
from genre_jax.prepare.workers import Limits, render_clip

RATE = 8000
CLIP = 2 * RATE  # bytes of a clip of hostile.render
ROOT = Path(__file__).parents[1]
OPTIONS = {"validation": 0.1, "test": 0.2, "workers": 2, "limits": Limits(10.0, 1.0)}


def source(clips: int = 40) -> Source:
    """Clips of noise. Two of them cannot be decoded, one more is missing, and one row of the list is malformed."""
    items = [Item(f"{'xy'[n % 2]}/{'raises' if n in (3, 24) else n}/{n}", str(n), ("xy"[n % 2],)) for n in range(clips)]
    return Source(
        "hostile", ("x", "y"), tuple(items), hostile.render, missing=(Item("gone", "gone", ("y",), "train"),),
        refused=(("list.csv, row 3", "no row"),), protocol="drawn",
    )  # fmt: skip


@pytest.fixture
def small_shards(monkeypatch):
    """Three clips per shard, and no TensorFlow."""
    monkeypatch.setattr(parts, "SHARD_BYTES", 3 * CLIP)
    monkeypatch.setitem(sys.modules, "tensorflow", None)


class Counting:
    """A renderer in this process that records the names of the rendered clips and is interrupted after `last` clips."""

    def __init__(self, last: int | None = None) -> None:
        self.names: list[str] = []
        self.last = last

    @contextlib.contextmanager
    def __call__(self, render, sample_rate, workers, limits, steps):
        def rendered(items) -> Iterator:
            for item in items:
                if len(self.names) == self.last:
                    raise KeyboardInterrupt
                self.names.append(item.name)
                try:
                    with explained():
                        result = render_clip(render, item, sample_rate, steps)
                except AudioError as error:
                    result = str(error)
                yield item, result

        yield rendered


def built(data_dir: Path, monkeypatch, last: int | None = None, found: Source | None = None) -> tuple[Path, list[str]]:
    counting = Counting(last)
    monkeypatch.setattr(build, "renderer", counting)
    try:
        return build.build(found or source(), data_dir, "noise", RATE, **OPTIONS), counting.names
    except KeyboardInterrupt:
        return data_dir, counting.names


def content(folder: Path) -> dict[str, bytes]:
    """The files of a data set, except the indices, which hold the times and inodes of the shards."""
    assert all(path.is_file() for path in folder.iterdir())
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith("index-")}


def test_shards_are_numbered_and_every_clip_is_in_one(small_shards, tmp_path, monkeypatch):
    folder, _ = built(tmp_path, monkeypatch)
    found = sorted(path.name for path in folder.glob("*.tfrecord-*"))
    passport = locate.read_passport(folder)
    assert {path.name for path in folder.glob("index-*")} == {f"index-{split}.npz" for split in passport["splits"]}
    for split, told in passport["splits"].items():
        own = [name for name in found if f"-{split}." in name]
        assert own == [f"noise-{split}.tfrecord-{i:05d}-of-{len(own):05d}" for i in range(len(own))]
        assert len(shards.load_index(folder, split)) == told["clips"]
    assert passport["totals"] | {"seconds": 0, "scaled": 0} == {
        "clips": 38, "seconds": 0, "scaled": 0, "warned": 0, "quarantined": 3, "missing": 1
    }  # fmt: skip
    assert passport["missing"] == {"train": {"clips": 1, "classes": {"x": 0, "y": 1}}} and passport["protocol"] == "drawn"
    assert (folder / "missing.csv").read_text().splitlines() == ["path,split,labels", "gone,train,y"]
    assert '"list.csv, row 3",no row' in (folder / "quarantine.csv").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise"]


def test_the_order_of_the_source_and_where_it_lies_change_nothing(small_shards, tmp_path, monkeypatch):
    one, _ = built(tmp_path / "one", monkeypatch)
    turned = dataclasses.replace(source(), items=tuple(reversed(source().items)))
    other, _ = built(tmp_path / "other", monkeypatch, found=turned)
    assert content(one) == content(other)


def test_containers_are_read_from_end_to_end():
    rng = np.random.default_rng(0)
    places = [(path, (group, row)) for path in "ab" for group in range(3) for row in range(4)]
    items = [Item(f"{path}/{group}/{row}", "", (), path=path, member=(group, row)) for path, (group, row) in places]
    (part,) = parts.plan(Path("x"), {"train": [items[i] for i in rng.permutation(len(items))]}, 0)
    assert [(item.path, item.member) for item in part.items] in (places, places[12:] + places[:12])


@pytest.mark.parametrize("last", [4, 23, 42])  # the first three clips are the probes
def test_an_interrupted_build_goes_on_to_the_same_bytes(small_shards, tmp_path, monkeypatch, capsys, last):
    whole, names = built(tmp_path / "whole", monkeypatch)
    assert len(names) == 43
    _, first = built(tmp_path / "data", monkeypatch, last)
    staged = tmp_path / "data/.preparing-noise-8000hz"
    done = len(list(staged.glob("parts/*.json")))
    assert done == {4: 0, 23: 6, 42: 13}[last] and staged.exists() == bool(done)
    assert not (tmp_path / "data/noise").exists()
    capsys.readouterr()
    folder, second = built(tmp_path / "data", monkeypatch)
    assert content(folder) == content(whole)
    if done:
        assert f"resuming an interrupted prepare: {done} of 14 shards are done" in capsys.readouterr().out
        assert len(second) < 43 - done and not set(second[3:]) & set(first[3 : 3 * done])
    assert not staged.exists()


def test_a_source_that_changed_begins_anew(small_shards, tmp_path, monkeypatch):
    built(tmp_path, monkeypatch, 30)
    items = source().items
    changed = dataclasses.replace(source(), items=(dataclasses.replace(items[0], labels=("y",)), *items[1:]))
    folder, names = built(tmp_path, monkeypatch, found=changed)
    assert len(names) == 43
    assert sum(locate.read_passport(folder)["splits"][split]["classes"]["x"] for split in ("train", "test")) <= 19


def test_a_file_that_changed_begins_anew(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    item = Item("a", "a", ("x",), path=str(path))
    limits = Limits()

    def key(rate: int = RATE) -> str:
        return parts.fingerprint(source(), {"train": [item]}, rate, limits)

    before = key()
    assert before == key() != key(RATE + 1)
    path.write_bytes(b"other")
    assert before != key()


def test_a_damaged_part_is_made_again(small_shards, tmp_path, monkeypatch):
    whole, _ = built(tmp_path / "whole", monkeypatch)
    built(tmp_path / "data", monkeypatch, 30)
    part = sorted((tmp_path / "data/.preparing-noise-8000hz/parts").glob("*.records"))[0]
    part.write_bytes(part.read_bytes()[:-1])
    folder, _ = built(tmp_path / "data", monkeypatch)
    assert content(folder) == content(whole)


def test_a_disk_without_room_is_told_before_the_work(small_shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 600_000))
    with pytest.raises(
        UserError,
        match=r"^40 clips of about 1.0 s at 8000 Hz take about 0.64 MB, but .* has only 0.6 MB free: free some space or choose",
    ):
        built(tmp_path, monkeypatch)
    assert list(tmp_path.iterdir()) == []
    assert "take about" not in capsys.readouterr().out


def test_a_disk_that_fills_up_is_a_sentence_and_the_work_is_kept(small_shards, tmp_path, monkeypatch):
    real, count = tfrecord.frame, iter(range(1000))

    def frame(clip: tfrecord.Clip) -> bytes:
        if next(count) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(clip)

    with monkeypatch.context() as patch:
        patch.setattr(tfrecord, "frame", frame)
        with pytest.raises(OSError, match="No space left") as error:
            built(tmp_path, monkeypatch)
    sentence = r"the disk of .*\.records is full: free some space and run the same command again"
    assert re.fullmatch(sentence, console.cure(error.value))
    folder, names = built(tmp_path, monkeypatch)
    assert 10 < len(names) < 30 and locate.read_passport(folder)["totals"]["clips"] == 38


def test_durations_spare_the_probes():
    items = [Item(str(n), str(n), ("x",), duration=seconds) for n, seconds in enumerate((1.0, 3.0))]
    assert parts.clip_bytes(items, RATE, lambda items: pytest.fail("rendered")) == 2 * 2 * RATE
    several = [Item(str(n), str(n), ("x",)) for n in range(17)]
    assert parts.clip_bytes(several, RATE, lambda items: ((item, "broken") for item in items)) == 0
    assert parts.clip_bytes(several[:16], RATE, lambda items: pytest.fail("rendered")) == 0


def test_tensorflow_datasets_reads_many_shards(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(parts, "SHARD_BYTES", 3 * CLIP)
    folder, _ = built(tmp_path, monkeypatch)
    found = tfds.builder_from_directory(folder)
    index = shards.load_index(folder, "train")
    examples = list(tfds.as_numpy(found.as_dataset(split="train")))
    assert len(index.shards) == len(found.info.splits["train"].shard_lengths) > 3
    assert sorted(example["name"].decode() for example in examples) == list(index.names)
    for example in examples[:3]:
        row = index.names.index(example["name"].decode())
        np.testing.assert_array_equal(example["audio"], index.cut(row, 0, index.length[row]))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_a_killed_process_s_shards_are_kept(small_shards, tmp_path, monkeypatch):
    code = (
        "import sys; sys.modules['tensorflow'] = None; import test_build as t; from genre_jax.prepare import build, parts; "
        f"parts.SHARD_BYTES = {3 * CLIP}; build.build(t.source(400), t.Path(sys.argv[1]), 'noise', t.RATE, **t.OPTIONS)"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.DEVNULL
    )
    parts = tmp_path / ".preparing-noise-8000hz/parts"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*.json"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(parts.glob("*.json")))
    folder, names = built(tmp_path, monkeypatch, found=source(400))
    assert kept >= 3 and len(names) <= 400 - 3 * (kept - 2)
    whole, _ = built(tmp_path / "whole", monkeypatch, found=source(400))
    assert content(folder) == content(whole)


# ---------------------------------------------------------------- Apache Beam


def test_beam_makes_the_same_bytes(small_shards, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed (extra [beam])")
    whole, _ = built(tmp_path / "whole", monkeypatch, found=source(20))
    folder = build.build(source(20), tmp_path / "beam", "noise", RATE, beam=["--runner=DirectRunner"], **OPTIONS)
    assert content(folder) == content(whole)


def test_without_beam_the_runner_is_a_sentence(small_shards, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.setattr(build, "renderer", Counting())
    with pytest.raises(
        UserError, match=r"^--beam_runner needs Apache Beam: install the extra \[beam\], see docs/data.md \(the import failed"
    ):
        build.build(source(4), tmp_path, "noise", RATE, beam=["--runner=DirectRunner"], **OPTIONS)
