"""Augmentation of waveforms on the device. `AUGMENTATIONS` lists all of them in the order in which they are applied."""

import functools
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from genre_jax.augment import noise, vocoder
from genre_jax.data import order

OCTAVES = 8  # below Nyquist in which the random equaliser draws a gain
ORDER = 8  # of the Butterworth filters that limit the band: 48 dB per octave

# ---------------------------------------------------------------- keys


def example_keys(base: jax.Array, visit: jax.Array, clip: jax.Array, variant: jax.Array) -> jax.Array:
    """One key per example from (run, visit, clip, variant) `(batch,)`; no device, step or place in the batch enters."""

    def key(visit, clip, variant):
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(base, visit), clip), variant)

    return jax.vmap(key)(visit, clip, variant)


def own_keys(keys: jax.Array, name: str) -> jax.Array:
    """The keys `(batch,)` that the augmentation called `name` draws from."""
    return jax.vmap(lambda key: jax.random.fold_in(key, zlib.crc32(name.encode())))(keys)


def keys_by_name(base: jax.Array, batch: Mapping[str, jax.Array], visits: Mapping[str, int]) -> dict[str, jax.Array]:
    """Augmentation → keys `(batch,)`, redrawn every so many visits of the clip as `visits` states by name."""
    drawn = {
        number: example_keys(base, batch["visit"] // number, batch["clip"], batch["variant"]) for number in set(visits.values())
    }
    return {name: drawn[number] for name, number in visits.items()}


# ---------------------------------------------------------------- applying them


class Context(NamedTuple):
    """What an augmentation may read.

    Attributes:
      keys: (batch,), or augmentation → (batch,).
      on: augmentation → whether it is on at this step, for those that start later than the run.
      config: the config's `augment`.
      sample_rate: in Hz.
      bank: recordings of noise (`noise.bank_of`), None without.
    """

    keys: jax.Array | Mapping[str, jax.Array]
    on: Mapping[str, jax.Array]
    config: ConfigDict
    sample_rate: int
    bank: noise.Bank | None

    def own(self, name: str) -> jax.Array:
        """The keys `(batch,)` of the augmentation called `name`."""
        return own_keys(self.keys[name] if isinstance(self.keys, Mapping) else self.keys, name)


class Augmentation(NamedTuple):
    """A random change of waveforms.

    Attributes:
      name: in `augment.start` and `augment.refresh`; its keys follow from it.
      amount: the value of the config's `augment` that switches it on; 0, "" and [] switch it off.
      apply: (keys (batch,), y (batch, samples), context) → y. Neighbours in the table that share this function are applied
        in one pass, which draws from `context.own(name)` for each of them.
    """

    name: str
    amount: Callable[[ConfigDict], Any]
    apply: Callable[[jax.Array, jax.Array, Context], jax.Array]


def augment(
    y: jax.Array,
    keys: jax.Array | Mapping[str, jax.Array],
    config: ConfigDict,
    *,
    sample_rate: int = 16_000,
    bank: noise.Bank | None = None,
    on: Mapping[str, jax.Array] | None = None,
) -> jax.Array:
    """Apply the augmentations that `config` (the config's `augment`) switches on to waveforms `(batch, samples)`.

    The other arguments are those of `Context`.
    """
    context = Context(keys, on or {}, config, sample_rate, bank)
    active = [augmentation for augmentation in AUGMENTATIONS if augmentation.amount(config)]
    for apply, group in itertools.groupby(active, key=lambda augmentation: augmentation.apply):
        names = [augmentation.name for augmentation in group]
        y = switch(names, context.on, functools.partial(apply, context.own(names[0]), context=context), y)
    return y


def switch(names: Sequence[str], on: Mapping[str, jax.Array], function: Callable, x: Any) -> Any:
    """`function(x)` if any of the augmentations `names` is on, otherwise `x`, without computing the function."""
    if any(name not in on for name in names):
        return function(x)
    return jax.lax.cond(functools.reduce(jnp.logical_or, [on[name] for name in names]), function, lambda x: x, x)


def cap_gain(y: jax.Array, maximum: jax.Array, cap: float) -> jax.Array:
    """Scale down to `cap` the clips whose largest sample exceeds it; `y` (batch, samples), `maximum` (batch,).

    `maximum` is the largest signed sample of the whole clip, as in the code of document 000.
    """
    gain = jnp.where(maximum > cap, cap / jnp.maximum(maximum, cap), 1.0)
    return y * gain.astype(y.dtype)[:, None]


# ---------------------------------------------------------------- the augmentations


def per_example(function: Callable[[jax.Array, jax.Array, Context], jax.Array]) -> Callable:
    """Turn a function of one key and one waveform (samples,) into the `apply` of an `Augmentation`."""

    def apply(keys: jax.Array, y: jax.Array, context: Context) -> jax.Array:
        return jax.vmap(lambda key, row: function(key, row, context))(keys, y)

    return apply


@per_example
def _speed(key: jax.Array, y: jax.Array, context: Context) -> jax.Array:
    """Play `y` faster or slower, pitch and tempo together, by a factor between 1 / (1 + most) and 1 + most, uniform in log.

    If the cut becomes too short, it is continued from its start. (Ko et al., "Audio augmentation for speech recognition",
    Interspeech 2015.)
    """
    most = context.config.speed
    return vocoder.resample(y, _factor(key, y, most), y.shape[0], most=1 + most, wrap=True)


def _factor(key: jax.Array, y: jax.Array, most: float) -> jax.Array:
    return jnp.exp(jax.random.uniform(key, (), y.dtype, -1, 1) * jnp.log1p(most))


def _vocode(keys: jax.Array, y: jax.Array, context: Context) -> jax.Array:
    """Change pitch and tempo at random, in one pass; if the cut becomes too short, it is continued from its start."""
    del keys  # each of the two augmentations has its own
    config, shifts, stretches = context.config, context.on.get("pitch", True), context.on.get("stretch", True)

    def one(pitch, tempo, row):
        semitones = jnp.where(shifts, jax.random.uniform(pitch, (), row.dtype, -1, 1) * config.pitch, 0)
        rate = jnp.where(stretches, _factor(tempo, row, config.stretch), 1)
        out, filled = vocoder.stretch_and_shift(row, rate, semitones, n_fft=config.vocoder_fft, most=config.pitch)
        return out[jnp.arange(len(out)) % filled]

    return jax.vmap(one)(context.own("pitch"), context.own("stretch"), y)


@per_example
def _equalise(key: jax.Array, y: jax.Array, context: Context) -> jax.Array:
    """Filter `y` with a random curve: one gain in dB per octave, linear in log frequency between the octaves."""
    most, spectrum = context.config.equalise_db, jnp.fft.rfft(y)
    octave = np.log2(np.maximum(np.arange(len(spectrum)) / len(spectrum), 2.0 ** -(OCTAVES - 1)))  # 0 at Nyquist
    decibels = jax.random.uniform(key, (OCTAVES,), y.dtype, -most, most)
    gain = 10 ** (jnp.interp(octave.astype(y.dtype), np.arange(1 - OCTAVES, 1).astype(y.dtype), decibels) / 20)
    return jnp.fft.irfft(spectrum * gain, n=y.shape[0])


@per_example
def _limit_band(key: jax.Array, y: jax.Array, context: Context) -> jax.Array:
    """Filter some of the waveforms by a low-pass or a high-pass: the magnitude of a Butterworth filter, without its phase."""
    config = context.config.band_limit
    whether, which, where = jax.random.split(key, 3)
    limits = [limits for limits in (config.low_pass, config.high_pass) if limits]
    chosen = jax.random.randint(which, (), 0, len(limits))
    low, high = jnp.log(jnp.asarray(limits, y.dtype))[chosen]
    cutoff = jnp.exp(low + (high - low) * jax.random.uniform(where, (), y.dtype))
    passes_low = (chosen == 0) if config.low_pass else False
    frequency = np.fft.rfftfreq(y.shape[0], 1 / context.sample_rate).astype(y.dtype)
    ratio = jnp.where(passes_low, frequency / cutoff, cutoff / np.maximum(frequency, 1e-3))
    gain = (1 + ratio ** (2 * ORDER)) ** -0.5
    filtered = jnp.fft.irfft(jnp.fft.rfft(y) * gain, n=y.shape[0])
    return jnp.where(jax.random.bernoulli(whether, config.probability), filtered, y)


@per_example
def _gain(key: jax.Array, y: jax.Array, context: Context) -> jax.Array:
    return y * 10 ** (jax.random.uniform(key, (), y.dtype, -1, 1) * context.config.gain_db / 20)


def _noise(keys: jax.Array, y: jax.Array, context: Context) -> jax.Array:
    return noise.add(keys, y, context.bank or {}, context.config.noise)


@per_example
def _polarity(key: jax.Array, y: jax.Array, context: Context) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, context.config.polarity), -y, y)


