"""Checks of the config's `augment` section, and the schedule of augmentations that it states; reads no data."""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from genre_jax import console
from genre_jax.augment import features, waveform
from genre_jax.console import UserError
from genre_jax.data.order import parse_pairs


def names() -> tuple[str, ...]:
    """All augmentations, in the order in which they are applied: what `augment.start` and `augment.refresh` may name."""
    return (*(augmentation.name for augmentation in waveform.AUGMENTATIONS), *features.NAMES)


def check(config: ConfigDict) -> None:
    """Check all values of `config.augment`. Raises `UserError` for the first that is out of range."""
    for key in ("polarity", "shift", "speed", "stretch", "band_limit.probability", "noise.probability",
                "mask.frequency_width", "mask.time_width"):  # fmt: skip
        _within(config, key, 0, 1)
    for key in ("gain_cap", "gain_db", "equalise_db", "mask.frequency", "mask.time", "mixup.alpha"):
        _within(config, key, 0, None)
    _within(config, "pitch", 0, 24)
    _within(config, "noise.count", 1, None)
    if config.vocoder_fft < 4 or config.vocoder_fft % 4:
        raise UserError(f"config key 'augment.vocoder_fft' must be a multiple of 4, and was given {config.vocoder_fft}")
    _range(config, "noise.gain", may_be_empty=False)
    _range(config, "noise.snr_db", positive=False)
    _range(config, "band_limit.low_pass")
    _range(config, "band_limit.high_pass")
    if config.band_limit.probability and not (config.band_limit.low_pass or config.band_limit.high_pass):
        raise UserError(
            "config key 'augment.band_limit.probability' needs a range in low_pass or high_pass, and both are empty"
        )
    visits(config, 1)
    durations(config)


def visits(config: ConfigDict, refresh: int) -> dict[str, int]:
    """Augmentation → number of visits between redraws: as `config.augment.refresh` states, otherwise `refresh`."""
    changed = parse_pairs("augment.refresh", config.refresh)
    _known("augment.refresh", changed)
    for name, number in changed.items():
        if not number >= 1 or number % 1:
            raise UserError(
                f"config key 'augment.refresh' must hold whole numbers of at least 1, and was given {name}={number:g}"
            )
    return {name: int(changed.get(name, refresh)) for name in names()}


def durations(config: ConfigDict) -> dict[str, str]:
    """Augmentation → duration before it starts, for those that `config.augment.start` names. Raises `UserError`."""
    pairs = {}
    for pair in config.start:
        name, equals, duration = str(pair).partition("=")
        if not equals:
            raise UserError(
                f"config key 'augment.start' must hold name=duration, as in 'noise=10 epochs', and was given {pair!r}"
            )
        pairs[name] = duration
    _known("augment.start", pairs)
    return pairs


def _value(config: ConfigDict, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _within(config: ConfigDict, key: str, low: float, high: float | None) -> None:
    value = _value(config, key)
    if not low <= value or (high is not None and value > high):
        legal = f"be at least {low}" if high is None else f"lie in [{low}, {high}]"
        raise UserError(f"config key 'augment.{key}' must {legal}, and was given {value}")


def _range(config: ConfigDict, key: str, may_be_empty: bool = True, positive: bool = True) -> None:
    limits = _value(config, key)
    if not limits and may_be_empty:
        return
    numbers = len(limits) == 2 and all(type(limit) in (int, float) for limit in limits)
    if not (numbers and limits[0] <= limits[1] and (limits[0] > 0 or not positive)):
        kind = "two positive numbers" if positive else "two numbers"
        raise UserError(
            f"config key 'augment.{key}' must hold {kind}, least and most{', or none' if may_be_empty else ''}, "
            f"and was given {list(limits)}"
        )


def _known(key: str, given: Iterable[str]) -> None:
    for name in given:
        if name not in names():
            raise console.unknown(f"augmentation in {key}", name, names())
