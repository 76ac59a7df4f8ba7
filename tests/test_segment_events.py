"""Segment- and event-based scores have the values of sed_eval."""

import json
import math
import sys

import pytest
from conftest import ROOT

from genre_jax.segment.events import EventScores, SegmentScores

GOLDEN = json.loads((ROOT / "tests/golden/sed_eval.json").read_text())


def ours(labels, files) -> dict:
    metrics = {"segment": SegmentScores(labels), "event": EventScores(labels), "onset": EventScores(labels, offsets=False)}
    for reference, found in files:
        for metric in metrics.values():
            metric.add([tuple(event) for event in reference], [tuple(event) for event in found])
    return {name: {"overall": metric.overall(), "by_class": metric.by_class()} for name, metric in metrics.items()}


@pytest.mark.parametrize("kind", ["segment", "event", "onset"])
def test_scores_are_those_of_sed_eval(kind):
    found, golden = ours(GOLDEN["labels"], GOLDEN["files"])[kind], GOLDEN["scores"][kind]
    assert found["overall"] == pytest.approx(golden["overall"], rel=1e-12)
    assert found["by_class"].keys() == golden["by_class"].keys()
    for label, values in golden["by_class"].items():
        assert found["by_class"][label] == pytest.approx(values, rel=1e-12), label
        assert 0.1 < values["f_measure"] < 1


@pytest.mark.filterwarnings("ignore")
def test_an_installed_sed_eval_gives_the_golden_scores_and_ours_on_other_recordings():
    pytest.importorskip("sed_eval")
    sys.path.insert(0, str(ROOT / "tests/golden"))
    import make_sed_eval

    files = make_sed_eval.recordings(0)
    assert json.loads(json.dumps(files)) == GOLDEN["files"]
    assert make_sed_eval.scores(files) == GOLDEN["scores"]
    for seed in range(1, 6):
        files = make_sed_eval.recordings(seed)
        found, theirs = ours(make_sed_eval.LABELS, files), make_sed_eval.scores(files)
        for kind in theirs:
            assert found[kind]["overall"] == pytest.approx(theirs[kind]["overall"], rel=1e-12)
            for label, values in theirs[kind]["by_class"].items():
                assert found[kind]["by_class"][label] == pytest.approx(values, rel=1e-12)


def test_rates_of_nothing_are_not_a_number():
    scores = SegmentScores(["music"])
    scores.add([], [])
    assert math.isnan(scores.overall()["error_rate"]) and math.isnan(scores.overall()["precision"])
    scores.add([(0.0, 2.0, "music")], [])
    assert scores.overall()["error_rate"] == scores.overall()["deletion_rate"] == 1 and scores.overall()["recall"] == 0
