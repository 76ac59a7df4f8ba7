"""Front ends against other libraries: `python -m genre_jax.bench frontends [--json=FILE]`; `--plot=FILE.json` draws a figure.

The benchmark times each case with this library (both STFT engines), librosa, torch.stft, torchaudio and nnAudio, as far as they
are installed in this interpreter or in `--peer_python`. All of them run in turn in every round, so that other load on the
machine slows all of them. Only JAX and NumPy are required.

"error" is relative to the peak of this library's float64 result on the CPU, which the tests compare with librosa and with
the definition. "difference", in the JSON file, is the largest one between a result and that of our first row, over all
clips and relative to the largest value. "peak MB" is the resident memory that one call adds. "memory ×" is the memory of
the compiled program (input, output and temporaries) divided by that of input and output.
"""

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from genre_jax import frontends
from genre_jax.bench import cards
from genre_jax.bench.contestants import Local, Remote, Side
from genre_jax.bench.frontend_cases import CASES, Case, signal
from genre_jax.bench.record import write_record
from genre_jax.console import UserError, say, unknown
from genre_jax.logbook import environment

ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds; the table shows medians over them.")
ONLY = flags.DEFINE_list("cases", [], f"Cases, of {', '.join(CASES)}; default: all that suit the device.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Use clips of a tenth of the length and two rounds; takes seconds.")
PEER_PYTHON = flags.DEFINE_string("peer_python", None, "Python interpreter that has the other libraries; default: this one.")
PLOT = flags.DEFINE_string("plot", None, "Measure nothing, and draw a figure of this JSON file beside it.")


def main(argv: list[str]) -> None:
    """Measure and print every row, or draw the rows of a JSON file."""
    del argv
    if PLOT.value:
        say(f"wrote {plot(Path(PLOT.value))}")
        return
    for name in ONLY.value:
        if name not in CASES:
            raise unknown("case", name, CASES)
    on_accelerator = jax.default_backend() != "cpu"
    chosen = ONLY.value or [name for name, case in CASES.items() if on_accelerator or not case.accelerator]
    peers = Side("genre_jax.bench.frontend_peers", PEER_PYTHON.value)
    machine = {"cpus": os.cpu_count()} | environment(**peers.versions())
    record: dict[str, Any] = {"benchmark": "frontends", "dry_run": DRY_RUN.value, "environment": machine, "rows": []}
    for name in chosen:
        record["rows"] += measure(name, CASES[name], peers)
        write_record(record)
    write_record(record | {"compile_s": {} if ONLY.value else compile_all()})
    peers.close()


def measure(name: str, case: Case, peers: Side) -> list[dict[str, Any]]:
    """Time and compare all contestants of a case; print and return their rows."""
    seconds = case.seconds / (10 if DRY_RUN.value else 1)
    y = signal(name, seconds)
    reference = _reference(case, y)
    contestants: dict[str, Local | Remote] = {}
    facts: dict[str, dict[str, Any]] = {}
    for engine in case.engines:
        label = f"genre_jax {engine}".strip()
        contestants[label], facts[label] = _ours(case, engine, y)
    contestants |= peers.build(name, seconds)
    outputs = {label: contestant.output() for label, contestant in contestants.items()}
    times: dict[str, list[float]] = {label: [] for label in contestants}
    for _ in range(2 if DRY_RUN.value else ROUNDS.value):
        for label, contestant in contestants.items():
            times[label].append(contestant.seconds())
    medians = {label: statistics.median(values) for label, values in times.items()}
    fastest = min(median for label, median in medians.items() if label in facts)
    say(f"\n{name}: {case.title}, {case.clips} × {seconds:g} s at {case.sr} Hz")
    say(f"{'':<20}{'median':>10}{'least':>10}{'× ours':>8}{'error':>10}{'peak MB':>10}{'memory ×':>10}{'compile':>10}")
    rows = []
    for label, contestant in contestants.items():
        row = {
            "case": name, "library": label, "clips": case.clips, "seconds_a_clip": seconds, "median_s": medians[label],
            "least_s": min(times[label]), "times_ours": medians[label] / fastest, "error": _error(outputs[label], reference),
            "difference": _error(outputs[label], next(iter(outputs.values()))),
            "peak_mb": contestant.peak_mb(), **facts.get(label, {}),
        }  # fmt: skip
        rows.append(row)
        compiled = f"{row['memory_times_in_and_out']:>10.2f}{row['compile_s']:>8.2f} s" if label in facts else ""
        peak = "" if row["peak_mb"] is None else f"{row['peak_mb']:,.0f}"
        say(
            f"{label:<20}{row['median_s'] * 1e3:>7.1f} ms{row['least_s'] * 1e3:>7.1f} ms{row['times_ours']:>8.2f}"
            f"{row['error']:>10.1e}{peak:>10}{compiled}"
        )
        if "bytes_a_second" in row:
            memory, compute = row["limits"] or (float("nan"), float("nan"))
            say(
                f"{'':<20}{row['bytes_a_second'] / 1e9:,.0f} of the card's {memory / 1e9:,.0f} GB/s, "
                f"{row['flops_a_second'] / 1e12:,.2f} of {compute / 1e12:g} TFLOP/s"
            )
    return rows


