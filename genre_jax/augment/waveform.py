"""Augmentation on the device, inside the compiled step; each example draws from a key of its own.

`augment` changes waveforms, `mixup` mixes examples and their labels, `mask` blanks parts of features, `copy` makes the
augmented copies of a protocol.
"""

import functools
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.special import betaincinv

from genre_jax import console
from genre_jax.augment import noise, vocoder
from genre_jax.console import UserError
from genre_jax.data import order

OCTAVES = 8  # below Nyquist in which the random equaliser draws a gain
ORDER = 8  # of the Butterworth filters that limit the band: 48 dB an octave
# In the order in which they are applied; what `augment.start` and `augment.refresh` may name.
NAMES = (
    "speed", "pitch", "stretch", "equalise", "band_limit", "gain", "noise", "polarity", "shift", "mixup", "mask",
)  # fmt: skip


def check(config: ConfigDict) -> None:
    """Raise `UserError` where `config.augment` holds a value out of range; needs no data."""
    for key in ("polarity", "shift", "speed", "stretch", "band_limit.probability", "noise.probability",
                "mask.frequency_width", "mask.time_width"):  # fmt: skip
        _within(config, key, 0, 1)
    for key in ("gain_cap", "gain_db", "equalise_db", "mask.frequency", "mask.time", "mixup.alpha"):
        _within(config, key, 0, None)
    _within(config, "pitch", 0, 24)
    _within(config, "noise.count", 1, None)
    if config.vocoder_fft < 4 or config.vocoder_fft % 4:
        raise UserError(f"config key 'augment.vocoder_fft' must be a multiple of 4, and was given {config.vocoder_fft}")
    for key, empty in (
        ("noise.gain", False),
        ("noise.snr_db", True),
        ("band_limit.low_pass", True),
        ("band_limit.high_pass", True),
    ):
        limits = _value(config, key)
        numbers = all(type(x) in (int, float) for x in limits)
        positive = key == "noise.snr_db" or (numbers and all(x > 0 for x in limits))
        if (limits or not empty) and not (numbers and len(limits) == 2 and limits[0] <= limits[1] and positive):
            kind = "two numbers" if key == "noise.snr_db" else "two positive numbers"
            raise UserError(
                f"config key 'augment.{key}' must hold {kind}, least and most{', or none' if empty else ''}, "
                f"and was given {list(limits)}"
            )
    if config.band_limit.probability and not (config.band_limit.low_pass or config.band_limit.high_pass):
        raise UserError(
            "config key 'augment.band_limit.probability' needs a range in low_pass or high_pass, and both are empty"
        )
    for name, number in _visits(config).items():
        if not number >= 1 or number % 1:
            raise UserError(
                f"config key 'augment.refresh' must hold whole numbers of at least 1, and was given {name}={number:g}"
            )
    durations(config)


def _value(config: ConfigDict, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _within(config: ConfigDict, key: str, low: float, high: float | None) -> None:
    value = _value(config, key)
    if not low <= value or (high is not None and value > high):
        legal = f"be at least {low}" if high is None else f"lie in [{low}, {high}]"
        raise UserError(f"config key 'augment.{key}' must {legal}, and was given {value}")


def _known(key: str, names: Any) -> None:
    for name in names:
        if name not in NAMES:
            raise console.unknown(f"augmentation in {key}", name, NAMES)


def _visits(config: ConfigDict) -> dict[str, float]:
    values = order.parse_pairs("augment.refresh", config.refresh)
    _known("augment.refresh", values)
    return values


def durations(config: ConfigDict) -> dict[str, str]:
    """Augmentation → how long it is off at first, of those that `config.augment.start` names. Raises `UserError`."""
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


# ---------------------------------------------------------------- keys


def example_keys(base: jax.Array, visit: jax.Array, clip: jax.Array, variant: jax.Array) -> jax.Array:
    """One key an example from (run, visit, clip, variant) `(batch,)`: no device, step or place in the batch enters."""

    def key(visit, clip, variant):
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(base, visit), clip), variant)

    return jax.vmap(key)(visit, clip, variant)


