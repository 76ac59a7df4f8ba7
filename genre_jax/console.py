"""What every command shares: errors that are one sentence, lines on the console, the way out."""

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn, TypeVar

from absl import app, logging

T = TypeVar("T")


class UserError(Exception):
    """Something the user can put right; its text is one sentence with the value and what is legal."""


def unknown(kind: str, value: object, legal: Iterable[str]) -> UserError:
    """The error for a name that is none of `legal`, with the nearest legal one pointed out."""
    names = sorted(legal)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UserError(f"unknown {kind} {value!r}{hint}: choose one of {', '.join(names)}")


def pick(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of `table` called `name`; `kind` is what the entries are. Raises `UserError` with the legal names."""
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]


def say(text: str) -> None:
    """One line on standard output, shown at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def parse_flags(argv: list[str]) -> list[str]:
    """absl's flags; `--config.KEY=VALUE` is kept apart for the config, which knows its own keys."""
    own = [argument for argument in argv if not argument.lstrip("-").startswith("config.")]
    rest = app.parse_flags_with_usage(own)
    return rest + [argument for argument in argv if argument not in own]


def overrides(arguments: list[str]) -> dict[str, str]:
    """{"train.batch_size": "8"} of ["--config.train.batch_size=8"]."""
    values = {}
    for argument in arguments:
        key, equals, value = argument.lstrip("-").removeprefix("config.").partition("=")
        if not equals or not argument.startswith("--config."):
            raise UserError(f"unknown argument {argument!r}: config keys are set as --config.KEY=VALUE")
        values[key] = value
    return values


def run(main: Callable[[list[str]], int | None], flags_parser: Callable | None = None) -> None:
    """Run a command: exit 0, or print a `UserError` on standard error and exit 1."""
    logging.set_verbosity(logging.ERROR)  # Orbax reports every save, JAX every backend that is not installed

    def guarded(argv: list[str]) -> int | None:
        try:
            return main(argv)
        except UserError as error:
            fail(error)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            sys.exit(130)  # as shells have it

    if flags_parser:
        app.run(guarded, flags_parser=flags_parser)
    app.run(guarded)


def fail(error: Exception) -> NoReturn:
    """Print an error on standard error and exit 1."""
    sys.stderr.write(f"error: {error}\n")
    sys.exit(1)