def compile_all() -> dict[str, float]:
    """Print and return the seconds that each front end of a config takes to compile, for four clips of 3 s."""
    say("\ncompilation of every front end, 4 × 3 s:")
    seconds = {}
    for name in frontends.FRONTENDS:
        front = frontends.build(name, 22_050)
        lowered = jax.jit(lambda y, front=front: front.init_with_output(jax.random.key(0), y)[0]).lower(jnp.zeros((4, 66_150)))
        started = time.perf_counter()
        lowered.compile()
        seconds[name] = time.perf_counter() - started
        say(f"{name:<20}{seconds[name]:>8.2f} s")
    return seconds


def _reference(case: Case, y: np.ndarray) -> np.ndarray:
    """Return the case's output for its first four clips in float64 on the CPU."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return np.asarray(case.ours(jnp.asarray(y[:4], jnp.float64), "fft"))


def _ours(case: Case, engine: str, y: np.ndarray) -> tuple[Local, dict[str, Any]]:
    """Return a contestant of this library, and the time and memory of its compilation."""
    signals = jax.device_put(np.round(y * 32768).astype(np.int16) if case.int16 else y)

    @jax.jit
    def function(y):
        return case.ours(y.astype(jnp.float32) / 32768 if case.int16 else y, engine)

    lowered = function.lower(signals)
    started = time.perf_counter()
    compiled = lowered.compile()
    facts: dict[str, Any] = {"compile_s": time.perf_counter() - started}
    memory: Any = compiled.memory_analysis()
    in_and_out = memory.argument_size_in_bytes + memory.output_size_in_bytes
    facts |= {"temporary_mb": memory.temp_size_in_bytes / 1e6, "in_and_out_mb": in_and_out / 1e6}
    facts["memory_times_in_and_out"] = (memory.temp_size_in_bytes + in_and_out) / in_and_out

    def run():
        return jax.block_until_ready(compiled(signals))

    if jax.default_backend() != "cpu":
        seconds = statistics.median(Local(run).seconds() for _ in range(5))
        cost = compiled.cost_analysis() or {}
        moved, flops = in_and_out / seconds, cost.get("flops", 0.0) / seconds
        card = cards.card()
        limits = (card.bytes_a_second, card.flops_a_second["float32"]) if card else None
        facts |= {"bytes_a_second": moved, "flops_a_second": flops, "limits": limits}
    return Local(run), facts


def _error(output: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest error relative to the peak of the reference, over its clips and the frames that both have."""
    frames = min(output.shape[1], reference.shape[1])
    difference = output[: len(reference), :frames] - reference[:, :frames]
    return float(np.abs(difference).max() / np.abs(reference).max())


def plot(path: Path) -> Path:
    """Draw each library's time relative to ours as bars, one panel per case; return the path of the PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if not path.is_file():
        raise UserError(f"--plot must name a JSON file that this benchmark wrote; {str(path)!r} is not one")
    rows = json.loads(path.read_text())["rows"]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure, axes = pyplot.subplots(1, len(cases), figsize=(4.4 * len(cases), 3.2), squeeze=False, layout="constrained")
    for axis, case in zip(axes[0], cases, strict=True):
        shown = [row for row in rows if row["case"] == case][::-1]
        colours = ["#1b6ca8" if "genre_jax" in row["library"] else "#b8b8b8" for row in shown]
        bars = axis.barh([row["library"] for row in shown], [row["times_ours"] for row in shown], color=colours)
        axis.bar_label(bars, [f" {row['median_s'] * 1e3:,.1f} ms" for row in shown], fontsize=8)
        axis.set(title=case, xlabel="time relative to ours", xlim=(0, 1.35 * max(row["times_ours"] for row in shown)))
        axis.axvline(1, color="black", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    out = path.with_suffix(".png")
    figure.savefig(out, dpi=140)
    pyplot.close(figure)
    return out
