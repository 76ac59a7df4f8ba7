"""Locks end with their process, and files are written whole: neither leaves anything behind after kill -9."""

import errno
import fcntl
import multiprocessing
import os
import platform
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from genre_jax import atomic, lock
from genre_jax.console import UserError


def child(code: str) -> subprocess.Popen:
    """Start Python code that prints a line when it is ready; return when it has."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_lock_excludes_another_process_until_it_is_killed(tmp_path):
    path = tmp_path / "x.lock"
    code = f"import pathlib, time; from genre_jax import lock\nwith lock.hold(pathlib.Path({str(path)!r}), ''):\n    print('ready', flush=True); time.sleep(60)"
    holder = child(code)
    with pytest.raises(UserError, match=r"^wait until it ends$"), lock.hold(path, "wait until it ends"):
        pass
    kill(holder)
    assert path.exists()  # the file is left, the lock is not
    with lock.hold(path, ""):
        assert path.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_was_replaced_is_not_the_lock(tmp_path, monkeypatch):
    path, real = tmp_path / "x.lock", fcntl.flock

    def flock(file, how):  # the former holder removes the file between our open and our lock
        monkeypatch.setattr(fcntl, "flock", real)
        path.unlink()
        path.touch()
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock.hold(path, ""), pytest.raises(UserError), lock.hold(path, "taken"):
        pass


def _count(folder, rounds: int) -> None:
    for _ in range(rounds):
        while True:
            try:
                with lock.hold(folder / "x.lock", ""):
                    number = int((folder / "number").read_text())
                    (folder / "number").write_text(str(number + 1))
                break
            except UserError:
                pass


def test_no_two_processes_are_inside_at_once(tmp_path):
    (tmp_path / "number").write_text("0")
    workers = [multiprocessing.get_context("spawn").Process(target=_count, args=(tmp_path, 300)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "number").read_text() == "900"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys, number):
    def flock(file, how):
        raise OSError(number, "text")

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock.hold(tmp_path / "x.lock", ""):
        pass
    out = capsys.readouterr().out
    assert out == f"the file system of {tmp_path} has no locks: do not run the same command there twice at once\n"


def test_what_a_killed_process_was_writing_is_removed_by_the_next(tmp_path):
    path = tmp_path / "a[1].json"
    code = f"import pathlib, time; from genre_jax import atomic\nwith atomic.write_whole(pathlib.Path({str(path)!r})):\n    print('ready', flush=True); time.sleep(60)"
    writer = child(code)
    atomic.write_text(path, "one")
    (partial,) = [other for other in tmp_path.iterdir() if other != path]
    assert partial.name == f".a[1].json.{platform.node()}.{writer.pid}.partial"  # still being written
    kill(writer)
    others = [tmp_path / f".a[1].json.elsewhere.{writer.pid}.partial", tmp_path / f".b.{platform.node()}.{writer.pid}.partial"]
    for other in others:
        other.touch()
    atomic.write_text(path, "two")
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_the_error_of_a_write_names_the_file_and_is_the_first(tmp_path, monkeypatch):
    path = tmp_path / "x.json"

    def unlink(*args, **options):
        raise PermissionError(errno.EACCES, "text")

    monkeypatch.setattr(type(path), "unlink", unlink)
    with pytest.raises(OSError, match="no space") as error, atomic.write_whole(path) as file:
        raise OSError(errno.ENOSPC, "no space")
    assert file.closed and (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    with pytest.raises(FileNotFoundError) as missing:
        atomic.write_text(tmp_path / "gone" / "x.json", "text")
    assert missing.value.filename == str(tmp_path / "gone" / "x.json")


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []
