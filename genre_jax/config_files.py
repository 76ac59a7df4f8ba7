"""Run a config file, which is Python, and turn every error inside it into one sentence with its file and line."""

import importlib.util
import traceback
from pathlib import Path
from typing import Any

from genre_jax import console, shipped
from genre_jax.config_section import Section
from genre_jax.console import UserError


class ArgumentError(UserError):
    """An error in the argument, the text after the colon of `--config=FILE:argument`. No line of the file is at fault."""


def read(config: str, argument: str) -> Any:
    """Run a config file, which is a path or the name of a shipped config, and return the value of its `get_config(argument)`.

    Raises `UserError`.
    """
    path = _path(config)
    spec = importlib.util.spec_from_file_location("genre_jax_config", path)
    if spec is None or spec.loader is None:
        raise UserError(f"a config file is a Python file, and {path!r} does not end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if callable(get_config):
            return get_config(argument)
    except ArgumentError:
        raise
    except Exception as error:
        raise UserError(_sentence(path, spec.origin, error)) from error
    raise UserError(f"{path}: a config file must define get_config(argument), which returns the config")


def _path(config: str) -> str:
    """The path of the file that `config` means."""
    known = shipped.configs()
    if shipped.is_name(config):
        return str(console.pick("config", config, known))
    path = Path(config)
    if path.is_file():
        return config
    neighbours = [str(neighbour) for neighbour in path.parent.glob("*.py")]
    if path.stem in known and not neighbours:
        raise UserError(f"config file {config!r} does not exist: the shipped config of this name is --config={path.stem}")
    raise console.unknown("config file", config, neighbours or known)


def _sentence(path: str, origin: str | None, error: Exception) -> str:
    """File, line, type and text of an error; `origin` is the file's name in tracebacks."""
    cause = error
    if isinstance(error, AttributeError) and isinstance(error.obj, Section):  # a key that does not exist was read
        cause = error.obj.unknown(str(error.name))
    text = " ".join(str(cause).split())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == origin]
    if isinstance(error, SyntaxError) and error.filename == origin:
        text, lines = error.msg, [error.lineno]
    place = f"{path}, line {lines[-1]}" if lines and lines[-1] else path
    kind = "" if isinstance(cause, UserError) else type(error).__name__
    return ": ".join(filter(None, (place, kind, text)))
