"""Training steps against PyTorch's: `python -m genre_jax.bench train_step --peer_python=PYTHON [--json=FILE]`.

For each network the contestants are our training step (`train.TrainStep`, AMSGrad) and the peer, PyTorch's step in eager mode
and with torch.compile. Our step and the peer run in separate processes, the peer with `--peer_python`. All start from the same
weights and inputs, and their losses must agree before and after the first update. Networks on images have the peer in both
memory layouts. With channels last, PyTorch's batch norm adds in float32, and over 16 × 224 × 224 values the loss is off by 3e-4
(with channels first it equals that of float64). Therefore only its first loss is compared, to 1e-3.

The contestants run in turn in every round, each after a step that is not timed, so that other load slows all of them. Columns:

- "× ours": a time divided by our time in the same round; the median over rounds.
- "TFLOP/s": FLOPs of the products and convolutions of our step, divided by the time; "of card": its share of the card's peak.
- "core s": CPU time of all threads. With `--threads=1` other load hardly changes it. With more threads on a busy machine it
  includes threads that spin while they wait for each other.

Each `--ours` is a contestant with other options of our network that change no number, for example `--ours=remat=none
--ours=remat=block,backend=lax`; "ours" is the fastest. glibc returns large buffers to the system after every step, and the page
faults of the next step can take half of its time. The MALLOC_* variables of the Makefile prevent this; `--malloc` selects the
sides that get them.
"""

import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

from genre_jax.bench import rounds
from genre_jax.bench.contestants import Side
from genre_jax.bench.network_cases import CASES
from genre_jax.bench.record import write_record
from genre_jax.console import UserError, say, unknown

NETWORKS = flags.DEFINE_list("networks", list(CASES), f"Networks, of {', '.join(CASES)}.")
PEER_PYTHON = flags.DEFINE_string("peer_python", None, "Python interpreter that has torch; default: this one.")
OURS = flags.DEFINE_multi_string("ours", [""], "Options of our network as KEY=VALUE,…; repeat it for more contestants.")
ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds; the table shows medians and quartiles over them.")
DTYPE = flags.DEFINE_string("dtype", "float32", "Number type of the networks: float32, or bfloat16 (autocast in the peer).")
BATCH = flags.DEFINE_integer("batch", 0, "Inputs per step; 0 means the case's.")
SHAPE = flags.DEFINE_list("shape", [], "Shape of an input, such as 160000,1 for 10 s at 16 kHz; default: the case's.")
RECOMPUTE = flags.DEFINE_bool("recompute", False, "Recompute ByteNet's blocks in the peer's backward pass, too.")
COMPILED = flags.DEFINE_bool("compiled", True, "Also time the peer with torch.compile.")
THREADS = flags.DEFINE_integer("threads", 0, "CPU cores to which both sides are bound; 0 means all cores.")
MALLOC = flags.DEFINE_string("malloc", "both", "Side that gets the MALLOC_* variables: both, ours or neither.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Use small networks and two rounds; takes seconds.")

# They keep freed memory in the process. Unlike the Makefile's, they apply to buffers over 1 GB, too.
MALLOC_VARIABLES = {
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "68719476736",
    "MALLOC_ARENA_MAX": "1",
}
TUNED = {"both": ("genre_jax", "peer"), "ours": ("genre_jax",), "neither": ()}
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # largest relative difference of losses


def main(argv: list[str]) -> None:
    """Measure every network."""
    del argv
    changes, variants = check_flags()
    cores = bind(THREADS.value)
    variables = _variables(cores)
    for side, values in variables.items():
        say(f"{side}: {cores} CPU cores, " + " ".join(f"{key}={value}" for key, value in values.items()))
    record: dict[str, Any] = {"benchmark": "train_step", "dry_run": DRY_RUN.value, "dtype": DTYPE.value}
    record["recompute"] = RECOMPUTE.value
    record |= {"environment": environment(cores), "variables": variables, "rows": [], "starts": []}
    failed = []
    for name in NETWORKS.value:
        with (
            Side("genre_jax.bench.network_cases", sys.executable, environment=variables["genre_jax"]) as our_side,
            Side(
                "genre_jax.bench.peer_networks", PEER_PYTHON.value or sys.executable, environment=variables["peer"]
            ) as peer_side,
        ):
            try:
                measure(name, our_side.build(name, variants, DTYPE.value, DRY_RUN.value, changes), peer_side, record)
            except UserError as error:
                say(f"{name} is skipped: {error}")
                record["starts"].append({"network": name, "library": "", "skipped": str(error)})
                failed.append(name)
            record["environment"] |= our_side.versions()
        write_record(record)
    if failed:
        raise UserError(f"{len(failed)} of {len(NETWORKS.value)} networks were skipped (see above): {', '.join(failed)}")


