"""Files that are written whole or not at all: a killed process leaves the old file or the new one."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


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
    """Write indented JSON whole or not at all."""
    write_text(path, json.dumps(values, indent=2) + "\n")
