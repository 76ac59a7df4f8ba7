"""Scaling over devices and hosts: `python -m genre_jax.bench scaling [--config=NAME] [--devices=1,2,4] [--hosts=1,2]`.

"weak" rows train with `--batch` clips per device, "strong" rows with the same global batch on all numbers of devices (that
of the largest weak row). Each topology runs in processes of its own. On a CPU these have as many CPU devices as the row
says, and several "hosts" are several processes on this machine: this checks the accounting, but shows no speed-up, because
all devices share the processor cores. On an accelerator a row uses the first devices. On several machines start the same
command on each of them with `--distributed`: it measures the present topology as one row, and the first process prints and
writes it.

The data are clips of noise in a temporary data set; with `--own_data` they are those of the config. Columns:

- "step": seconds of a training step on a batch that is in memory already; "with input" reads, cuts and batches clips
  meanwhile. Both contain the transfer of int16 samples to the devices.
- "efficiency": clips per second and device, relative to one device in the row of the same kind.
- "all-reduces": how many a step has (XLA merges those that do not wait for one another), their bytes in the compiled
  program, and the time of a single all-reduce of the gradient's size.
- "model": the predicted step over the measured one, less 1. The model (`model.py`) is fitted to the steps of one device and to
  the times of the all-reduces alone; the steps of several devices check it.

Then the model predicts `--predict` for links and devices that are assumptions: the FLOP/s of a device are `--share` of the
maker's figure for bfloat16, a host has `--devices_per_host` of them, and `--links` names the link inside a host and then
those between hosts, in bytes per second and direction.
"""

import dataclasses
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import flags

from genre_jax import hosts
from genre_jax.bench.cards import CARDS
from genre_jax.bench.contestants import Side
from genre_jax.bench.record import machine, write_record
from genre_jax.bench.scaling import model
from genre_jax.console import UserError, overrides, parse_flags, pick, say

CONFIG = flags.DEFINE_string("config", "bytenet:demo", "Config to measure, as in `main`; --config.KEY=VALUE changes a key.")
DEVICES = flags.DEFINE_list("devices", ["1", "2", "4"], "Numbers of devices of all hosts together.")
HOSTS = flags.DEFINE_list("hosts", ["1", "2"], "Numbers of processes that share the devices; above 1 only on a CPU.")
BATCH = flags.DEFINE_integer("batch", 4, "Clips per device in weak scaling.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 4, "Steps per timing.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Timings per row; the table shows their median.", lower_bound=1)
OWN_DATA = flags.DEFINE_bool("own_data", False, "Read the config's data set instead of noise.")
LIMIT = flags.DEFINE_float("limit", 300, "Seconds after which a row is given up.", lower_bound=1)
PREDICT = flags.DEFINE_multi_string(
    "predict", ["bytenet:thesis@8", "resnet34_spectrogram@128"], "Configs to predict, as CONFIG@CLIPS_PER_DEVICE; repeatable."
)
PREDICT_DEVICES = flags.DEFINE_integer("predict_devices", 256, "Largest number of devices of the prediction.", lower_bound=1)
DEVICES_PER_HOST = flags.DEFINE_integer("devices_per_host", 8, "Devices of a host in the prediction.", lower_bound=1)
CARD = flags.DEFINE_string("card", "NVIDIA H100 80GB HBM3", f"Device of the prediction: {', '.join(CARDS)}.")
SHARE = flags.DEFINE_float("share", 0.2, "Share of the device's bfloat16 FLOP/s that a step reaches: an assumption.")
LINKS = flags.DEFINE_list(
    "links", ["NVLink 300e9 2e-6", "400G InfiniBand 50e9 5e-6", "100G Ethernet 12.5e9 2e-5"],
    "Links as NAME BYTES_PER_SECOND [LATENCY]: the first inside a host, the others between hosts.",
)  # fmt: skip
CLIPS = flags.DEFINE_integer(
    "clips", 224_155, "Clips of an epoch in the prediction (AudioSet's unbalanced music).", lower_bound=1
)
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "This process is one of a run on several hosts: measure their topology.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process; default: JAX asks the cluster.")
PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes of the run; default: JAX asks the cluster.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process from 0; default: JAX asks the cluster.")
PLOT = flags.DEFINE_string("plot", None, "Measure nothing, and draw a figure of this JSON file beside it.")

POINT = "genre_jax.bench.scaling.point"

__all__ = ["main", "parse_flags"]


@dataclasses.dataclass(frozen=True)
class Topology:
    """A row to measure; `kind` is "weak" or "strong"."""

    kind: str
    devices: int
    hosts: int
    global_batch: int


