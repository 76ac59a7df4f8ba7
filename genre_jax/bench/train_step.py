"""Training steps against PyTorch's in one run: `python -m genre_jax.bench train_step --peer_python=PYTHON [--json=FILE]`.

Each network's own step (`train.train_step`, AMSGrad) and its peer's, eager and through torch.compile, run in processes of
their own, ours in this interpreter and the peer's in `--peer_python`. All start from the same weights and inputs, and their
losses must agree before and after a first update. Networks over images have their peer in both memory layouts: with channels
last PyTorch's batch norm adds up in float32 (losses are off by 3e-4 over 16 × 224 × 224; with channels first they are those
of float64), so there the first loss alone is compared, to 1e-3. Then they are timed in turn, each after a step that is not
timed, so that a busy machine is busy for all; "× ours" is the median over the rounds of a time over ours in the same round.
"TFLOP/s" are those of the products and convolutions of our step over a time, "of card" their share of what its maker promises.
"core s" is what a step takes of all cores together, with its ratio: with `--threads=1` others' work hardly changes it, while
threads that wait for each other on a busy machine spin.

`--ours` takes options of our network that change no number, as `--ours=remat=none --ours=remat=block,backend=lax`: each is a
contestant, and the fastest is "ours". glibc gives large buffers back at every step and faults them in again at the next,
which costs either side up to half its time; MALLOC_* variables, as the Makefile has them, stop that: `--malloc` says for whom.
"""

import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

from genre_jax.atomic import write_json
from genre_jax.bench import rounds
from genre_jax.bench.contestants import Side
from genre_jax.bench.network_cases import CASES
from genre_jax.console import UserError, say, unknown

NETWORKS = flags.DEFINE_list("networks", list(CASES), f"Networks, of {', '.join(CASES)}.")
PEER_PYTHON = flags.DEFINE_string("peer_python", None, "Interpreter that has torch, where this one has it not.")
OURS = flags.DEFINE_multi_string("ours", [""], "Options of our network, KEY=VALUE,…; each --ours is a contestant.")
ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds in turn; medians and quartiles are shown.")
DTYPE = flags.DEFINE_string("dtype", "float32", "Of the networks' compute: float32, or bfloat16 (the peer's autocast).")
BATCH = flags.DEFINE_integer("batch", 0, "Inputs a step, where not the case's.")
SHAPE = flags.DEFINE_list("shape", [], "Shape of an input, as 160000,1 for ten seconds at 16 kHz, where not the case's.")
RECOMPUTE = flags.DEFINE_bool("recompute", False, "The peer, too, computes ByteNet's blocks again in its backward pass.")
COMPILED = flags.DEFINE_bool("compiled", True, "Time the peer through torch.compile as well.")
THREADS = flags.DEFINE_integer("threads", 0, "CPU cores that both sides are bound to; 0: all that this process may use.")
MALLOC = flags.DEFINE_string("malloc", "both", "Who gets MALLOC_* variables that keep freed memory: both, ours or neither.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Small networks and two rounds: the same rows in seconds.")
JSON = flags.DEFINE_string("json", None, "Write the rows to this file too.")

# Freed memory stays with the process, however much it is (the Makefile's, but for buffers of over 1 GB too).
MALLOC_VARIABLES = {
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "68719476736",
    "MALLOC_ARENA_MAX": "1",
}
TUNED = {"both": ("genre_jax", "peer"), "ours": ("genre_jax",), "neither": ()}
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # of losses, relative


def main(argv: list[str]) -> None:
    """Measure every network."""
    del argv
    changes, variants = check_flags()
    cores = bind(THREADS.value)
    variables = _variables(cores)
    for side, chosen in variables.items():
        say(f"{side}: {cores} CPU cores, " + " ".join(f"{key}={value}" for key, value in chosen.items()))
    record: dict[str, Any] = {"benchmark": "train_step", "dry_run": DRY_RUN.value, "dtype": DTYPE.value}
    record["recompute"] = RECOMPUTE.value
    record |= {"environment": environment(cores), "variables": variables, "rows": []}
    failed = []
    for name in NETWORKS.value:
        with (
            Side("genre_jax.bench.network_cases", sys.executable, environment=variables["genre_jax"]) as ours,
            Side("genre_jax.bench.peer_networks", PEER_PYTHON.value or sys.executable, environment=variables["peer"]) as theirs,
        ):
            try:
                measure(name, ours.build(name, variants, DTYPE.value, DRY_RUN.value, changes), theirs, record)
            except UserError as error:
                say(f"{name} is left out: {error}")
                failed.append(name)
            record["environment"] |= ours.versions()
        if JSON.value:
            Path(JSON.value).parent.mkdir(parents=True, exist_ok=True)
            write_json(Path(JSON.value), record)
    if failed:
        raise UserError(f"{len(failed)} of {len(NETWORKS.value)} networks were left out, as said above: {', '.join(failed)}")


