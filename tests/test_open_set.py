"""Scores of songs outside the genres against closed forms and scikit-learn, and the command on a small run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
from conftest import CLASSES, small_config, write_tones
from scipy.special import expit, logsumexp, softmax

from genre_jax import config as configs
from genre_jax import open_set
from genre_jax.console import UserError
from genre_jax.data import locate, shards
from genre_jax.loop import train_and_evaluate

RNG = np.random.default_rng(0)


def test_scores_of_tracks():
    logits = np.concatenate([RNG.normal(scale=4, size=(9, 5)), [[800.0, 0, 0, 0, -800], [0, 0, 0, 0, 0]]])
    track = np.array([0, 2, 2, 0, 5, 5, 5, 2, 0, 7, 8])
    groups = [np.flatnonzero(track == number) for number in (0, 2, 5, 7, 8)]
    scores = open_set.track_scores(logits, track, "single")
    mean = np.array([softmax(logits[rows], 1).mean(0) for rows in groups])
    np.testing.assert_allclose(scores["probability"], mean.max(1), rtol=1e-12)
    np.testing.assert_allclose(scores["energy"], [logsumexp(logits[rows], 1).mean() for rows in groups], rtol=1e-12)
    entropy = [-sum(p * np.log(p) for p in row if p) for row in mean]
    np.testing.assert_allclose(-scores["entropy"], entropy, rtol=1e-12, atol=1e-12)
    assert -scores["entropy"][-1] == pytest.approx(np.log(5))
    scores = open_set.track_scores(logits, track, "multi")
    mean = np.array([expit(logits[rows]).mean(0) for rows in groups])
    np.testing.assert_allclose(scores["probability"], mean.max(1), rtol=1e-12)
    np.testing.assert_allclose(
        scores["energy"],
        [np.log1p(np.exp(np.minimum(logits[r], 700))).sum(1).mean() for r in groups[:3]] + [800 + 3 * np.log(2), 5 * np.log(2)],
    )
    entropy = [-sum(p * np.log(p) + (1 - p) * np.log1p(-p) for p in row if 0 < p < 1) for row in mean]
    np.testing.assert_allclose(-scores["entropy"], entropy, rtol=1e-9)


@pytest.mark.parametrize("known, unknown", [(20, 7), (33, 100), (1, 1), (101, 3)])
def test_comparison_equals_scikit_learn(known, unknown):
    """Rounded scores have ties."""
    table = {
        "known": {name: np.round(RNG.normal(1, 1, known), 1) for name in open_set.SCORES},
        "unknown": {name: np.round(RNG.normal(0, 1, unknown), 1) for name in open_set.SCORES},
    }
    targets = np.repeat([1, 0], [known, unknown])
    for name, row in open_set.compare(table["known"], table["unknown"]).items():
        values = np.concatenate([table["known"][name], table["unknown"][name]])
        assert row["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(targets, values))
        false, true, _ = sklearn.metrics.roc_curve(targets, values, drop_intermediate=False)
        assert row["fpr95"] == pytest.approx(false[np.argmax(true >= 0.95 - 1e-12)])
        assert row["known_mean"] == pytest.approx(table["known"][name].mean())


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_tones(folder)
    write_tones(folder, "strange", (("train", 2), ("test", 4)))
    return folder


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train_and_evaluate(small_config(data_dir, "snn", devices=1, evaluate__hop=1300), folder)
    return folder


def test_the_same_songs_get_the_same_scores(workdir, capsys):
    """Known and unknown are the same clips: their logits are those of predictions.npz, and the AUROC is one half."""
    result = open_set.open_set(workdir, "tones")
    out = capsys.readouterr().out
    assert result["unknown"] == "tones:test" and result["known_tracks"] == result["unknown_tracks"] == 8
    for row in result["scores"].values():
        assert row["auroc"] == pytest.approx(0.5, abs=1e-12)
        assert row["known_mean"] == pytest.approx(row["unknown_mean"], rel=1e-6)
    config = configs.read_json(workdir / "config.json")
    table = open_set.predict(workdir, config, open_set.unknown_index(config, "tones"))
    known = open_set.known_table(workdir)
    np.testing.assert_allclose(table["logits"], known["logits"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(table["track"], known["track"])
    assert "warning: 'tones' also has the class 'high' of the run" in out
    assert "8 known tracks, 8 unknown tracks of tones:test" in out and "\nenergy " in out
    assert json.loads((workdir / "open_set.json").read_text()) == result
    assert (workdir / "open_set.png").stat().st_size > 5000


def test_another_data_set(workdir):
    result = open_set.open_set(workdir, "strange:train")
    assert (result["known_tracks"], result["unknown_tracks"], result["unknown"]) == (8, 4, "strange:train")
    scores = result["scores"]
    table = open_set.known_table(workdir)
    known = open_set.track_scores(table["logits"], table["track"], "single")
    assert scores["energy"]["known_mean"] == pytest.approx(known["energy"].mean())
    assert 0 <= scores["energy"]["auroc"] <= 1


def test_classes_that_the_run_left_out(data_dir):
    index = shards.load_index(locate.directory(data_dir, "tones", 8000), "test")
    left = open_set.left_out(index, ["low", "noise"])
    assert [name.split("/")[1] for name in left.names] == ["high"] * 3 + ["mid"] * 3
    with pytest.raises(UserError, match=r"has only clips of the classes of the run"):
        open_set.left_out(index, list(CLASSES))
    with pytest.raises(UserError, match=r"the run learned all classes of its data set: name other songs by --unknown"):
        open_set.left_out(index, [])


def test_errors(workdir, tmp_path):
    with pytest.raises(UserError, match=r"predictions.npz is missing: the run must be finished"):
        open_set.open_set(tmp_path, "strange")
    with pytest.raises(UserError, match=r"unknown data set 'strang' \(did you mean 'strange'\?\)"):
        open_set.open_set(workdir, "strang")
    with pytest.raises(UserError, match=r"data set 'strange' has no split 'tst'"):
        open_set.open_set(workdir, "strange:tst")
    with pytest.raises(UserError, match=r"the run learned all classes"):
        open_set.open_set(workdir, "")


def test_the_command_needs_a_workdir(monkeypatch):
    monkeypatch.setattr(open_set.flags, "FLAGS", SimpleNamespace(workdir=None, unknown=""))
    with pytest.raises(UserError, match=r"--workdir=RUN is needed"):
        open_set.main(["open_set"])
