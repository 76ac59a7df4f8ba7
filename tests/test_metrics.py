"""Scores against scikit-learn on grids with ties and empty classes; voting rules on small cases worked by hand."""

import json
import math

import numpy as np
import pytest

from genre_jax import metrics
from genre_jax.console import UserError

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def labels_and_scores(seed: int, examples: int, classes: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Multi-hot labels and scores with `levels` distinct values; few levels give many ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((examples, classes)) < 0.3).astype(np.uint8)
    return labels, rng.integers(0, levels, (examples, classes)) / levels


@pytest.mark.parametrize("classes", [2, 5, 11])
@pytest.mark.parametrize("examples", [1, 7, 200])
def test_confusion_and_f1_equal_scikit_learn(classes, examples):
    rng = np.random.default_rng(classes * examples)
    targets = rng.integers(0, max(1, classes - 1), examples)  # the last class has no examples
    predictions = np.where(rng.random(examples) < 0.5, targets, rng.integers(0, classes, examples))
    confusion = metrics.confusion_matrix(targets, predictions, classes)
    every = np.arange(classes)
    np.testing.assert_array_equal(confusion, sklearn_metrics.confusion_matrix(targets, predictions, labels=every))
    ours = metrics.precision_recall_f1(confusion)
    theirs = sklearn_metrics.precision_recall_fscore_support(targets, predictions, labels=every, zero_division=0)
    for name, expected in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        np.testing.assert_allclose(ours[name], expected, atol=1e-12, err_msg=name)
    macro = metrics.macro_precision_recall_f1(confusion)
    expected = sklearn_metrics.precision_recall_fscore_support(targets, predictions, average="macro", zero_division=0)
    np.testing.assert_allclose([macro["precision"], macro["recall"], macro["f1"]], expected[:3], atol=1e-12)
    assert metrics.accuracy(targets, predictions) == pytest.approx(sklearn_metrics.accuracy_score(targets, predictions))


@pytest.mark.parametrize("levels", [1, 3, 10, 10**9])
@pytest.mark.parametrize("examples", [2, 9, 300])
def test_ranking_scores_equal_scikit_learn(levels, examples):
    labels, scores = labels_and_scores(levels + examples, examples, 6, levels)
    labels[:, 0] = 0  # no positives
    labels[:, 1] = 1  # no negatives
    labels[0, 2:], labels[1, 2:] = 1, 0
    precision, area = metrics.average_precision(labels, scores), metrics.roc_auc(labels, scores)
    assert math.isnan(precision[0]) and math.isnan(area[0]) and math.isnan(area[1])
    assert precision[1] == 1
    for column in range(1, 6):
        expected = sklearn_metrics.average_precision_score(labels[:, column], scores[:, column])
        assert precision[column] == pytest.approx(expected, abs=1e-12)
    for column in range(2, 6):
        expected = sklearn_metrics.roc_auc_score(labels[:, column], scores[:, column])
        assert area[column] == pytest.approx(expected, abs=1e-12)
    mean, left_out = metrics.mean_average_precision(labels, scores)
    assert left_out == 1
    assert mean == pytest.approx(sklearn_metrics.average_precision_score(labels[:, 1:], scores[:, 1:]), abs=1e-12)


def test_d_prime_is_the_inverse_of_the_normal_distribution():
    # The ROC area of two unit normals at distance d is Phi(d / sqrt(2)).
    distances = np.array([-3.0, 0.0, 0.5, 2.72])
    areas = [0.5 * (1 + math.erf(d / 2)) for d in distances]
    np.testing.assert_allclose(metrics.d_prime(np.array(areas)), distances, atol=1e-9)
    np.testing.assert_array_equal(metrics.d_prime(np.array([0.0, 1.0, np.nan])), [-np.inf, np.inf, np.nan])


def test_top_k_accuracy_predicts_as_many_classes_as_there_are_labels():
    labels = np.array([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    scores = np.array([[0.9, 0.1, 0.8, 0.0], [0.0, 0.0, 0.1, 0.7], [1.0, 0.0, 0.0, 0.0]])
    assert metrics.top_k_accuracy(labels, scores) == pytest.approx(2 / 3)  # one of two labels, one of one, no label
    assert math.isnan(metrics.top_k_accuracy(labels[2:], scores[2:]))
    tied = np.zeros((1, 4))
    assert metrics.top_k_accuracy(np.array([[1, 0, 0, 0]]), tied) == 1  # ties go to the lowest class
    assert metrics.top_k_accuracy(np.array([[0, 1, 0, 0]]), tied) == 0


def test_top_k_accuracy_of_single_labels_is_accuracy():
    rng = np.random.default_rng(0)
    targets, scores = rng.integers(0, 5, 100), rng.random((100, 5))
    expected = sklearn_metrics.top_k_accuracy_score(targets, scores, k=1, labels=np.arange(5))
    assert metrics.top_k_accuracy(np.eye(5)[targets], scores) == pytest.approx(expected)


def test_probabilities_survive_large_logits():
    logits = np.array([[1e4, 0.0, -1e4]], np.float32)
    np.testing.assert_allclose(metrics.softmax(logits), [[1, 0, 0]])
    np.testing.assert_allclose(metrics.sigmoid(logits), [[1, 0.5, 0]])
    np.testing.assert_allclose(metrics.sigmoid(np.log([0.25 / 0.75])), [0.25], rtol=1e-12)


def test_the_three_votes_can_disagree():
    # Group 7: a large logit for class 0, a confident window for class 2 and a narrow win of class 2.
    logits = np.array([[9.0, 6.0, 0.0], [0.0, 0.2, 3.0], [1.0, 0.0, 1.1], [0.0, 5.0, 0.0]])
    answers = metrics.votes(logits, np.array([7, 7, 7, 3]))
    assert [answers[rule].tolist() for rule in metrics.VOTES] == [[1, 0], [1, 0], [1, 2]]
    found = metrics.votes(np.array([[9.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), np.zeros(3, int))
    assert {rule: int(value[0]) for rule, value in found.items()} == {
        "max_logit": 0,
        "max_probability": 1,
        "majority": 1,
    }


def test_ties_go_to_the_lowest_class():
    logits = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    assert all(value.tolist() == [1] for value in metrics.votes(logits, np.zeros(2, int)).values())


def test_votes_do_not_depend_on_the_order_of_windows():
    rng = np.random.default_rng(1)
    logits, groups = rng.normal(size=(60, 4)), rng.integers(0, 9, 60)
    shuffled = rng.permutation(60)
    for rule, scores in metrics.vote_scores(logits, groups).items():
        np.testing.assert_allclose(metrics.vote_scores(logits[shuffled], groups[shuffled])[rule], scores, atol=1e-12)
        by_hand = {"max_logit": logits, "max_probability": metrics.softmax(logits)}.get(rule)
        if by_hand is not None:
            np.testing.assert_allclose(scores[3], by_hand[groups == np.unique(groups)[3]].sum(0), atol=1e-12)


def test_summary_of_a_single_label_run():
    logits = np.array([[9, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 1]], np.float32)
    labels = np.eye(3, dtype=np.uint8)[[1, 1, 1, 2]]
    loss, clip, track = np.array([4, 2, 1, 1]), np.array([0, 0, 1, 2]), np.array([0, 0, 0, 1])
    found = metrics.summarise(logits, labels, loss, clip, track, "single")
    assert json.loads(json.dumps(found)) == found
    assert found["loss"] == 2
    assert found["raw"] == {"accuracy": 0.75}
    assert {rule: entry["accuracy"] for rule, entry in found["clip"].items()} == {
        "max_logit": pytest.approx(2 / 3),
        "max_probability": pytest.approx(2 / 3),
        "majority": pytest.approx(2 / 3),
    }
    assert {rule: entry["accuracy"] for rule, entry in found["track"].items()} == {
        "max_logit": 0.5,
        "max_probability": 1.0,
        "majority": 1.0,
    }


def test_summary_of_a_multi_label_run():
    labels, _ = labels_and_scores(5, 40, 4, 3)
    labels[:, 3] = 0
    labels[:, :3] |= np.eye(3, dtype=np.uint8)[np.arange(40) % 3]
    logits = np.random.default_rng(2).normal(size=(40, 4)).astype(np.float32)
    clip = np.repeat(np.arange(20), 2)
    labels = np.repeat(labels[:20], 2, axis=0)
    found = metrics.summarise(logits, labels, np.ones(40), clip, clip, "multi")
    assert json.loads(json.dumps(found)) == found
    probabilities = (1 / (1 + np.exp(-logits.astype(np.float64)))).reshape(20, 2, 4).mean(axis=1)
    expected = sklearn_metrics.average_precision_score(labels[::2, :3], probabilities[:, :3])
    assert found["clip"] == found["track"]
    assert found["clip"]["mean_average_precision"] == pytest.approx(expected)
    assert found["clip"]["classes_without_positives"] == 1
    assert found["raw"]["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels[:, :3], logits[:, :3]))


def test_undefined_scores_are_none_in_a_summary():
    nothing = np.zeros((3, 2), np.uint8)
    found = metrics.summarise(np.zeros((3, 2)), nothing, np.full(3, np.nan), np.arange(3), np.arange(3), "multi")
    assert found["loss"] is None
    assert found["raw"].pop("classes_without_positives") == 2
    assert list(found["raw"].values()) == [None, None, None]


def test_an_empty_table_has_a_summary():
    none = np.zeros(0, np.int32)
    found = metrics.summarise(np.zeros((0, 3)), np.zeros((0, 3)), none, none, none, "single")
    assert found["raw"] == {"accuracy": None} and found["track"]["majority"] == {"accuracy": None}


def test_unknown_task():
    none = np.zeros(0, np.int32)
    sentence = r"unknown task 'singel' \(did you mean 'single'\?\): choose one of multi, single"
    with pytest.raises(UserError, match=sentence):
        metrics.summarise(np.zeros((0, 3)), np.zeros((0, 3)), none, none, none, "singel")


@pytest.mark.parametrize("share, count, low, high", [(0.5, 10, 0.2366, 0.7634), (0, 20, 0, 0.1611), (1, 5, 0.5655, 1)])
def test_wilson_interval(share, count, low, high):  # values of statsmodels' proportion_confint(method="wilson")
    assert metrics.wilson_interval(share, count) == pytest.approx((low, high), abs=1e-4)
    assert all(math.isnan(bound) for bound in metrics.wilson_interval(math.nan, 0))
