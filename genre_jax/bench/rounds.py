"""Compare contestants that run training steps: check that their losses agree, time them in turn, and summarise the times."""

import math
import statistics
from collections.abc import Callable, Collection
from typing import Any

from genre_jax.console import UserError, say

TIMED_SECONDS = 0.3  # the shortest time measured per contestant and round

# Label → an object whose ask("run", steps) returns (clock seconds, CPU seconds of all threads, loss of the last step).
Contestants = dict[str, Any]


def start(
    contestants: Contestants,
    ours: list[str],
    tolerance: float,
    coarse: Collection[str] = (),
    note: Callable[[str, dict[str, Any]], None] = lambda label, fact: None,
) -> dict[str, dict[str, Any]]:
    """Run two steps of each contestant, and compare their losses with those of the first contestant in `ours`.

    The decrease of the loss by the first update must agree to 10 % only. Adam's first update moves every parameter by the
    learning rate, however small its gradient is, and rounding can change the sign of a small gradient.

    Args:
      contestants: all contestants. A peer that cannot run is removed from this dict, and the reason is printed.
      ours: labels of our contestants.
      tolerance: largest relative difference of the first losses.
      coarse: labels of contestants whose large sums are inexact; only their first loss must agree, to ten times the tolerance.
      note: called with a label and its fact as soon as it is known, or with {"skipped": reason} for a peer that cannot run.

    Returns:
      For each contestant {"losses" of both steps, "compile_s", "step_s"}.

    Raises `UserError` if the losses differ.
    """
    facts: dict[str, dict[str, Any]] = {}
    for label in list(contestants):
        try:
            (before, _, loss), (seconds, _, updated) = (contestants[label].ask("run", 1) for _ in range(2))
        except UserError as error:
            if label in ours:
                raise
            say(f"{label} is skipped: {error}")
            note(label, {"skipped": str(error)})
            del contestants[label]
            continue
        facts[label] = {"losses": [loss, updated], "compile_s": max(0.0, before - seconds), "step_s": seconds}
        note(label, facts[label])
        say(f"{label}: loss {loss:.6f}, {updated:.6f} after an update; first step {before:.1f} s, second {seconds:.3f} s")
        expected = facts[ours[0]]["losses"]
        fall, expected_fall = loss - updated, expected[0] - expected[1]
        slack = math.inf if label in coarse else 0.1 * (abs(expected_fall) + tolerance * abs(loss))
        allowed = 10 * tolerance if label in coarse else tolerance
        if not (abs(loss / expected[0] - 1) <= allowed and abs(fall - expected_fall) <= slack):
            raise UserError(
                f"{label} computes other losses than {ours[0]} from the same weights and inputs: {loss:.6f} and {updated:.6f}, "
                f"not {expected[0]:.6f} and {expected[1]:.6f}"
            )
    return facts


Times = dict[str, list[float]]


def alternate(contestants: Contestants, facts: dict[str, dict[str, Any]], rounds: int) -> tuple[Times, Times]:
    """Return the clock seconds and the CPU seconds per step of each contestant, one value per round.

    The contestants run in turn. Each runs one step that is not timed, and then enough steps for `TIMED_SECONDS`.
    """
    counts = {label: math.ceil(TIMED_SECONDS / fact["step_s"]) for label, fact in facts.items()}
    clock: Times = {label: [] for label in contestants}
    cores: Times = {label: [] for label in contestants}
    for number in range(1, rounds + 1):
        for label, contestant in contestants.items():
            contestant.ask("run", 1)
            seconds, on_cores, _ = contestant.ask("run", counts[label])
            clock[label].append(seconds / counts[label])
            cores[label].append(on_cores / counts[label])
        say(f"round {number}/{rounds}: " + ", ".join(f"{label} {values[-1] * 1e3:.1f} ms" for label, values in clock.items()))
    return clock, cores


def summary(clock: Times, cores: Times, ours: list[str]) -> dict[str, dict[str, Any]]:
    """Return label → medians and quartiles of the seconds, and of their ratio per round to the fastest contestant in `ours`.

    "core_s" and "core_times_ours" are the medians of the CPU seconds and of their ratio.
    """
    fastest = min(ours, key=lambda label: statistics.median(clock[label]))
    rows: dict[str, dict[str, Any]] = {}
    for label, seconds in clock.items():
        ratios = [a / b for a, b in zip(seconds, clock[fastest], strict=True)]
        rows[label] = dict(zip(("lower_s", "median_s", "upper_s"), _quartiles(seconds), strict=True))
        rows[label] |= zip(("times_ours_lower", "times_ours", "times_ours_upper"), _quartiles(ratios), strict=True)
        rows[label]["core_s"] = statistics.median(cores[label])
        rows[label]["core_times_ours"] = statistics.median(a / b for a, b in zip(cores[label], cores[fastest], strict=True))
    return rows


def _quartiles(values: list[float]) -> list[float]:
    """Return the lower quartile, the median and the upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * values
