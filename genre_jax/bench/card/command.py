"""The first measurements on a machine with an accelerator: `python -m genre_jax.bench card --json=FILE [--minutes=8]`.

The parts, with the most valuable first (`parts.py`):

1. ByteNet on 100 clips of 10 s in bfloat16, at the largest dilations 16 and 512, in micro-batches and with offload: the
   bytes that XLA plans, the peak that the device reports, and clips per second; and the same network in PyTorch with
   torch.compile.
2. ResNet101 and DenseNet121 against torch.compile. DenseNet121 compiles for minutes, and comes last of all.
3. 1,024 int16 clips of 10 s to log-mel, against torchaudio and torch.stft, with the largest difference of the results.
4. The fastest backend of the dilated convolution, for the forward pass and both gradients, by dilation.
5. Front ends by FFT and by matrix product.

Each measurement is another benchmark in processes of its own, so that one that fails leaves the others alone. What it has
measured is in the JSON file at once. A measurement is left out if the rest of the `--minutes` is shorter than its estimate,
and stopped at their end. The list of what was left out is printed, and `--only=NAME,…` measures it later.

`--table=FILE.json` measures nothing, and prints the Markdown tables of a record. This machine needs JAX, Flax, Optax,
NumPy, absl and ml_collections; torch, torchvision and torchaudio only for the comparisons (in this interpreter or in
`--peer_python`).
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from genre_jax.atomic import read_json
from genre_jax.bench.card import measure, tables
from genre_jax.bench.card.parts import MEASUREMENTS
from genre_jax.bench.record import machine, write_record
from genre_jax.console import UserError, say, unknown

MINUTES = flags.DEFINE_float("minutes", 8, "Time for everything.", lower_bound=0.01)
ONLY = flags.DEFINE_list("only", [], "Measurements, by name; default: all.")
PEER_PYTHON = flags.DEFINE_string("peer_python", None, "Python interpreter that has torch; default: this one.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Use tiny networks and short clips; takes minutes on a CPU.")
TABLE = flags.DEFINE_string("table", None, "Measure nothing, and print the Markdown tables of this JSON file.")


def main(argv: list[str]) -> None:
    """Measure everything that fits into the time, or print the tables of a record."""
    del argv
    if TABLE.value:
        shown = read_json(Path(TABLE.value), dict)
        if shown.get("benchmark") != "card":
            raise UserError(f"--table must name a JSON file that this benchmark wrote; {TABLE.value!r} is not one")
        say(tables.markdown(shown))
        return
    names = [one.name for one in MEASUREMENTS]
    for name in ONLY.value:
        if name not in names:
            raise unknown("measurement", name, names)
    if DRY_RUN.value:  # its figures mean nothing, and compilation would take most of its time
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
    end = time.monotonic() + 60 * MINUTES.value
    record: dict[str, Any] = {"benchmark": "card", "dry_run": DRY_RUN.value, "minutes": MINUTES.value, "measurements": []}
    record["environment"] = machine() | measure.environment(PEER_PYTHON.value or sys.executable)
    chosen = [one for one in MEASUREMENTS if not ONLY.value or one.name in ONLY.value]
    limits = measure.Limits(end, f"the {MINUTES.value:g} minutes were over", DRY_RUN.value, PEER_PYTHON.value)
    measure.measure_all(chosen, record, limits, lambda: write_record(record))
    rest = [result["name"] for result in record["measurements"] if result["status"] != "ok"]
    say(f"\nmeasured: {len(chosen) - len(rest)} of {len(chosen)}")
    for result in record["measurements"]:
        if result["status"] != "ok":
            say(f"{result['name']}: {result['status']}")
    if len(rest) == len(chosen):
        raise UserError("nothing was measured (see above)")
    if rest:
        say(f"to measure the rest: --only={','.join(rest)}")