def main(argv: list[str]) -> None:
    """Measure, check the model, and predict; or draw the rows of a JSON file."""
    if PLOT.value:
        from genre_jax.bench.scaling import figure

        say(f"wrote {figure.plot(Path(PLOT.value))}")
        return
    inside, *between = [model.parse_link(text) for text in LINKS.value]
    if not between:
        raise UserError(f"--links must name the link inside a host and at least one between hosts, not only {LINKS.value[0]!r}")
    if not 0 < SHARE.value <= 1:
        raise UserError(f"--share must be above 0 and at most 1, not {SHARE.value:g}")
    pick("card", CARD.value, CARDS)
    jobs = [_job(text) for text in PREDICT.value]
    changes = overrides(argv[1:])
    record: dict[str, Any] = {"benchmark": "scaling", "config": CONFIG.value, "overrides": changes, "rows": []}
    record["environment"] = machine() | {"command": " ".join(sys.orig_argv[1:])}
    if DISTRIBUTED.value:
        if not _present_topology(record, changes):
            return
    else:
        _measure_all(record, changes)
    _check(record)
    write_record(record)
    _predict(record, jobs, inside, between)
    write_record(record)


def topologies() -> list[Topology]:
    """Return the rows of the flags; a number of devices that the hosts do not divide is left out. Raise `UserError`."""
    counts, hosts = (sorted(set(_numbers(flag))) for flag in (DEVICES, HOSTS))
    rows = []
    for count in hosts:  # one process first: its rows of one device are what the others are compared with
        for kind in ("weak", "strong"):
            for devices in counts:
                batch = BATCH.value * (devices if kind == "weak" else max(counts))
                if devices % count == 0:
                    rows.append(Topology(kind, devices, count, batch))
    if not rows:
        raise UserError(
            f"--devices={','.join(DEVICES.value)} must have a multiple of a number in --hosts={','.join(HOSTS.value)}"
        )
    return rows


def _numbers(flag: flags.FlagHolder) -> list[int]:
    """Return the numbers of a list flag."""
    if not flag.value or not all(text.strip().isdigit() and int(text) for text in flag.value):
        raise UserError(f"--{flag.name} must be whole numbers above 0, separated by commas, not {','.join(flag.value)!r}")
    return [int(text) for text in flag.value]


def _point(changes: dict[str, str], **topology: Any) -> dict[str, Any]:
    """Return the argument of `point.Point`."""
    shared = {"config": CONFIG.value, "overrides": changes, "noise": not OWN_DATA.value, "batch": BATCH.value}
    return shared | {"steps": STEPS.value, "rounds": ROUNDS.value, "cluster": None, "global_batch": 0, "devices": 0} | topology


def _measure_all(record: dict[str, Any], changes: dict[str, str]) -> None:
    """Measure every topology in child processes; equal ones of both kinds are measured once."""
    wanted = topologies()
    done: dict[tuple[int, int, int], dict[str, Any]] = {}
    say(f"{CONFIG.value}: {BATCH.value} clips per device (weak), {max(row.global_batch for row in wanted)} clips (strong)")
    _say_titles()
    for topology in wanted:
        key = (topology.devices, topology.hosts, topology.global_batch)
        if key not in done:
            done[key] = _measure(topology, changes, record["environment"])
        row = {"kind": topology.kind, "devices": topology.devices, "hosts": topology.hosts} | done[key]
        record["rows"].append(row | efficiencies(row, record["rows"]))
        _say_row(record["rows"][-1])
        write_record(record)
    if not any(row["status"] == "ok" for row in record["rows"]):
        raise UserError(f"no row was measured: {record['rows'][0]['status']}")


