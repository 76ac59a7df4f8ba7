"""Arguments that name audio (`tag`, `similar`, `segment`): files, folders, standard input, names that begin with a dash."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.logbook import clock
from genre_jax.prepare.audio import EXTENSIONS, KNOWN

STANDARD_INPUT = "-"


def parse_flags(argv: list[str]) -> list[str]:
    """Parse absl's flags. A file or folder whose name begins with a dash, such as an AudioSet id, is not a flag."""
    end = argv.index("--") if "--" in argv else len(argv)
    dashed = {f"./{argument}": argument for argument in argv[1:end] if _is_dashed_file(argument)}
    shielded = [f"./{argument}" if argument in dashed.values() else argument for argument in argv[:end]]
    return [dashed.get(argument, argument) for argument in app.parse_flags_with_usage(shielded + argv[end:])]


def _is_dashed_file(argument: str) -> bool:
    name = argument.lstrip("-").partition("=")[0]
    return argument.startswith("-") and bool(name) and name not in flags.FLAGS and os.path.exists(argument)


def audio_files(name: str) -> list[str]:
    """Returns the audio files below a folder in sorted order, or [name] if `name` is not a folder.

    Raises `UserError` if the folder holds no file with one of the extensions that `prepare` reads.
    """
    if name == STANDARD_INPUT or not os.path.isdir(name):
        return [name]
    from genre_jax.datasets.folder import walk

    found = [str(path) for path in walk(Path(name)) if path.suffix.lower() in EXTENSIONS]
    if not found:
        raise UserError(f"{name}: found no audio below this folder, expected {KNOWN}")
    return found


def listed(path: str) -> list[str]:
    """Returns the lines of a text file (-: of standard input) that are not blank: the names of files and folders.

    Relative names start from the present folder. Raises `UserError` if the file cannot be read, has no such line, or is binary.
    """
    try:
        content = sys.stdin.buffer.read() if path == STANDARD_INPUT else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--list={path} cannot be read: {error.strerror}") from error
    if b"\0" in content:
        raise UserError(f"--list={path} is not a list of paths, because it holds a NUL character: write one path per line")
    names = [os.fsdecode(line.removesuffix(b"\r")) for line in content.split(b"\n") if line.strip()]
    if not names:
        raise UserError(f"--list={path} names no file: it must have the path of one audio file or folder per line")
    return names


def all_audio_files(names: Sequence[str]) -> tuple[list[str], int]:
    """Returns the audio files of all names, and how many names failed. Each failure is a line on standard error."""
    files: list[str] = []
    failed = 0
    for name in names:
        try:
            files += audio_files(name)
        except UserError as error:
            console.complain(error)
            failed += 1
    return files, failed


def content(name: str) -> str | bytes:
    """Returns the name of a file, or for "-" the bytes of standard input."""
    return sys.stdin.buffer.read() if name == STANDARD_INPUT else name


class Progress:
    """How much is done, on standard error, after two seconds: a bar on a terminal, and elsewhere a line every ten seconds."""

    def __init__(self, files: int, command: str = "tag") -> None:
        self._files, self._done, self._command = files, 0, command
        self._pace = console.Pace()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def within(self, seconds: float, total: float | None) -> None:
        """Report the seconds of the present file that are done, of `total` (None: it is being decoded)."""
        if self._pace.quiet():
            return
        where = f"{clock(seconds)} decoded" if total is None else f"{clock(seconds)} of {clock(total)}"
        what = f"file {self._done + 1} of {self._files}, {where}" if self._files > 1 else where
        if not sys.stderr.isatty():
            if self._pace.due():
                console.note(f"{self._command}: {what}")
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=self._files, leave=False, dynamic_ncols=True, bar_format="{desc} |{bar}| {percentage:3.0f}%")
        self._bar.n = self._done + (seconds / total if total else 0.0)
        self._bar.set_description_str(what)

    def next(self) -> None:
        """Count a file as done."""
        self._done += 1

    def clear(self) -> None:
        """Remove the bar, so that something can be printed. The next report draws it again."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def check_folder(path: str) -> Path:
    """Returns the path of an .npz file to be written. Raises `UserError` if its folder does not exist or cannot be written."""
    target = Path(path if path.endswith(".npz") else f"{path}.npz")
    if not target.parent.is_dir():
        raise UserError(f"--embeddings={path}: the folder {target.parent} does not exist: create it, or choose another path")
    if target.is_dir() or not os.access(target.parent, os.W_OK):
        raise UserError(f"--embeddings={path} cannot be written: choose another path")
    return target
