"""A lock that one process holds, which the kernel releases when the process ends."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from genre_jax import console
from genre_jax.console import UserError

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def hold(path: Path, message: str) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` while the block runs. The file is made, and removed at the end.

    The lock is `flock`, which the kernel releases when the process ends, also after kill -9. A file that such a process left
    does not matter, because the lock counts and not the file. On NFS, Linux turns the lock into a byte-range lock of the
    server, which therefore holds between machines; the server releases the locks of a machine that has died when it knows of
    it. Where a file system has no locks, one printed line says so, and the block runs without a lock.

    Args:
      path: the lock file. Its folder must exist.
      message: sentence of the `UserError` that is raised if another process holds the lock.
    """
    file = _take(path, message)
    try:
        yield
    finally:
        # The file is removed while the lock is held: whoever opened it before sees that the path has gone, and tries again.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(file)


def _take(path: Path, message: str) -> int:
    """Open and lock the file, and return its descriptor."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise UserError(message) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(file)
                raise
            console.say(f"the file system of {path.parent} has no locks: do not run the same command there twice at once")
            return file
        if _is_at(file, path):
            return file
        os.close(file)  # the former holder removed the file between our open and our lock


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
