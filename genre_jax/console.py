"""What all commands share: errors of one sentence, output on the console, flags and exit codes."""

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from logging import CRITICAL, getLogger
from typing import NoReturn, TypeVar

from absl import app, logging

T = TypeVar("T")
_SHOWN = 10  # legal names in an error message


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


def say(text: str) -> None:
    """Print one line on standard output and flush it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


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


def run(main: Callable[[list[str]], int | None], flags_parser: Callable | None = None) -> None:
    """Run a command and exit: code 0, 1 after a `UserError` (printed on standard error), or 130 after Ctrl-C."""
    # Otherwise Orbax reports every save, prints several tracebacks for an error that `Checkpoints` tells in a sentence, and JAX
    # reports every backend that is not installed.
    logging.set_verbosity(logging.FATAL)
    getLogger("asyncio").setLevel(CRITICAL)

    def guarded(argv: list[str]) -> int | None:
        try:
            return main(argv)
        except UserError as error:
            fail(error)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            sys.exit(130)  # the shells' exit code for Ctrl-C

    if flags_parser:
        app.run(guarded, flags_parser=flags_parser)
    app.run(guarded)


def fail(error: Exception) -> NoReturn:
    """Print an error on standard error and exit 1."""
    sys.stderr.write(f"error: {error}\n")
    sys.exit(1)
