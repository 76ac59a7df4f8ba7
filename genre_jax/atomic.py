"""Files that are written whole or not at all (a killed process leaves the old or the new one), and JSON that is checked."""

import contextlib
import json
import os
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
      mode: "wb" for bytes or "w" for text in UTF-8.

    If the block raises an exception, `path` stays as it was and the temporary file is removed.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, mode, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


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
