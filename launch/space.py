"""The search space of a sweep: `--space=KEY=KIND:…`, one for each config key that varies."""

import dataclasses
import math
from typing import Any

from genre_jax.console import UserError

FORMS = "KEY=log:LOW:HIGH, KEY=float:LOW:HIGH[:STEP], KEY=int:LOW:HIGH[:STEP] or KEY=choice:A,B,C"


@dataclasses.dataclass(frozen=True)
class Dimension:
    """A config key that varies.

    Attributes:
      key: the config key, such as "schedule.learning_rate".
      kind: "log" (uniform in the logarithm), "float" and "int" (uniform), or "choice".
      low, high: bounds of a number, both included.
      step: distance of the values from `low` on; None: any number.
      values: the texts of a choice.
    """

    key: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    values: tuple[str, ...] = ()

    def suggest(self, trial: Any) -> str:
        """The value of an Optuna trial, as the text of an override."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.key, self.values)
        if self.kind == "int":
            return str(trial.suggest_int(self.key, int(self.low), int(self.high), step=int(self.step or 1)))
        return repr(trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.kind == "log"))

    def corners(self) -> tuple[str, ...]:
        """The texts whose validity implies that of the others: all of a choice, or both bounds."""
        if self.kind == "choice":
            return self.values
        return tuple(str(int(x)) if self.kind == "int" else repr(x) for x in (self.low, self.high))


def parse(text: str) -> Dimension:
    """Parse "schedule.learning_rate=log:1e-5:1e-2". Raises `UserError`."""
    key, _, rest = text.partition("=")
    kind, _, rest = rest.partition(":")
    fault = UserError(f"--space must be {FORMS}, and was given {text!r}")
    if not key or kind not in ("log", "float", "int", "choice"):
        raise fault
    if kind == "choice":
        values = tuple(rest.split(","))
        if len(set(values)) < len(values) or len(values) < 2:
            raise UserError(f"--space needs two or more different choices, and was given {text!r}")
        return Dimension(key, kind, values=values)
    try:
        numbers = [float(part) for part in rest.split(":")]
    except ValueError:
        raise fault from None
    if not 2 <= len(numbers) <= (2 if kind == "log" else 3) or not all(map(math.isfinite, numbers)):
        raise fault
    low, high, step = *numbers, *[None] * (3 - len(numbers))
    if kind == "int" and not all(number.is_integer() for number in numbers):
        raise UserError(f"--space of kind int needs whole numbers, and was given {text!r}")
    if not low < high or (kind == "log" and low <= 0) or (step is not None and step <= 0):
        raise UserError(f"--space needs LOW < HIGH, a positive STEP, and 0 < LOW for log, and was given {text!r}")
    return Dimension(key, kind, low, high, step)


def parse_all(texts: list[str], fixed: dict[str, str]) -> list[Dimension]:
    """Parse all dimensions. Raises `UserError` if a key occurs twice, or is also in `fixed`.

    The choice of a component, such as model.name, comes first, because it resets the options of the component.
    """
    dimensions = sorted(map(parse, texts), key=lambda dimension: not dimension.key.endswith(".name"))
    keys = [dimension.key for dimension in dimensions]
    if not keys:
        raise UserError(f"--space is missing: give one or more of {FORMS}")
    for key in keys:
        if keys.count(key) > 1 or key in fixed:
            raise UserError(f"config key {key!r} is given twice: give it by one --space or one --config.{key}")
    return dimensions


def overrides(dimensions: list[Dimension], values: dict[str, str], fixed: dict[str, str]) -> dict[str, str]:
    """The overrides of a trial in the order in which they apply: names of components, fixed keys, the other keys."""
    names = {d.key: values[d.key] for d in dimensions if d.key.endswith(".name")}
    return names | fixed | {d.key: values[d.key] for d in dimensions if d.key not in names}
