"""Files of a data set behind a URL: in a bucket (gs://, s3://), or in another file system that fsspec knows.

TensorFlow reads gs:// and ram:// itself. All other schemes are read by fsspec, with the package that fsspec names for the
scheme (s3fs for s3://). If the environment variable STORAGE_EMULATOR_HOST is set, gs:// is read by fsspec and gcsfs, because
TensorFlow knows no other server than Google's.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genre_jax.console import UserError


def is_url(text: str | Path) -> bool:
    """Whether a config value or a path names a file system other than the local one."""
    return isinstance(text, str) and "://" in text


@dataclasses.dataclass(frozen=True, order=True)
class Remote:
    """A file or folder behind a URL, with the part of the interface of `pathlib.Path` that data sets and workdirs need.

    A failure other than a missing file raises `UserError` with the URL and the reason: no permission, no such server, a
    package that is not installed.
    """

    url: str  # without a slash at its end

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The part of the URL after the last slash."""
        return self.url.rpartition("/")[2]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the URL between slashes."""
        return tuple(self.url.split("/"))

    @property
    def native(self) -> bool:
        """Whether TensorFlow opens the file itself."""
        scheme = self.url.partition("://")[0]
        return scheme == "ram" or (scheme == "gs" and not os.environ.get("STORAGE_EMULATOR_HOST"))

    def resolve(self) -> "Remote":
        """The same URL, which is always absolute."""
        return self

    def exists(self) -> bool:
        """Whether there is a file, or a folder with files, of this URL."""
        with self._errors():
            if self.native:
                return _tensorflow().io.gfile.exists(self.url)
            try:
                self._system().info(self.url)  # `exists` of fsspec hides all errors
            except FileNotFoundError:
                return False
            return True

    def glob(self, pattern: str) -> list["Remote"]:
        """The files whose URL below this one fits `pattern`, in which * stands for any text without a slash; sorted."""
        with self._errors():
            if self.native:
                return sorted(map(Remote, _tensorflow().io.gfile.glob(f"{self.url}/{pattern}")))
            system = self._system()
            return sorted(Remote(system.unstrip_protocol(path)) for path in system.glob(f"{self.url}/{pattern}"))

    def read_bytes(self, start: int = 0, size: int | None = None) -> bytes:
        """`size` bytes of the file from byte `start` (None: up to its end); fewer if the file ends before.

        Raises `FileNotFoundError`.
        """
        with self._errors():
            if self.native:
                tf = _tensorflow()
                try:
                    with tf.io.gfile.GFile(self.url, "rb") as file:
                        file.seek(start)
                        return file.read(-1 if size is None else size)
                except tf.errors.NotFoundError as error:
                    raise FileNotFoundError(f"{self.url} is missing") from error
            return self._system().cat_file(self.url, start=start, end=None if size is None else start + size)

    def write_bytes(self, content: bytes) -> None:
        """Write the file, or replace it. A bucket shows the whole file or the one before."""
        with self._errors("written"):
            if not self.native:
                try:
                    self._system().pipe_file(self.url, content)
                except FileNotFoundError as error:
                    raise OSError(str(error)) from error
                return
            with _tensorflow().io.gfile.GFile(self.url, "wb") as file:
                file.write(content)

    def remove(self) -> None:
        """Remove the file, if it is there."""
        with self._errors("removed"), contextlib.suppress(FileNotFoundError):
            if not self.native:
                self._system().rm_file(self.url)
            elif self.exists():
                _tensorflow().io.gfile.remove(self.url)

    def _system(self) -> Any:
        return _file_system(self.url.partition("://")[0])

    @contextlib.contextmanager
    def _errors(self, doing: str = "read") -> Iterator[None]:
        """Turn an error of a file system's client into a sentence. The clients raise types of their own."""
        try:
            yield
        except (UserError, FileNotFoundError):
            raise
        except Exception as error:
            raise unreadable(self.url, error, doing) from error


Place = Path | Remote


def place(text: str | Path) -> Place:
    """The local path or the URL that a config value such as `data.data_dir` names."""
    return Remote(text.rstrip("/")) if isinstance(text, str) and is_url(text) else Path(text)


def unreadable(url: str, error: Exception, doing: str = "read") -> UserError:
    """The error for a file that cannot be read or written: `error` comes from TensorFlow, fsspec or a client of a bucket."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{url} cannot be {doing}: it is missing")
    reason = (str(getattr(error, "message", "")) or str(error) or type(error).__name__).strip().splitlines()[0]
    if isinstance(error, ImportError):
        reason += " (the extra `bucket` of genre_jax installs gcsfs and s3fs)"
    return UserError(f"{url} cannot be {doing}: {reason}")


@functools.cache
def _file_system(scheme: str) -> Any:
    import fsspec

    options = {"auto_mkdir": True} if scheme in ("file", "local") else {}  # a bucket has no folders
    return fsspec.filesystem(scheme, **options)


def _tensorflow() -> Any:
    try:
        from genre_jax.data.batches import import_tensorflow

        return import_tensorflow()
    except ImportError as error:
        raise UserError("gs:// is read by TensorFlow, which is not installed: pip install tensorflow-cpu") from error