@per_example
def _shift(key: jax.Array, y: jax.Array, context: Context) -> jax.Array:
    whether, amount = jax.random.split(key)
    by = jax.random.randint(amount, (), 0, y.shape[0])
    return jnp.roll(y, jnp.where(jax.random.bernoulli(whether, context.config.shift), by, 0))


AUGMENTATIONS: tuple[Augmentation, ...] = (
    Augmentation("speed", lambda config: config.speed, _speed),
    Augmentation("pitch", lambda config: config.pitch, _vocode),
    Augmentation("stretch", lambda config: config.stretch, _vocode),
    Augmentation("equalise", lambda config: config.equalise_db, _equalise),
    Augmentation("band_limit", lambda config: config.band_limit.probability, _limit_band),
    Augmentation("gain", lambda config: config.gain_db, _gain),
    Augmentation("noise", lambda config: config.noise.data_set, _noise),
    Augmentation("polarity", lambda config: config.polarity, _polarity),
    Augmentation("shift", lambda config: config.shift, _shift),
)


def copy(y: jax.Array, keys: jax.Array, variant: jax.Array, copies: ConfigDict, n_fft: int) -> jax.Array:
    """Turn the waveforms `(batch, samples)` whose `variant` says so into augmented copies (`config.data.copies`).

    The version of a copy is variant % (1 + versions); version 0 is the recording itself. A copy is stretched, then shifted,
    then cut off or padded with zeros. `keys` (batch,) choose the version if a copy draws its own; they must not depend on the
    visit.
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
