"""Tests of workdirs in a bucket: a run goes on from the bucket on another machine, and the bucket holds what the run keeps."""

import json

import fsspec
import numpy as np
import pytest
from conftest import small_config

from genre_jax import hosts, mirror
from genre_jax.console import UserError
from genre_jax.data.bucket import Remote
from genre_jax.loop import train_and_evaluate
from genre_jax.mirror import LIST, Mirror


class Lost(BaseException):
    """The machine is gone."""


@pytest.fixture
def target():
    """A folder in fsspec's memory file system. TensorFlow's ram:// appends to a file that is written again, unlike a bucket."""
    yield Remote("memory://runs/one")
    fsspec.filesystem("memory").store.clear()


def listed(target):
    return json.loads((target / LIST).read_bytes())


@pytest.mark.parametrize("lost_at", [2, 4])
def test_a_run_goes_on_from_the_bucket_on_another_machine(tones, tmp_path, target, lost_at):
    config = small_config(tones, "snn", train__keep=1)
    train_and_evaluate(config, tmp_path / "whole")
    first = Mirror(tmp_path / "first", target)
    first.fetch()
    copies = []

    def push():
        first._copy()
        copies.append(listed(target))
        if len(copies) == lost_at:
            raise Lost

    with pytest.raises(Lost):
        train_and_evaluate(config, tmp_path / "first", place=mirror.Place("first", push))
    second = Mirror(tmp_path / "second", target)
    second.fetch()
    assert any((tmp_path / "second/checkpoints").glob("[0-9]*/about"))
    assert not (tmp_path / "second/tensorboard").exists()
    train_and_evaluate(config, tmp_path / "second", place=mirror.Place("second", second.push))
    second.close()
    assert (tmp_path / "second/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    with np.load(tmp_path / "second/predictions.npz") as ours, np.load(tmp_path / "whole/predictions.npz") as theirs:
        for key in theirs.files:
            np.testing.assert_array_equal(ours[key], theirs[key])
    assert_copied(target, tmp_path / "second")


def assert_copied(target, folder):
    """Assert that the bucket holds the files of the folder, what earlier machines added, and no other file."""
    for name, size in listed(target).items():
        content = (target / name).read_bytes()
        assert len(content) == size
        if not name.startswith("tensorboard"):
            assert content == (folder / name).read_bytes(), name
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files <= listed(target).keys()
    steps = {name.split("/")[1] for name in listed(target) if name.startswith("checkpoints/")}
    assert steps == {path.name for path in (folder / "checkpoints").iterdir()}
    there = {str(file).partition("/one/")[2] for file in target.glob("checkpoints/*/about/*")}
    assert there == {name for name in listed(target) if name.startswith("checkpoints/") and "/about/" in name}


def test_a_copy_that_failed_is_made_by_the_next_start(tones, tmp_path, target, monkeypatch):
    """The local folder is as new as the bucket, or newer, unless another machine has written the bucket."""
    config = small_config(tones, "snn")
    original = Remote.write_bytes

    def refuse(self, content):
        raise UserError(f"{self} cannot be written")

    first = Mirror(tmp_path / "run", target)
    first.fetch()
    monkeypatch.setattr(Remote, "write_bytes", refuse)
    train_and_evaluate(config, tmp_path / "run")
    with pytest.raises(UserError, match="cannot be written"):
        first.close()
    with pytest.raises(UserError, match="cannot be written"):  # before any step
        Mirror(tmp_path / "run", target).fetch()
    monkeypatch.setattr(Remote, "write_bytes", original)
    again = Mirror(tmp_path / "run", target)
    again.fetch()
    assert (tmp_path / "run/results.json").exists()
    again.close()
    assert "results.json" in listed(target)
    elsewhere = Mirror(tmp_path / "other", target)
    elsewhere.fetch()
    (tmp_path / "other/new").write_text("new")
    elsewhere.close()
    (tmp_path / "run/results.json").write_text("older")
    Mirror(tmp_path / "run", target).fetch()
    assert (tmp_path / "run/new").exists() and (tmp_path / "run/results.json").read_text() != "older"


def test_only_what_changed_is_copied(tmp_path, target, monkeypatch):
    copies = Mirror(tmp_path / "run", target)
    copies.fetch()
    for name in ("a", "b", ".b.host.7.partial", ".lock"):
        (tmp_path / "run" / name).write_text(name)
    (tmp_path / "run" / "1.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "run" / "1.orbax-checkpoint-tmp" / "c").write_text("c")
    written = []
    original = Remote.write_bytes
    monkeypatch.setattr(Remote, "write_bytes", lambda self, content: written.append(self.name) or original(self, content))
    copies._copy()
    (tmp_path / "run" / "b").write_text("longer")
    (tmp_path / "run" / "a").unlink()
    copies._copy()
    assert written == ["a", "b", LIST, "b", LIST] or written == ["b", "a", LIST, "b", LIST]
    assert listed(target) == {"b": 6}
    assert not (target / "a").exists()


def test_a_copy_that_fails_is_tried_again_and_reported_at_the_end(tmp_path, target, monkeypatch, capsys):
    copies = Mirror(tmp_path / "run", target)
    copies.fetch()
    (tmp_path / "run/a").write_text("a")

    def refuse(self, content):
        raise UserError(f"{self} cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "write_bytes", refuse)
        copies.push()
        assert copies._running.exception()
        copies.push()
        assert copies._running.exception()
    assert capsys.readouterr().out == f"not copied: {target}/a cannot be written; the next copy tries again\n"
    copies.push()
    copies._running.result()
    assert listed(target) == {"a": 1}
    (tmp_path / "run/a").write_text("longer")
    monkeypatch.setattr(Remote, "write_bytes", refuse)
    with pytest.raises(UserError, match="cannot be written"):
        copies.close()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        *((LIST, content, "files.json is damaged") for content in (b"[", b"[]", b'{"../b": 1}', b'{"/b": 1}', b'{"a": "x"}')),
        ("a", b"", "one/a is missing or cut off, and files.json names it"),
    ],
)
def test_a_damaged_bucket_is_one_sentence(tmp_path, target, name, content, sentence):
    copies = Mirror(tmp_path / "run", target)
    copies.fetch()
    (tmp_path / "run" / "a").write_text("a")
    copies.close()
    (target / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        Mirror(tmp_path / "again", target).fetch()


def test_main_takes_a_bucket_as_workdir(tones, tmp_path, call_main, monkeypatch, nothing_rendered):
    monkeypatch.setenv("GENRE_JAX_CACHE", str(tmp_path))
    url = f"file://{tmp_path}/bucket/run"  # a drive that is mounted, for which folders must be made
    command = ["--config=tests/small_run.py:snn", f"--config.data.data_dir={tones}", f"--workdir={url}/"]
    out, _ = call_main(*command)
    assert f"the workdir {url} is written in {tmp_path}" in out
    assert {"results.json", "predictions.npz", "report/index.html"} <= listed(Remote(url)).keys()
    assert (tmp_path / "bucket/run/checkpoints/6").is_dir()
    out, _ = call_main(*command)
    assert f"{url} holds a finished run" in out and f"the workdir is copied to {url}" in out
    _, err = call_main(*command[:2], "--workdir=file:///proc/nowhere", code=1)
    assert err.startswith("error: file:///proc/nowhere/files.json cannot be written: ") and err.count("\n") == 1


def test_other_hosts_leave_the_bucket_alone(monkeypatch):
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    with mirror.opened("nonsense://bucket/run") as (_, place):  # fsspec knows no such file system
        place.push()
    assert place.shown == "nonsense://bucket/run"
