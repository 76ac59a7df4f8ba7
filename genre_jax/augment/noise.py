"""Noise added to waveforms on the device, from a bank of recordings in its memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from genre_jax import console
from genre_jax.console import UserError, say
from genre_jax.data import locate, shards

Bank = dict[str, Any]


def bank_of(index: shards.Index, samples: int, label: str = "") -> Bank:
    """Concatenate the recordings of `index` that have the class `label` ("" for all).

    Returns {"audio": int16, with `samples` zeros at both ends; "start", "length": int32 (recordings,)}.
    """
    clips = np.flatnonzero(index.length > 0)
    if label:
        if label not in index.classes:
            raise console.unknown("augment.noise.label", label, index.classes)
        clips = clips[index.labels[clips, index.classes.index(label)] > 0]
    length = index.length[clips].astype(np.int64)
    start = samples + np.cumsum(length) - length
    if not 0 < length.sum() < 2**31 - 2 * samples:
        raise UserError(
            f"the noise bank {index.data_set!r} must hold 1 to 2^31 samples of noise in its split {index.split!r}, "
            f"and holds {length.sum()}"
        )
    audio = np.zeros(int(length.sum()) + 2 * samples, np.int16)
    for clip, at, size in zip(clips.tolist(), start.tolist(), length.tolist(), strict=True):
        index.cut(clip, 0, size, out=audio[at : at + size])
    return {"audio": audio, "start": start.astype(np.int32), "length": length.astype(np.int32)}


def load_bank(config: ConfigDict) -> Bank:
    """The noise bank that `config.augment.noise` names, {} if it names none. Raises `UserError` if the data set is missing."""
    noise = config.augment.noise
    if not noise.data_set:
        return {}
    named = config.copy_and_resolve_references()
    named.data.name = noise.data_set
    bank = bank_of(shards.load_index(locate.find(named), noise.split), config.data.samples, noise.label)
    seconds = bank["length"].sum() / config.data.sample_rate
    say(
        f"noise bank {noise.data_set!r}: {len(bank['length'])} recordings, {seconds / 60:.1f} minutes, "
        f"{bank['audio'].nbytes / 1e6:.0f} MB on each device"
    )
    return bank


def add(keys: jax.Array, y: jax.Array, bank: Bank, config: ConfigDict) -> jax.Array:
    """Add noise to some of the waveforms `(batch, samples)`, as `config` (the config's `augment.noise`) states.

    A recording that is longer than the waveform is cut at a random place; a shorter one is put at a random place (document
    000). `snr_db` compares mean powers over the whole waveform; if several noises are added, the power of their sum.
    """
    bank = jax.tree.map(jnp.asarray, bank)

    def one(key, y):
        whether, *draws = jax.random.split(key, 1 + config.count)
        noise = jnp.stack([_draw(draw, len(y), bank, y.dtype, config) for draw in draws]).sum(0)
        if config.snr_db:
            ratio = _uniform(jax.random.fold_in(whether, 1), config.snr_db, y.dtype)
            power = (noise**2).mean()
            target = (y**2).mean() / 10 ** (ratio / 10)
            noise = noise * jnp.sqrt(jnp.where(power > 0, target / jnp.where(power > 0, power, 1), 0))
        return jnp.where(jax.random.bernoulli(whether, config.probability), y + noise, y)

    return jax.vmap(one)(keys, y)


def _uniform(key: jax.Array, limits: Any, dtype: Any) -> jax.Array:
    return jax.random.uniform(key, (), dtype, *limits)


def _draw(key: jax.Array, samples: int, bank: Bank, dtype: Any, config: ConfigDict) -> jax.Array:
    """One recording at a random place among `samples`, times its gain."""
    which, where, loud = jax.random.split(key, 3)
    number = jax.random.randint(which, (), 0, len(bank["start"]))
    length = bank["length"][number]
    spare = length - samples  # if negative, the recording starts up to this many samples after the cut
    first = jax.random.randint(where, (), jnp.minimum(spare, 0), jnp.maximum(spare, 0) + 1)
    cut = jax.lax.dynamic_slice(bank["audio"], (bank["start"][number] + first,), (samples,))
    place = first + jnp.arange(samples)
    noise = jnp.where((place >= 0) & (place < length), cut, 0).astype(dtype) / 32768
    return noise if config.snr_db else noise * _uniform(loud, config.gain, dtype)