def own_keys(keys: jax.Array, name: str) -> jax.Array:
    """The keys `(batch,)` that one augmentation draws from."""
    return jax.vmap(lambda key: jax.random.fold_in(key, zlib.crc32(name.encode())))(keys)


def keys_by_name(base: jax.Array, batch: Mapping[str, jax.Array], config: ConfigDict, refresh: int) -> dict[str, jax.Array]:
    """Augmentation → keys `(batch,)`, redrawn every so many visits as `config.augment.refresh` says, else every `refresh`."""
    visits = {name: int(_visits(config).get(name, refresh)) for name in NAMES}
    drawn = {
        number: example_keys(base, batch["visit"] // number, batch["clip"], batch["variant"]) for number in set(visits.values())
    }
    return {name: drawn[number] for name, number in visits.items()}


# ---------------------------------------------------------------- waveforms


def cap_gain(y: jax.Array, maximum: jax.Array, cap: float) -> jax.Array:
    """Scale clips whose largest sample (of the whole clip, signed, as document 000's code has it) exceeds `cap` down to it.

    `y` (batch, samples), `maximum` (batch,).
    """
    gain = jnp.where(maximum > cap, cap / jnp.maximum(maximum, cap), 1.0)
    return y * gain.astype(y.dtype)[:, None]


def augment(
    y: jax.Array,
    keys: jax.Array | Mapping[str, jax.Array],
    config: ConfigDict,
    *,
    sample_rate: int = 16_000,
    bank: noise.Bank | None = None,
    on: Mapping[str, jax.Array] | None = None,
) -> jax.Array:
    """Apply the random augmentations that `config` (the config's `augment`) switches on to waveforms `(batch, samples)`.

    Args:
      keys: (batch,), or for each augmentation its own (`keys_by_name`).
      sample_rate: in Hz.
      bank: what `noise.bank_of` gives, where there is noise.
      on: whether an augmentation is on at this step, of those that are not always.
    """
    on = on or {}

    def own(name: str) -> jax.Array:
        return own_keys(keys[name] if isinstance(keys, Mapping) else keys, name)

    def each(function: Callable, *arguments: Any) -> Callable:
        return lambda keys, y: jax.vmap(lambda key, row: function(key, row, *arguments))(keys, y)

    def vocode(pitch, y):
        shifts, stretches = on.get("pitch", True), on.get("stretch", True)
        rows = jax.vmap(lambda pitch, tempo, row: _vocode(pitch, tempo, row, config, shifts, stretches))
        return rows(pitch, own("stretch"), y)

    asked: dict[str, tuple[Any, Callable]] = {
        "speed": (config.speed, each(_speed, config.speed)),
        "pitch": (config.pitch or config.stretch, vocode),  # both at once
        "equalise": (config.equalise_db, each(_equalise, config.equalise_db)),
        "band_limit": (config.band_limit.probability, each(_limit_band, config.band_limit, sample_rate)),
        "gain": (config.gain_db, each(_gain, config.gain_db)),
        "noise": (config.noise.data_set, lambda keys, y: noise.add(keys, y, bank or {}, config.noise)),
        "polarity": (config.polarity, each(_flip, config.polarity)),
        "shift": (config.shift, each(_shift, config.shift)),
    }
    for name, (amount, function) in asked.items():
        if amount:
            vocoded = [part for part in ("pitch", "stretch") if name == "pitch" and config[part]]
            y = switch(vocoded or [name], on, functools.partial(function, own(name)), y)
    return y


def switch(names: Sequence[str], on: Mapping[str, jax.Array], function: Callable, x: Any) -> Any:
    """`function(x)` where any of `names` is on, else `x`, which then costs nothing."""
    if any(name not in on for name in names):
        return function(x)
    return jax.lax.cond(functools.reduce(jnp.logical_or, [on[name] for name in names]), function, lambda x: x, x)


def _speed(key: jax.Array, y: jax.Array, most: float) -> jax.Array:
    """Play `y` (samples,) faster or slower, pitch and tempo together, by a factor between 1 / (1 + most) and 1 + most.

    Uniform in log; the cut is read on from its start where it is too short. (Ko et al., "Audio augmentation for speech
    recognition", Interspeech 2015.)
    """
    return vocoder.resample(y, _factor(key, y, most), y.shape[0], most=1 + most, wrap=True)


def _factor(key: jax.Array, y: jax.Array, most: float) -> jax.Array:
    return jnp.exp(jax.random.uniform(key, (), y.dtype, -1, 1) * jnp.log1p(most))


def _vocode(pitch: jax.Array, tempo: jax.Array, y: jax.Array, config: ConfigDict, shifts: Any, stretches: Any) -> jax.Array:
    """Random pitch and tempo of `y` (samples,), by two keys; the cut is read on from its start where it is too short."""
    semitones = jnp.where(shifts, jax.random.uniform(pitch, (), y.dtype, -1, 1) * config.pitch, 0)
    rate = jnp.where(stretches, _factor(tempo, y, config.stretch), 1)
    out, filled = vocoder.stretch_and_shift(y, rate, semitones, n_fft=config.vocoder_fft, most=config.pitch)
    return out[jnp.arange(len(out)) % filled]


def copy(y: jax.Array, keys: jax.Array, variant: jax.Array, copies: ConfigDict, n_fft: int) -> jax.Array:
    """Waveforms `(batch, samples)`, those whose `variant` says so as the augmented copies of a protocol (`config.data.copies`).

    The version is variant % (1 + versions), 0 the recording itself; a copy is stretched, then shifted, then cut off or padded
    with zeros. `keys` (batch,) choose the version where one is drawn; they must not depend on the visit.
    """
    pairs = list(itertools.product(copies.stretches or [1.0], copies.semitones or [0.0]))
    rates, semitones = jnp.asarray(pairs, y.dtype).T
    most = float(max(abs(shift) for _, shift in pairs))
    version = variant % (1 + order.versions(copies))

    def one(key, row, version):
        drawn = jax.random.randint(key, (), 0, len(pairs)) if copies.draw == "one" else jnp.maximum(version - 1, 0)
        out, _ = vocoder.stretch_and_shift(row, rates[drawn], semitones[drawn], n_fft=n_fft, most=most)
        return jnp.where(version > 0, out, row)

    return jax.vmap(one)(own_keys(keys, "copies"), y, version)


def _equalise(key: jax.Array, y: jax.Array, most: float) -> jax.Array:
    """Filter `y` (samples,) with a random curve: a gain within ± `most` dB an octave, straight lines in log frequency."""
    spectrum = jnp.fft.rfft(y)
    octave = np.log2(np.maximum(np.arange(len(spectrum)) / len(spectrum), 2.0 ** -(OCTAVES - 1)))  # 0 at Nyquist
    decibels = jax.random.uniform(key, (OCTAVES,), y.dtype, -most, most)
    gain = 10 ** (jnp.interp(octave.astype(y.dtype), np.arange(1 - OCTAVES, 1).astype(y.dtype), decibels) / 20)
    return jnp.fft.irfft(spectrum * gain, n=y.shape[0])


def _limit_band(key: jax.Array, y: jax.Array, config: ConfigDict, sample_rate: int) -> jax.Array:
    """`y` (samples,), perhaps through a low-pass or high-pass: Butterworth's magnitude without its phase, -3 dB at cut-off."""
    whether, which, where = jax.random.split(key, 3)
    limits = [limits for limits in (config.low_pass, config.high_pass) if limits]
    chosen = jax.random.randint(which, (), 0, len(limits))
    low, high = jnp.log(jnp.asarray(limits, y.dtype))[chosen]
    cutoff = jnp.exp(low + (high - low) * jax.random.uniform(where, (), y.dtype))
    passes_low = (chosen == 0) if config.low_pass else False
    frequency = np.fft.rfftfreq(y.shape[0], 1 / sample_rate).astype(y.dtype)
    ratio = jnp.where(passes_low, frequency / cutoff, cutoff / np.maximum(frequency, 1e-3))
    gain = (1 + ratio ** (2 * ORDER)) ** -0.5
    filtered = jnp.fft.irfft(jnp.fft.rfft(y) * gain, n=y.shape[0])
    return jnp.where(jax.random.bernoulli(whether, config.probability), filtered, y)


def _gain(key: jax.Array, y: jax.Array, most: float) -> jax.Array:
    return y * 10 ** (jax.random.uniform(key, (), y.dtype, -1, 1) * most / 20)


def _flip(key: jax.Array, y: jax.Array, probability: float) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, probability), -y, y)