def check_flags() -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What the flags change of the cases, and our variants; raises `UserError` for values that are not legal."""
    for name in NETWORKS.value:
        if name not in CASES:
            raise unknown("network", name, CASES)
    if DTYPE.value not in TOLERANCE:
        raise unknown("dtype", DTYPE.value, TOLERANCE)
    if MALLOC.value not in TUNED:
        raise unknown("--malloc", MALLOC.value, TUNED)
    if ROUNDS.value < 1 or BATCH.value < 0:
        raise UserError(f"--rounds must be at least 1 and --batch at least 0, not {ROUNDS.value} and {BATCH.value}")
    if SHAPE.value and not (len(NETWORKS.value) == 1 and all(n.isdigit() and int(n) for n in SHAPE.value)):
        raise UserError(f"--shape must be positive numbers, for one of --networks, and was given {','.join(SHAPE.value)!r}")
    return {"batch": BATCH.value, "shape": tuple(map(int, SHAPE.value))}, [_variant(text) for text in OURS.value]


def _variant(text: str) -> dict[str, str]:
    """Options out of KEY=VALUE,…"""
    pairs = [part.partition("=") for part in filter(None, text.split(","))]
    if not all(equals and value for _, equals, value in pairs):
        raise UserError(f"--ours must be KEY=VALUE,… as in 'remat=block,backend=lax', and was given {text!r}")
    return {key: value for key, _, value in pairs}


def bind(threads: int) -> int:
    """Bind this process, and those it starts, to so many cores; how many it has then."""
    if not hasattr(os, "sched_getaffinity"):
        if threads:
            raise UserError(f"--threads needs Linux, and was given {threads}")
        return os.cpu_count() or 1
    free = sorted(os.sched_getaffinity(0))
    if not 0 <= threads <= len(free):
        raise UserError(f"--threads must lie in 0 … {len(free)}, the cores of this process, and was given {threads}")
    if threads:
        os.sched_setaffinity(0, free[:threads])
    return threads or len(free)


def _variables(cores: int) -> dict[str, dict[str, str]]:
    """Side → environment variables of its process."""
    for key in [key for key in os.environ if key.startswith("MALLOC_")]:
        del os.environ[key]  # of a shell or `make`
    # JAX would else take most of a GPU's memory before the peer starts.
    shared = {"OMP_NUM_THREADS": str(cores), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return {side: shared | (MALLOC_VARIABLES if side in TUNED[MALLOC.value] else {}) for side in ("genre_jax", "peer")}


def environment(cores: int) -> dict[str, Any]:
    """What the rows were measured with, before the contestants add their versions."""
    return {"cpus": cores, "platform": platform.platform(), "command": " ".join(sys.orig_argv[1:])}


def measure(name: str, contestants: dict[str, Any], theirs: Side, record: dict[str, Any]) -> None:
    """Bring in the peers, compare, time and print all contestants of one network; `record` gets rows and versions."""
    own, first = list(contestants), next(iter(contestants.values()))
    kinds = ["PyTorch", *(["torch.compile"] if COMPILED.value else [])]
    coarse: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "problem.npz"))
        problem = first.ask("problem", path)
        if len(problem["shape"]) == 3:  # images; the other layout checks that the networks are the same
            coarse = [f"{kind}, channels last" for kind in kinds]
            kinds = ["PyTorch", *coarse]
        try:
            contestants |= theirs.build(problem, path, DTYPE.value, RECOMPUTE.value, kinds)
            record["environment"] |= theirs.versions()
        except UserError as error:
            say(f"{name}: no peer, {error}")
    batch, shape, work = problem["batch"], tuple(problem["shape"]), first.ask("work")
    flops, limit = work["flops"], work["card_flops_a_second"]
    say(f"\n{name}: {work['parameters']:,} parameters, {batch} inputs {shape} a step, {flops / 1e9:,.1f} GFLOP, {DTYPE.value}")
    facts = rounds.start(contestants, own, TOLERANCE[DTYPE.value], coarse)
    clock, cores = rounds.alternate(contestants, facts, 2 if DRY_RUN.value else ROUNDS.value)
    titles = f"{'median':>12}{'quartiles':>20}{'× ours':>9}{'quartiles':>15}{'inputs/s':>11}{'TFLOP/s':>9}{'of card':>9}"
    say(f"{'':<28}{titles}{'core s':>9}{'× ours':>9}{'compile':>10}")
    for label, row in rounds.summary(clock, cores, own).items():
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
