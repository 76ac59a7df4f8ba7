"""Tests of the logs: a resumed run drops later and incomplete lines, and continues the count of seconds."""

import contextlib
import json

import pytest

from genre_jax.logbook import Logbook, clock, read_lines


def steps(path):
    return [line["step"] for line in read_lines(path)]


def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path):
    """Lines after the checkpoint at step 4, and an incomplete last line, are removed and written again."""
    metrics, timings = tmp_path / "metrics.jsonl", tmp_path / "timings.jsonl"
    first = Logbook(tmp_path, 0)
    for step in (2, 4, 6):
        first.metrics(step, "train", {"loss": 1 / step})
        first.timing(step, 100.0, 0.5)
    first.close()
    kept = metrics.read_text().splitlines()[:2]
    with metrics.open("a") as file:
        file.write('{"step": 8, "split": "tra')
    with timings.open("a") as file:
        file.write(json.dumps({"step": 7, "seconds": 1e6}) + "\n")
    second = Logbook(tmp_path, 4)
    assert metrics.read_text().splitlines() == kept
    second.metrics(6, "train", {"loss": 0.25})
    second.timing(6, 100.0, 0.5)
    second.close()
    assert steps(metrics) == steps(timings) == [2, 4, 6]
    assert read_lines(metrics)[-1] == {"step": 6, "split": "train", "loss": 0.25}


def test_seconds_add_up_over_restarts(tmp_path):
    (tmp_path / "timings.jsonl").write_text('{"step": 4, "seconds": 1000.0}\n{"step": 6, "seconds": 1500.0}\n')
    for step, seconds in ((4, 1000), (0, 0)):
        with contextlib.closing(Logbook(tmp_path, step)) as logbook:
            assert logbook.seconds == pytest.approx(seconds, abs=30)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (90061, "25:01:01")])
def test_clock(seconds, text):
    assert clock(seconds) == text
