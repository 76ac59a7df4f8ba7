"""Files that are written whole or not at all (a killed process leaves the old or the new one), and JSON that is checked."""

import contextlib
import glob
import json
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from genre_jax.console import UserError

T = TypeVar("T")
JSON_NAMES: dict[type, str] = {dict: "object", list: "array"}


@contextlib.contextmanager
def write_whole(path: Path, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside `path`, which takes its place once it is complete and on the disk.

    Args:
      path: the file to write or replace. Its folder must exist.
      mode: "wb" for bytes or "w" for text in UTF-8, in which the bytes of a file name that is not UTF-8 become escapes.

    If the block raises an exception, `path` stays as it was and the temporary file is removed. Temporary files of the same
    `path` whose process on this machine was killed are removed as well; containers that share a folder therefore need host
    names of their own, which is the default. An `OSError` names the file.
    """
    _remove_partials(path)
    partial = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.partial")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    try:
        with named(path, partial):
            with open(partial, mode, **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def named(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Give an `OSError` in the block the name `path` if it names no file, as for a write to a full disk, or names `partial`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, partial and str(partial)):
            error.filename, error.filename2 = str(path), None
        raise


def _remove_partials(path: Path) -> None:
    """Remove the temporary files of `path` that processes of this machine left when they were killed."""
    start = f".{path.name}.{platform.node()}."
    for partial in path.parent.glob(f"{glob.escape(start)}*.partial"):
        pid = re.fullmatch(r"([1-9][0-9]{0,8})\.partial", partial.name.removeprefix(start))
        if pid and not _runs(int(pid[1])):
            with contextlib.suppress(OSError):
                partial.unlink()


def _runs(pid: int) -> bool:
    """Whether a process with this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs for another user
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with write_whole(path, "w") as file:
        file.write(text)


def write_json(path: Path, values: Any) -> None:
    """Write indented JSON whole or not at all. Raises `ValueError` for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, kind: type[T]) -> T:
    """Returns the content of a JSON file. Raises `UserError` if it is missing, is not JSON, or is not of the type `kind`."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number of JSON")

    try:
        value = json.loads(path.read_bytes(), parse_constant=refuse)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, kind):
        raise UserError(f"{path} must hold a JSON {JSON_NAMES[kind]}, and holds {value!r:.40}")
    return value
