"""A workdir in a bucket: a run writes a local folder, which is copied to the bucket whenever something new is whole.

The list of files, `files.json`, is written last and is what counts: the next start fetches the files that it names. Checkpoints
that the run removes are removed from the bucket after the list has changed. A run that loses its machine therefore goes on from
the last list, on another machine as well.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from genre_jax import cache, hosts, lock
from genre_jax.console import UserError, say
from genre_jax.data import bucket

LIST = "files.json"
NOT_FETCHED = ("tensorboard/", "report/", "profile/")  # a run appends to none of their files

Push = Callable[[], None]


@contextlib.contextmanager
def opened(workdir: str) -> Iterator[tuple[Path, Push]]:
    """Yield the folder of a workdir, and a function that copies what is new to the bucket, in the background.

    A local workdir is its own folder, and nothing is copied. The block ends when everything is in the bucket. Of several hosts
    the first one alone reads and writes the bucket. Raises `UserError` if the bucket cannot be read or written.
    """
    if not bucket.is_url(workdir) or not hosts.is_first():
        yield Path(workdir), lambda: None
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
            yield folder, mirror.push
        finally:
            mirror.close()


class Mirror:
    """Copies the files of a folder to a bucket.

    Args:
      folder: the local folder.
      target: the folder in the bucket.
    """

    def __init__(self, folder: Path, target: bucket.Remote):
        self._folder, self._target = folder, target
        self._copied: dict[str, tuple[int, int]] = {}  # name → size and time of change of the file that was copied
        self._listed: dict[str, int] = {}  # name → size of the files in the bucket's list
        self._pool = ThreadPoolExecutor(1, "mirror")
        self._running: Future[None] | None = None

    def fetch(self) -> None:
        """Replace the folder by what the bucket holds, except for what a run only adds to."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        if not (self._target / LIST).exists():
            return  # a new workdir
        try:
            self._listed = json.loads((self._target / LIST).read_bytes())
        except ValueError as error:
            raise UserError(f"{self._target}/{LIST} is damaged: choose another --workdir") from error
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
        """Copy in the background what has changed, unless a copy is under way. Raises the error of an earlier copy."""
        if self._running is None or self._running.done():
            if self._running:
                self._running.result()
            self._running = self._pool.submit(self._copy)

    def close(self) -> None:
        """Copy what has changed, and wait. Raises the error of a copy."""
        with self._pool:
            if self._running:
                self._running.result()
            self._copy()

    def _copy(self) -> None:
        for name, stamp in self._whole().items():
            if self._copied.get(name) != stamp:
                with contextlib.suppress(FileNotFoundError):  # the run has removed a checkpoint
                    (self._target / name).write_bytes((self._folder / name).read_bytes())
                    self._copied[name] = stamp
        there = {name: stamp for name, stamp in self._whole().items() if name in self._copied}
        kept = {name: size for name, size in self._listed.items() if name.startswith(NOT_FETCHED)}
        before, self._listed = self._listed, kept | {name: size for name, (size, _) in there.items()}
        (self._target / LIST).write_bytes(json.dumps(self._listed, indent=1).encode())
        for name in before.keys() - self._listed.keys():
            (self._target / name).remove()
            del self._copied[name]

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


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