def check_flags() -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return the changes to the cases, and the variants of our network. Raise `UserError` for illegal flags."""
    for name in NETWORKS.value:
        if name not in CASES:
            raise unknown("network", name, CASES)
    if DTYPE.value not in TOLERANCE:
        raise unknown("dtype", DTYPE.value, TOLERANCE)
    if MALLOC.value not in TUNED:
        raise unknown("--malloc", MALLOC.value, TUNED)
    if ROUNDS.value < 1 or BATCH.value < 0:
        raise UserError(f"--rounds must be at least 1 and --batch at least 0, not {ROUNDS.value} and {BATCH.value}")
    if SHAPE.value and len(NETWORKS.value) != 1:
        raise UserError(f"--shape needs exactly one network in --networks, not {len(NETWORKS.value)}")
    if not all(size.isdigit() and int(size) for size in SHAPE.value):
        raise UserError(f"--shape must be positive whole numbers, separated by commas, not {','.join(SHAPE.value)!r}")
    return {"batch": BATCH.value, "shape": tuple(map(int, SHAPE.value))}, [_variant(text) for text in OURS.value]


def _variant(text: str) -> dict[str, str]:
    """Return the options in a text KEY=VALUE,…"""
    pairs = [part.partition("=") for part in filter(None, text.split(","))]
    if not all(equals and value for _, equals, value in pairs):
        raise UserError(f"--ours must be KEY=VALUE,… as in 'remat=block,backend=lax', not {text!r}")
    return {key: value for key, _, value in pairs}


def bind(threads: int) -> int:
    """Bind this process and its children to `threads` cores, or to all cores if it is 0; return the number of cores."""
    if not hasattr(os, "sched_getaffinity"):
        if threads:
            raise UserError(f"--threads={threads} needs Linux")
        return os.cpu_count() or 1
    usable = sorted(os.sched_getaffinity(0))
    if not 0 <= threads <= len(usable):
        raise UserError(f"--threads must be between 0 and {len(usable)}, the cores of this process, not {threads}")
    if threads:
        os.sched_setaffinity(0, usable[:threads])
    return threads or len(usable)


def _variables(cores: int) -> dict[str, dict[str, str]]:
    """Return side → environment variables of its process, and remove MALLOC_* variables from this process."""
    for key in [key for key in os.environ if key.startswith("MALLOC_")]:
        del os.environ[key]  # set by a shell or `make`
    # Otherwise JAX allocates most of a GPU's memory before the peer starts.
    shared = {"OMP_NUM_THREADS": str(cores), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return {side: shared | (MALLOC_VARIABLES if side in TUNED[MALLOC.value] else {}) for side in ("genre_jax", "peer")}


def environment(cores: int) -> dict[str, Any]:
    """Return the environment of the record; the contestants add their versions later."""
    return {"cpus": cores, "platform": platform.platform(), "command": " ".join(sys.orig_argv[1:])}


def measure(name: str, contestants: dict[str, Any], peer_side: Side, record: dict[str, Any]) -> None:
    """Build the peers, compare, time and print all contestants of a network; add rows and versions to `record`."""
    ours, first = list(contestants), next(iter(contestants.values()))
    kinds = ["PyTorch", *(["torch.compile"] if COMPILED.value else [])]
    coarse: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "problem.npz"))
        problem = first.ask("problem", path)
        if len(problem["shape"]) == 3:  # images; the layout with channels first checks that the networks are equal
            coarse = [f"{kind}, channels last" for kind in kinds]
            kinds = ["PyTorch", *coarse]
        try:
            contestants |= peer_side.build(problem, path, DTYPE.value, RECOMPUTE.value, kinds)
            record["environment"] |= peer_side.versions()
        except UserError as error:
            say(f"{name}: no peer, {error}")
            record["starts"].append({"network": name, "library": "PyTorch", "skipped": str(error)})
    batch, shape, work = problem["batch"], tuple(problem["shape"]), first.ask("work")
    flops, limit = work["flops"], work["card_flops_a_second"]
    sizes = f"{work['parameters']:,} parameters, {batch} inputs {shape} per step, {flops / 1e9:,.1f} GFLOP"
    say(f"\n{name}: {sizes}, {DTYPE.value}")

    def note(label: str, fact: dict[str, Any]) -> None:
        record["starts"].append({"network": name, "library": label, "batch": batch, "shape": shape} | fact)
        write_record(record)

    facts = rounds.start(contestants, ours, TOLERANCE[DTYPE.value], coarse, note)
    clock, cores = rounds.alternate(contestants, facts, 2 if DRY_RUN.value else ROUNDS.value)
    titles = f"{'median':>12}{'quartiles':>20}{'× ours':>9}{'quartiles':>15}{'inputs/s':>11}{'TFLOP/s':>9}{'of card':>9}"
    say(f"{'':<28}{titles}{'core s':>9}{'× ours':>9}{'compile':>10}")
    for label, row in rounds.summary(clock, cores, ours).items():
        row |= {"network": name, "library": label, "batch": batch, "shape": shape} | work | facts[label]
        row |= {"inputs_per_second": batch / row["median_s"], "seconds": clock[label]}
        row["flops_a_second"] = flops / row["median_s"]
        share = f"{row['flops_a_second'] / limit:.1%}" if limit else ""
        record["rows"].append(row)
        say(
            f"{label:<28}{row['median_s'] * 1e3:>9.1f} ms{row['lower_s'] * 1e3:>10.1f} … {row['upper_s'] * 1e3:<7.1f}"
            f"{row['times_ours']:>9.2f}{row['times_ours_lower']:>8.2f} … {row['times_ours_upper']:.2f}"
            f"{row['inputs_per_second']:>11,.1f}{row['flops_a_second'] / 1e12:>9.3g}{share:>9}"
            f"{row['core_s']:>9.3f}{row['core_times_ours']:>9.2f}{row['compile_s']:>8.1f} s"
        )
