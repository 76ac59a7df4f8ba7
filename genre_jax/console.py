"""What all commands share: errors of one sentence, output on the console, flags and exit codes."""

import contextlib
import difflib
import errno
import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from logging import CRITICAL, getLogger
from typing import NoReturn, TextIO, TypeVar

from absl import app, logging

from genre_jax import cache

T = TypeVar("T")
QUIET, EVERY = 2.0, 10.0  # seconds before the first line of progress, and between two lines
_SHOWN = 10  # legal names in an error message
# Control characters (C0, DEL, C1), marks that reorder or break a line, and surrogates (bytes of a name that is not UTF-8).
_HIDDEN = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_AGAIN = "run the same command again"
# errno → what is wrong, and what the user can do. {} is the path.
_CURES = {
    errno.ENOSPC: f"the disk of {{}} is full: free some space and {_AGAIN}",
    errno.EDQUOT: f"the disk quota is used up at {{}}: free some space and {_AGAIN}",
    errno.EFBIG: f"{{}} became larger than the file system or `ulimit -f` allows: raise the limit and {_AGAIN}",
    errno.EROFS: "{} is on a read-only file system: choose a folder that can be written",
    errno.EACCES: "there is no permission for {}: change the permissions, or choose another path",
    errno.EPERM: "the system does not permit this operation on {}: change the permissions, or choose another path",
    errno.ENOENT: "{} does not exist: check the path",
    errno.ENOTDIR: "a part of the path {} is a file, and not a folder: choose another path",
    errno.EISDIR: "{} is a folder, and a file is needed: choose another path",
    errno.ENAMETOOLONG: "the name of {} is too long for the file system: choose a shorter one",
    errno.EEXIST: "{} already exists: remove it, or choose another path",
    errno.EMFILE: f"too many files are open to open {{}}: raise the limit with `ulimit -n` and {_AGAIN}",
    errno.EIO: f"{{}} cannot be read or written (input/output error): check the disk and {_AGAIN}",
    errno.ESTALE: f"{{}} is no longer valid on the network file system (stale file handle): mount it again and {_AGAIN}",
}


class UserError(Exception):
    """An error that the user can correct. Its text is one sentence with the wrong value and what is legal."""


def unknown(kind: str, value: object, legal: Iterable[str]) -> UserError:
    """Returns the error for a name that is not in `legal`. It points out the nearest legal name and lists at most ten names."""
    names = sorted(legal)
    near = _nearest(str(value), names)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    shown = sorted([*near, *(name for name in names if name not in near)][:_SHOWN])
    rest = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    choice = f"choose one of {', '.join(shown)}{rest}" if names else "none is defined"
    return UserError(f"unknown {kind} {value!r}{hint}: {choice}")


def _nearest(value: str, names: list[str]) -> list[str]:
    """Returns the legal names most like `value`. A section that all share, such as "model.", makes no two keys alike."""
    section = value[: value.rfind(".") + 1]
    if not all(name.startswith(section) for name in names):
        section = ""
    leaves = [name.removeprefix(section) for name in names]
    return [section + leaf for leaf in difflib.get_close_matches(value.removeprefix(section), leaves, n=_SHOWN)]


def pick(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Returns the entry `name` of `table`. `kind` is what the entries are. Raises `UserError` for an unknown name."""
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]


def printable(text: str, keep: str = "") -> str:
    """Returns the text with every control character as an escape such as "\\x1b", except for the characters in `keep`.

    A file name may contain a newline, a command of the terminal, or bytes that are not UTF-8. Newlines are escaped as well:
    a caller that puts names into a text of several lines calls this function for each line.
    """
    return _HIDDEN.sub(lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), text)


_muted = False


def mute(on: bool) -> None:
    """Let `say` print nothing from now on, or print again. Of several processes that train together only the first prints."""
    global _muted
    _muted = on


def say(text: str, keep: str = "\n") -> None:
    """Print a text on standard output and flush it. Control characters, except for those in `keep`, are shown as escapes."""
    if not _muted:
        _write(sys.stdout, printable(text, keep=keep) + "\n")


def complain(error: object) -> None:
    """Print an error as one line on standard error. Control characters and newlines are shown as escapes."""
    _write(sys.stderr, f"error: {printable(str(error))}\n")


def note(text: str) -> None:
    """Print one line on standard error that is not an error, such as progress. Control characters are shown as escapes."""
    _write(sys.stderr, f"{printable(text)}\n")


class Pace:
    """When progress is shown: not in the first `QUIET` seconds, and then as a line every `EVERY` seconds."""

    def __init__(self) -> None:
        self._first = self._next = time.monotonic() + QUIET

    def quiet(self) -> bool:
        """Whether it is too early to show anything."""
        return time.monotonic() < self._first

    def due(self) -> bool:
        """Whether a line is due. If so, the next one is due `EVERY` seconds later."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + EVERY
        return True


@contextlib.contextmanager
def silent_libraries() -> Iterator[None]:
    """Discard what C libraries print on standard error while the block runs, because they do not say of which file.

    What Python prints there is kept.
    """
    python = sys.stderr
    python.flush()
    with open(os.dup(2), "w", encoding=python.encoding, errors=python.errors) as kept, open(os.devnull, "wb") as nowhere:
        if python is sys.__stderr__:  # a test may have replaced it
            sys.stderr = kept
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept.fileno(), 2)
            sys.stderr = python


