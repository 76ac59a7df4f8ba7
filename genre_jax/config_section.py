"""The type of a config: a locked dictionary whose errors name the key in full, the value, and what is legal."""

from typing import Any

from ml_collections import ConfigDict

from genre_jax import console
from genre_jax.console import UserError

KINDS = ("frontend", "model", "optimizer", "schedule")


class Section(ConfigDict):
    """A whole config, or a section of a config. Setting a key checks its name and the type of its value."""

    def __init__(self, values: dict[str, Any] | None = None):
        object.__setattr__(self, "_place", (None, ""))  # (the section that holds this section, its key there)
        super().__init__()
        for key, value in (values or {}).items():
            self[key] = value

    @property
    def prefix(self) -> str:
        """What stands before the keys of this section, such as "data.copies."; "" for the whole config."""
        parent, key = self._place
        return "" if parent is None else f"{parent.prefix}{key}."

    def __setitem__(self, key: str, value: Any) -> None:
        if self.is_locked:
            value = self._checked(key, value)
        elif isinstance(value, dict):
            value = Section(value)
        if isinstance(value, Section):
            object.__setattr__(value, "_place", (self, key))
        super().__setitem__(key, value)

    def unknown(self, key: str) -> UserError:
        """The error for a key that this section does not have."""
        return console.unknown("config key", self.prefix + key, [self.prefix + name for name in {*self, *flat(self)}])

    def _checked(self, key: str, value: Any) -> Any:
        """Returns `value` as the type of the key. Raises `UserError`."""
        if key not in self:
            raise self.unknown(key)
        name, old = self.prefix + key, self[key]
        if isinstance(old, ConfigDict):
            first = f"{name}.{'name' if 'name' in old else min(old)}"
            raise UserError(f"config key {name!r} is a section, and was given {value!r}: set its keys, such as {first!r}")
        if value != old and name in [f"{kind}.name" for kind in KINDS]:
            call = f"choose(config, {name.removesuffix('.name')!r}, {value!r})"
            raise UserError(f"config key {name!r} cannot be set alone: {call} sets it with the options of the component")
        return _typed(name, old, value)


def _typed(name: str, old: Any, value: Any) -> Any:
    """Returns `value` as the type of `old`: an int as a float, a whole float as an int, a tuple as a list."""
    kind = type(old)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        value = float(value)
    if kind is list and isinstance(value, tuple):
        value = list(value)
    if type(value) is not kind:
        raise UserError(f"config key {name!r} must be {kind.__name__}, as in {old!r}, and was given {value!r}")
    return value


def flat(config: ConfigDict | dict[str, Any]) -> dict[str, Any]:
    """Returns {dotted key: value} of a config, or of its JSON object."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            out |= {f"{key}.{inner}": v for inner, v in flat(value).items()}
        else:
            out[key] = value
    return out


def component_options(component: ConfigDict) -> dict[str, Any]:
    """Returns the options of a component's section, such as `config.model`, without its name; lists become tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in component.to_dict().items() if k != "name"}