def _shift(key: jax.Array, y: jax.Array, probability: float) -> jax.Array:
    whether, amount = jax.random.split(key)
    by = jax.random.randint(amount, (), 0, y.shape[0])
    return jnp.roll(y, jnp.where(jax.random.bernoulli(whether, probability), by, 0))


# ---------------------------------------------------------------- examples and features


def mixup(
    keys: jax.Array, mine: tuple[jax.Array, jax.Array], *, other: tuple[jax.Array, jax.Array], valid: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Mix examples and their labels: share · mine + (1 - share) · other (Zhang et al., ICLR 2018).

    Args:
      keys: (batch,).
      mine, other: (x (batch, …), labels (batch, classes)), floats.
      valid: (batch,), 0 where there is no other; then an example stays itself.
      alpha: of Beta(alpha, alpha), of which the larger part is drawn as `share`: every example stays its own main part.
    """
    place = np.linspace(0, 1, 4097)
    quantiles = betaincinv(alpha, alpha, 0.5 + place / 2)  # of the larger part; `jax.random.beta` takes seconds to compile
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (), mine[0].dtype))(own_keys(keys, "mixup"))
    share = jnp.interp(uniform, place.astype(uniform.dtype), quantiles.astype(uniform.dtype))
    share = jnp.where(valid > 0, share, 1)

    def mix(a, b):
        weight = share.reshape(-1, *[1] * (a.ndim - 1)).astype(a.dtype)
        return weight * a + (1 - weight) * b

    return mix(mine[0], other[0]), mix(mine[1], other[1])


def mask(x: jax.Array, keys: jax.Array, config: ConfigDict) -> jax.Array:
    """Features `(batch, frames, bins)`, or images `(batch, bins, frames, 1)`, with bands and spans at each clip's minimum.

    Their widths are uniform from nothing to the shares of `config` (augment.mask), rounded down; their places are uniform.
    (SpecAugment: Park et al., Interspeech 2019, which counts widths in bins and frames and masks by the mean.)
    """
    frames, bins = (0, 1) if x.ndim == 3 else (1, 0)

    def inside(key, size, count, most):
        wide, where = jax.random.uniform(key, (2, count, 1))
        width = jnp.floor(wide * (1 + int(most * size)))
        first = jnp.floor(where * (1 + size - width))
        place = jnp.arange(size)
        return ((place >= first) & (place < first + width)).any(0)

    def one(key, row):
        hidden = jnp.zeros(row.shape, bool)
        for axis, count, most, number in (
            (bins, config.frequency, config.frequency_width, 0),
            (frames, config.time, config.time_width, 1),
        ):
            if count:
                part = inside(jax.random.fold_in(key, number), row.shape[axis], count, most)
                hidden |= jnp.expand_dims(part, [other for other in range(row.ndim) if other != axis])
        return jnp.where(hidden, row.min(), row)

    return jax.vmap(one)(own_keys(keys, "mask"), x)
