"""A workdir in a bucket: a run writes a local folder, which is copied to the bucket whenever something new is whole.

The list of files, `files.json`, is written last and is what counts: the next start fetches the files that it names. Checkpoints
that the run removes are removed from the bucket after the list has changed. A run that loses its machine therefore goes on from
the last list, on another machine as well. On the same machine it goes on from the local folder, which may be newer.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from genre_jax import cache, hosts, lock
from genre_jax.console import UserError, say
from genre_jax.data import bucket

LIST = "files.json"
NOT_FETCHED = ("tensorboard/", "report/", "profile/")  # a run appends to none of their files


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a workdir is, for messages, and a function that copies in the background what is new in it."""

    shown: str
    push: Callable[[], None] = lambda: None


@contextlib.contextmanager
def opened(workdir: str) -> Iterator[tuple[Path, Place]]:
    """Yield the local folder of a workdir, and its place.

    A local workdir is its own folder, and nothing is copied. The block ends when everything is in the bucket. Of several hosts
    the first one alone reads and writes the bucket. Raises `UserError` if the bucket cannot be read or written.
    """
    if not bucket.is_url(workdir) or not hosts.is_first():
        yield Path(workdir), Place(workdir)
        return
    url = workdir.rstrip("/")
    folder = cache.folder() / "workdirs" / hashlib.sha256(url.encode()).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    busy = f"another run on this machine holds the workdir {url}: wait until it ends, or choose another --workdir"
    with lock.hold(folder.with_suffix(".lock"), busy):
        mirror = Mirror(folder, bucket.Remote(url))
        mirror.fetch()
        say(f"the workdir {url} is written in {folder} and copied")
        try:
            yield folder, Place(url, mirror.push)
        finally:
            try:
                mirror.close()
            except UserError as error:
                raise UserError(f"{error}; the workdir is still in {folder}, and the same command copies it") from error
            say(f"the workdir is copied to {url}")


class Mirror:
    """Copies the files of a folder to a bucket.

    Args:
      folder: the local folder. The file beside it with the ending .json is the last list that was written from it.
      target: the folder in the bucket.
    """

    def __init__(self, folder: Path, target: bucket.Remote):
        self._folder, self._target, self._memo = folder, target, folder.with_suffix(".json")
        self._copied: dict[str, tuple[int, int]] = {}  # name → size and time of change of the file that was copied
        self._listed: dict[str, int] = {}  # name → size of the files in the bucket's list
        self._pool = ThreadPoolExecutor(1, "mirror")
        self._running: Future[None] | None = None

    def fetch(self) -> None:
        """Let the folder hold the newest state of the workdir.

        The folder stays as it is if the bucket's list is the one that was last written from it: then it is as new as the
        bucket, or newer. Otherwise what the bucket holds replaces it, except for files that a run only adds to. The list is
        then written again, which shows that the bucket can be written.
        """
        there = (self._target / LIST).read_bytes() if (self._target / LIST).exists() else None
        try:
            self._listed = {_inside(name): int(size) for name, size in json.loads(there or b"{}").items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{self._target}/{LIST} is damaged: choose another --workdir") from error
        known = self._memo.read_bytes() if self._memo.exists() else None
        if there != known or not self._folder.exists():
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            self._download()
        self._write_list()

    def _download(self) -> None:
        for name, size in self._listed.items():
            if not name.startswith(NOT_FETCHED):
                path = self._folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._read(name, size))
                self._copied[name] = _stamp(path)

    def _read(self, name: str, size: int) -> bytes:
        """A file of the bucket. It may have grown since it was listed. Raises `UserError` if it is missing or cut off."""
        with contextlib.suppress(FileNotFoundError):
            content = (self._target / name).read_bytes()
            if len(content) >= size:
                return content
        raise UserError(f"{self._target}/{name} is missing or cut off, and {LIST} names it: choose another --workdir")

    def push(self) -> None:
        """Copy in the background what has changed, unless a copy is under way. A copy that fails is made by the next one."""
        if self._running is None or self._running.done():
            if self._running and (error := self._running.exception()):
                say(f"not copied: {error}; the next copy tries again")
            self._running = self._pool.submit(self._copy)

    def close(self) -> None:
        """Copy what has changed, and wait. Raises the error of this last copy."""
        self._pool.shutdown()
        self._copy()

    def _copy(self) -> None:
        for name, stamp in self._whole().items():
            if self._copied.get(name) != stamp:
                try:
                    content = (self._folder / name).read_bytes()
                except FileNotFoundError:  # the run has removed a checkpoint
                    continue
                (self._target / name).write_bytes(content)
                self._copied[name] = stamp
        there = {name: stamp for name, stamp in self._whole().items() if name in self._copied}
        kept = {name: size for name, size in self._listed.items() if name.startswith(NOT_FETCHED)}
        before, self._listed = self._listed, kept | {name: size for name, (size, _) in there.items()}
        self._write_list()
        for name in before.keys() - self._listed.keys():
            (self._target / name).remove()
            self._copied.pop(name, None)

    def _write_list(self) -> None:
        content = json.dumps(self._listed, indent=1).encode()
        (self._target / LIST).write_bytes(content)
        self._memo.write_bytes(content)

    def _whole(self) -> dict[str, tuple[int, int]]:
        """Name → stamp of the files that no writer is still writing: Orbax and `atomic` give a file its name at the end."""
        found = {}
        for path in self._folder.rglob("*"):
            name = str(path.relative_to(self._folder))
            if not re.search(r"tmp|\.partial$|^\.lock$", name):
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file():
                        found[name] = _stamp(path)
        return found


def _inside(name: str) -> str:
    """The name of a file, if it lies in the folder. Raises `ValueError`."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(name)
    return name


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
