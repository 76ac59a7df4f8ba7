"""Durations in a config: a number and a unit, such as "30 epochs", "2000 steps" or "1e6 examples"."""

import math
import re

from genre_jax.console import UserError

_UNITS = ("steps", "epochs", "examples")


def parse_duration(text: str, key: str = "duration") -> tuple[float, str]:
    """Returns the number and the unit of a duration such as "30 epochs". `key` names it in the `UserError`."""
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE]\+?[0-9]+)?)\s*([a-z]+)\s*", text)
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    unit = (match[2].rstrip("s") + "s") if match else ""
    if unit not in _UNITS or not number >= 0:
        raise UserError(f"{key} must be a number and one of {', '.join(_UNITS)}, as in '30 epochs', and was given {text!r}")
    return number, unit


def steps(text: str, batch_size: int, examples: int, key: str = "duration") -> int:
    """Returns a duration as a number of steps, rounded up and at least 1.

    Args:
      text: the duration, such as "30 epochs".
      batch_size: clips in a step.
      examples: clips in an epoch.
      key: what the `UserError` for a malformed duration calls it.
    """
    number, unit = parse_duration(text, key)
    per_unit = {"steps": 1.0, "examples": 1.0 / batch_size, "epochs": examples / batch_size}[unit]
    return max(1, math.ceil(number * per_unit - 1e-9))
