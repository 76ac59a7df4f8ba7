"""Which backend wins for each pass of the dilated convolution: `python -m genre_jax.bench backends --json=FILE`.

Forward pass, gradient by the input and gradient by the weights of one convolution of ByteNet's blocks (`genre_jax/backends.py`,
as `model.backend=timed` times it), the backends in turn, for every dilation 1, 2, 4, … up to `--max_dilation`.
"""

import os
import platform
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags

from genre_jax.atomic import write_json
from genre_jax.console import UserError, say, unknown
from genre_jax.logbook import environment
from genre_jax.models.bytenet import network
from genre_jax.planning import backends

MAX_DILATION = flags.DEFINE_integer("max_dilation", 512, "The largest dilation.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 57_344, "Steps of a sequence.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch", 1, "Sequences.", lower_bound=1)
WIDTH = flags.DEFINE_integer("width", 112, "Channels, in and out.", lower_bound=1)
TAPS = flags.DEFINE_integer("taps", 3, "Taps of the kernel.", lower_bound=1)
DTYPE = flags.DEFINE_string("dtype", "float32", "float32 or bfloat16.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls, of which the median is shown.", lower_bound=1)
JSON = flags.DEFINE_string("json", None, "Write the rows to this file too.")


def main(argv: list[str]) -> None:
    """Measure and print every row."""
    del argv
    if DTYPE.value not in ("float32", "bfloat16"):
        raise unknown("dtype", DTYPE.value, ("float32", "bfloat16"))
    if MAX_DILATION.value >= STEPS.value:
        raise UserError(f"--max_dilation must lie below --steps, and they were given {MAX_DILATION.value} and {STEPS.value}")
    device = jax.devices()[0].device_kind
    say(f"{BATCH.value} × {STEPS.value} steps × {WIDTH.value} channels, {TAPS.value} taps, {DTYPE.value}, on {device}")
    say(f"{'dilation':>8}  {'pass':<16}" + "".join(f"{name + ', ms':>14}" for name in backends.BACKENDS) + "  fastest")
    rows = []
    dilations, dtype = network.dilations(MAX_DILATION.value), jnp.dtype(DTYPE.value)
    for row in backends.seconds(dilations, BATCH.value, STEPS.value, WIDTH.value, TAPS.value, dtype, REPEATS.value):
        times = {name: row[name] for name in backends.BACKENDS}
        rows.append(row | {"fastest": min(times, key=times.__getitem__)})
        shown = "".join(f"{value * 1e3:>14.2f}" for value in times.values())
        say(f"{row['dilation']:>8}  {row['pass']:<16}{shown}  {rows[-1]['fastest']}")
    if JSON.value:
        shape = {"batch": BATCH.value, "steps": STEPS.value, "width": WIDTH.value, "taps": TAPS.value, "dtype": DTYPE.value}
        machine = {"cpus": os.cpu_count(), "platform": platform.platform(), "device": device} | environment()
        Path(JSON.value).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(JSON.value), {"benchmark": "backends", "environment": machine} | shape | {"rows": rows})