def _measure(topology: Topology, changes: dict[str, str], environment: dict[str, Any]) -> dict[str, Any]:
    """Measure a topology, in one process per host; return its row, whose "status" says what failed."""
    point = _point(changes, devices=topology.devices, global_batch=topology.global_batch)
    clusters = _clusters(topology.hosts)
    programs = tempfile.TemporaryDirectory()  # the processes of this row alone share it: it does not falsify the compile time
    variables = {"JAX_COMPILATION_CACHE_DIR": programs.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    variables |= {"JAX_NUM_CPU_DEVICES": str(topology.devices // topology.hosts), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    sides = [Side(POINT, sys.executable, environment=variables) for _ in clusters]

    def ask(side: Side, cluster: Any) -> dict[str, Any]:
        try:
            side.build("point", point | {"cluster": cluster})
            row = side.ask("measure", "point")
            side.ask("close", "point")
        except UserError:
            kill()  # otherwise the other processes of the run wait for this one
            raise
        return row

    def kill() -> None:
        for side in sides:
            if side.process:
                side.process.kill()

    def give_up() -> None:
        late.set()
        kill()

    late = threading.Event()
    timer = threading.Timer(LIMIT.value, give_up)
    timer.start()
    try:
        with ThreadPoolExecutor(len(sides)) as pool:
            asked = [pool.submit(ask, side, cluster) for side, cluster in zip(sides, clusters, strict=True)]
        errors = [error for future in asked if (error := future.exception())]
        if errors:  # that of the process that failed first, and not of those that were then killed
            raise next((error for error in errors if "interpreter ended" not in str(error)), errors[0])
        row = asked[0].result()
        environment |= sides[0].versions() if "jax" not in environment else {}
    except UserError as error:
        status = f"given up after {LIMIT.value:g} s" if late.is_set() else f"failed: {error}"
        return {"global_batch": topology.global_batch, "status": status}
    finally:
        timer.cancel()
        with ThreadPoolExecutor(len(sides)) as pool:  # the processes of a run wait for one another at their end
            list(pool.map(Side.close, sides))
        programs.cleanup()
    return row | {"status": "ok"}


def _clusters(count: int) -> list[tuple[str, int, int] | None]:
    """Return the arguments of `hosts.start` for each of `count` processes on this machine."""
    if count == 1:
        return [None]
    address = f"localhost:{hosts.free_port()}"
    return [(address, count, number) for number in range(count)]


def _present_topology(record: dict[str, Any], changes: dict[str, str]) -> bool:
    """Measure the devices of all hosts of this run as one row; return whether this is the process that reports it."""
    from genre_jax.bench.scaling import point

    cluster = (COORDINATOR.value, PROCESSES.value, PROCESS_ID.value)
    whole = point.Point(_point(changes, cluster=cluster))
    try:
        row = whole.measure()
    finally:
        whole.close()
    record["environment"] |= point.versions()
    row = {"kind": "weak"} | row | {"status": "ok"}
    record["rows"].append(row | efficiencies(row, []))
    if not hosts.is_first():
        return False
    _say_titles()
    _say_row(record["rows"][0])
    return True


def efficiencies(row: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the speeds of a row, and its efficiencies against the row of one device of the same kind among `before`."""
    values: dict[str, Any] = {}
    for key, suffix in (("step_s", ""), ("step_with_input_s", "_with_input")):
        if key in row:
            values[f"clips_per_second{suffix}"] = row["global_batch"] / row[key]
            single = [other for other in [*before, row | values] if other["kind"] == row["kind"] and other["devices"] == 1]
            base = single[0].get(f"clips_per_second{suffix}") if single else None
            values[f"efficiency{suffix}"] = values[f"clips_per_second{suffix}"] / row["devices"] / base if base else None
    return values


def _say_titles() -> None:
    say(
        f"{'kind':<8}{'devices':>7}{'hosts':>6}{'batch':>7}{'step':>11}{'with input':>12}{'clips/s':>9}{'efficiency':>11}"
        f"{'all-reduces':>12}{'MB':>8}{'one alone':>11}{'compile':>9}"
    )


def _say_row(row: dict[str, Any]) -> None:
    start = f"{row['kind']:<8}{row['devices']:>7}{row['hosts']:>6}{row['global_batch']:>7}"
    if row["status"] != "ok":
        say(f"{start}  {row['status']}")
        return
    efficiency = "-" if row["efficiency"] is None else f"{row['efficiency']:.2f}"
    say(
        f"{start}{row['step_s'] * 1e3:>8.1f} ms{row['step_with_input_s'] * 1e3:>9.1f} ms{row['clips_per_second']:>9,.1f}"
        f"{efficiency:>11}{row['all_reduces']:>12}{row['all_reduce_bytes'] / 1e6:>8.2f}{row['all_reduce_s'] * 1e3:>8.2f} ms"
        f"{row['compile_s']:>7.1f} s"
    )


def _check(record: dict[str, Any]) -> None:
    """Fit the model to the rows, print its error, and add both to the record."""
    rows = [row for row in record["rows"] if row["status"] == "ok"]
    fitted = model.fit(rows, shared=rows[0]["platform"] == "cpu" and not DISTRIBUTED.value)
    if fitted is None:
        say("no model: it is fitted to rows of one device, and there is none")
        return
    for row, error in zip(rows, model.check(rows, fitted), strict=True):
        row["model_s"], row["model_error"] = fitted.step(row), error
    links = {name: link._asdict() for name, link in fitted.links.items()}
    record["fit"] = {"fixed_s": fitted.fixed, "a_clip_s": fitted.a_clip, "shared_cores": fitted.shared, "links": links}
    what = "all devices, which share the cores" if fitted.shared else "a device"
    say(f"\nmodel: {fitted.fixed * 1e3:.1f} ms + {fitted.a_clip * 1e3:.2f} ms per clip of {what} + all-reduces")
    for link in fitted.links.values():
        say(f"  {link.name}: {link.bytes_a_second / 1e9:.3g} GB/s, {link.latency * 1e6:.1f} µs per message")
    for row in rows:
        used = " (fitted)" if row["devices"] == 1 else ""
        say(
            f"  {row['kind']:<7}{row['devices']} devices, {row['hosts']} hosts: model {row['model_s'] * 1e3:.1f} ms, measured "
            f"{row['step_s'] * 1e3:.1f} ms, error {row['model_error']:+.0%}{used}"
        )


def _predict(record: dict[str, Any], jobs: list[tuple[str, int]], inside: model.Link, between: list[model.Link]) -> None:
    """Predict every network over every link, print the speeds at some numbers of devices, and add the rows to the record."""
    speed = SHARE.value * CARDS[CARD.value].flops_a_second["bfloat16"]
    counts = [1]
    while 2 * counts[-1] <= PREDICT_DEVICES.value:
        counts.append(2 * counts[-1])
    assumptions = {"card": CARD.value, "share": SHARE.value, "flops_a_second": speed}
    assumptions |= {"devices_per_host": DEVICES_PER_HOST.value, "links": [link._asdict() for link in (inside, *between)]}
    record["prediction"] = {"assumptions": assumptions, "networks": [], "rows": []}
    say(
        f"\nprediction, not measured: {CARD.value} at {SHARE.value:.0%} of its bfloat16 FLOP/s, "
        f"{DEVICES_PER_HOST.value} per host; "
        "sum … overlapped"
    )
    for config, batch in jobs:
        facts = _describe(config)
        record["prediction"]["networks"].append({"config": config, "batch": batch} | facts)
        messages = facts["all_reduces"]
        size = f"{facts['all_reduce_bytes'] / 1e6:.1f} MB in {messages} all-reduces"
        say(f"{config}: {batch} clips per device, {facts['flops_a_clip'] / 1e9:,.0f} GFLOP per clip, {size} per step")
        job = model.Job(facts["flops_a_clip"], speed, batch, facts["all_reduce_bytes"], messages, facts["clip_bytes"])
        for link in between:
            for kind in ("weak", "strong"):
                curves = [
                    model.predict(job, kind, counts, DEVICES_PER_HOST.value, inside, link, overlap) for overlap in (False, True)
                ]
                record["prediction"]["rows"] += [{"config": config} | row for rows in curves for row in rows]
            say(f"  {link.name}: {_shown(*curves)}")  # on the largest number of devices both kinds are the same


def _job(text: str) -> tuple[str, int]:
    """Return config and clips per device of a text CONFIG@CLIPS."""
    config, _, clips = text.rpartition("@")
    if not config or not clips.isdigit() or not int(clips):
        raise UserError(f"--predict must be CONFIG@CLIPS_PER_DEVICE, as in 'bytenet:thesis@8', not {text!r}")
    return config, int(clips)


def _shown(sums: list[dict[str, Any]], overlapped: list[dict[str, Any]]) -> str:
    """Return the largest topology of a prediction in words."""
    low, high = sums[-1], overlapped[-1]
    speeds = " … ".join(f"{row['clips_per_second']:,.0f}" for row in (low, high))
    shares = " … ".join(f"{row['efficiency']:.0%}" for row in (low, high))
    host = (
        f"{high['clips_per_second_and_host']:,.0f} clips/s ({high['int16_bytes_per_second_and_host'] / 1e6:,.0f} MB/s) per host"
    )
    epoch = f"{CLIPS.value / high['clips_per_second']:.1f} s"
    return f"{low['devices']} devices {speeds} clips/s, efficiency {shares}, input {host}, epoch {epoch}"


def _describe(config: str) -> dict[str, Any]:
    """Return what the prediction needs of a config, from a child process with two CPU devices that runs nothing."""
    variables = {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    with Side(POINT, sys.executable, environment=variables) as side:
        side.build("network", {"config": config, "dtype": "bfloat16"})
        return side.ask("describe", "network")