def _write(stream: TextIO, text: str) -> None:
    """Write a text, with escapes for the characters that the encoding of the stream lacks."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def parse_flags(argv: list[str]) -> list[str]:
    """Parse absl's flags. Returns the other arguments, with `--config.KEY=VALUE` at the end: absl does not know config keys."""
    flags = [argument for argument in argv if not argument.lstrip("-").startswith("config.")]
    rest = app.parse_flags_with_usage(flags)
    return rest + [argument for argument in argv if argument not in flags]


def overrides(arguments: list[str]) -> dict[str, str]:
    """Returns {"train.batch_size": "8"} for ["--config.train.batch_size=8"]. Raises `UserError` for any other argument."""
    values = {}
    for argument in arguments:
        key, equals, value = argument.lstrip("-").removeprefix("config.").partition("=")
        if not equals or not argument.startswith("--config."):
            raise UserError(f"unknown argument {argument!r}: config keys are set as --config.KEY=VALUE")
        values[key] = value
    return values


class Terminated(BaseException):
    """The process was asked to end by SIGTERM. Like KeyboardInterrupt, it passes through `except Exception`."""


def run(main: Callable[[list[str]], int | None], flags_parser: Callable | None = None, keep_programs: bool = True) -> None:
    """Run a command and exit. Compiled programs are kept in the cache, unless `keep_programs` is false.

    The exit code is the result of `main` (None: 0), 1 after an error that the user can correct, which is printed as one
    sentence, 130 after Ctrl-C, 143 after SIGTERM, and 141 if the reader of the output has gone. Any other exception keeps
    its traceback.
    """
    if keep_programs:
        cache.keep_programs()
    # Otherwise Orbax reports every save, prints several tracebacks for an error that `Checkpoints` tells in a sentence, and JAX
    # reports every backend that is not installed.
    logging.set_verbosity(logging.FATAL)
    getLogger("asyncio").setLevel(CRITICAL)

    def guarded(argv: list[str]) -> int | None:
        try:
            with _terminable():
                return main(argv)
        except UserError as error:
            fail(error)
        except KeyboardInterrupt:
            _end("interrupted", signal.SIGINT)
        except Terminated:
            _end("terminated", signal.SIGTERM)
        except BrokenPipeError:
            _discard_output()
            sys.exit(128 + signal.SIGPIPE)
        except OSError as error:
            if (sentence := cure(error)) is None:
                raise
            if error.filename is None:
                _discard_output()
            fail(UserError(sentence))

    if flags_parser:
        app.run(guarded, flags_parser=flags_parser)
    app.run(guarded)


def cure(error: OSError) -> str | None:
    """Returns a sentence with the path, the fault and what to do, or None if the user cannot correct the error."""
    if error.errno not in _CURES:
        return None
    path = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return _CURES[error.errno].format("the output" if path is None else path)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Raise `Terminated` at SIGTERM while the block runs. More of these signals do not disturb the cleanup."""

    def terminate(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(word: str, number: signal.Signals) -> NoReturn:
    """Print one word on standard error, and exit with the code that shells use for a signal."""
    _write(sys.stderr, f"{word}\n")
    sys.exit(128 + number)


def _discard_output() -> None:
    """Send the rest of standard output nowhere. Otherwise Python tries to write it at exit, and fails once more."""
    with contextlib.suppress(io.UnsupportedOperation), open(os.devnull, "wb") as nowhere:  # a test may have replaced it
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def fail(error: Exception) -> NoReturn:
    """Print an error as one line on standard error and exit 1."""
    complain(error)
    sys.exit(1)
