"""The fastest backend for each pass of the dilated convolution: `python -m genre_jax.bench backends [--json=FILE]`.

For every dilation 1, 2, 4, … up to `--max_dilation`, the benchmark times one convolution of ByteNet's blocks: the forward pass,
the gradient by the input, and the gradient by the weights. `model.backend=timed` uses the same functions.
"""

import os

import jax
import jax.numpy as jnp
from absl import flags

from genre_jax.bench.record import write_record
from genre_jax.console import UserError, say, unknown
from genre_jax.logbook import environment
from genre_jax.models.bytenet import network
from genre_jax.planning import backends

MAX_DILATION = flags.DEFINE_integer("max_dilation", 512, "Largest dilation.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 57_344, "Time steps of a sequence.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch", 1, "Sequences per batch.", lower_bound=1)
WIDTH = flags.DEFINE_integer("width", 112, "Input channels, and output channels.", lower_bound=1)
TAPS = flags.DEFINE_integer("taps", 3, "Taps of the kernel.", lower_bound=1)
DTYPE = flags.DEFINE_string("dtype", "float32", "Number type: float32 or bfloat16.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls; the table shows their median.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Measure and print every row."""
    del argv
    if DTYPE.value not in ("float32", "bfloat16"):
        raise unknown("dtype", DTYPE.value, ("float32", "bfloat16"))
    if MAX_DILATION.value >= STEPS.value:
        raise UserError(f"--max_dilation must be less than --steps, not {MAX_DILATION.value} with --steps={STEPS.value}")
    device = jax.devices()[0].device_kind
    say(f"{BATCH.value} × {STEPS.value} steps × {WIDTH.value} channels, {TAPS.value} taps, {DTYPE.value}, on {device}")
    say(f"{'dilation':>8}  {'pass':<16}" + "".join(f"{name + ', ms':>14}" for name in backends.BACKENDS) + "  fastest")
    shape = {"batch": BATCH.value, "steps": STEPS.value, "width": WIDTH.value, "taps": TAPS.value, "dtype": DTYPE.value}
    machine = {"cpus": os.cpu_count(), "device": device} | environment()
    rows = []
    dilations, dtype = network.dilations(MAX_DILATION.value), jnp.dtype(DTYPE.value)
    for row in backends.seconds(dilations, BATCH.value, STEPS.value, WIDTH.value, TAPS.value, dtype, REPEATS.value):
        times = {name: row[name] for name in backends.BACKENDS}
        rows.append(row | {"fastest": min(times, key=times.__getitem__)})
        shown = "".join(f"{value * 1e3:>14.2f}" for value in times.values())
        say(f"{row['dilation']:>8}  {row['pass']:<16}{shown}  {rows[-1]['fastest']}")
        write_record({"benchmark": "backends", "environment": machine} | shape | {"rows": rows})
