"""Contestants that run training steps: started, compared by their losses, timed in turn."""

import math
import statistics
from collections.abc import Collection
from typing import Any

from genre_jax.console import UserError, say

TIMED_SECONDS = 0.3  # at least, a contestant and round

# Label → what answers ask("run", steps) with (seconds, seconds of all its threads on a core, loss of the last step).
Contestants = dict[str, Any]


def start(
    contestants: Contestants, own: list[str], tolerance: float, coarse: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Two steps each, the first of which compiles; the losses must be those of the first of our `own`.

    The first loss to `tolerance`, relative; the fall by the first update to a tenth, for Adam's moves every parameter by the
    rate, however small its gradient, so that one that rounds to another sign counts in full. Contestants in `coarse` add up
    large sums coarsely: theirs need have the first loss alone, to ten times the tolerance.

    A peer that cannot run is taken out of `contestants` with a sentence. Returns {"losses" of both steps, "compile_s",
    "step_s"} of the others; raises `UserError` where losses differ.
    """
    facts: dict[str, dict[str, Any]] = {}
    for label in list(contestants):
        try:
            (before, _, loss), (seconds, _, updated) = (contestants[label].ask("run", 1) for _ in range(2))
        except UserError as error:
            if label in own:
                raise
            say(f"{label} is left out: {error}")
            del contestants[label]
            continue
        facts[label] = {"losses": [loss, updated], "compile_s": max(0.0, before - seconds), "step_s": seconds}
        say(f"{label}: loss {loss:.6f}, {updated:.6f} after an update; first step {before:.1f} s, second {seconds:.3f} s")
        expected = facts[own[0]]["losses"]
        fall, expected_fall = loss - updated, expected[0] - expected[1]
        slack = math.inf if label in coarse else 0.1 * (abs(expected_fall) + tolerance * abs(loss))
        allowed = 10 * tolerance if label in coarse else tolerance
        if not (abs(loss / expected[0] - 1) <= allowed and abs(fall - expected_fall) <= slack):
            raise UserError(
                f"{label} computes other losses than {own[0]} from the same weights and inputs, {loss:.6f} and {updated:.6f} "
                f"for {expected[0]:.6f} and {expected[1]:.6f}: their times would not compare"
            )
    return facts


Times = dict[str, list[float]]


def alternate(contestants: Contestants, facts: dict[str, dict[str, Any]], rounds: int) -> tuple[Times, Times]:
    """Seconds a step of each contestant, by the clock and on all cores together, a number a round.

    Short steps are timed many at once, all after one that is not.
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


def summary(clock: Times, cores: Times, own: list[str]) -> dict[str, dict[str, Any]]:
    """Label → medians and quartiles, of seconds and of their ratio, round by round, to the fastest of our `own`.

    "core_s" and "core_times_ours" are the medians of the seconds on all cores and of their ratio.
    """
    fastest = min(own, key=lambda label: statistics.median(clock[label]))
    found: dict[str, dict[str, Any]] = {}
    for label, seconds in clock.items():
        ratios = [a / b for a, b in zip(seconds, clock[fastest], strict=True)]
        found[label] = dict(zip(("lower_s", "median_s", "upper_s"), _quartiles(seconds), strict=True))
        found[label] |= zip(("times_ours_lower", "times_ours", "times_ours_upper"), _quartiles(ratios), strict=True)
        found[label]["core_s"] = statistics.median(cores[label])
        found[label]["core_times_ours"] = statistics.median(a / b for a, b in zip(cores[label], cores[fastest], strict=True))
    return found


def _quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * values
