"""Calibration and thresholds against scikit-learn, and against small tables that were worked by hand."""

import math

import numpy as np
import pytest

from genre_jax import calibration, metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")
sklearn_calibration = pytest.importorskip("sklearn.calibration")


def probabilities_and_targets(seed: int, examples: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return metrics.softmax(2 * rng.normal(size=(examples, classes))), rng.integers(0, classes, examples)


@pytest.mark.parametrize("bins", [1, 7, 15])
@pytest.mark.parametrize("examples", [1, 13, 500])
def test_reliability_equals_scikit_learn(bins, examples):
    rng = np.random.default_rng(bins * examples)
    confidence = np.round(rng.random(examples), 1)  # many values are edges of bins
    correct = rng.random(examples) < confidence
    curve = calibration.reliability(confidence, correct, bins)
    accuracy, mean = sklearn_calibration.calibration_curve(correct, confidence, n_bins=bins, pos_label=True)
    used = curve.examples > 0
    np.testing.assert_allclose(curve.accuracy[used], accuracy)
    np.testing.assert_allclose(curve.confidence[used], mean)
    assert curve.examples.sum() == examples and np.isnan(curve.accuracy[~used]).all()
    np.testing.assert_allclose(curve.centre, (np.arange(bins) + 0.5) / bins)


def test_calibration_error_worked_by_hand():
    confidence = np.array([0.5, 0.45, 0.9, 1.0, 0.0])  # 0.5 is the upper edge of its bin
    curve = calibration.reliability(confidence, np.array([True, False, True, False, False]), bins=2)
    assert curve.examples.tolist() == [3, 2]
    expected = (3 * abs(1 / 3 - 0.95 / 3) + 2 * abs(1 / 2 - 0.95)) / 5
    assert calibration.expected_calibration_error(curve) == pytest.approx(expected)
    assert math.isnan(calibration.expected_calibration_error(calibration.reliability(np.zeros(0), np.zeros(0, bool))))


def test_a_calibrated_source_has_no_error_and_an_overconfident_source_has():
    confidence = np.repeat(np.arange(1, 10) / 10, 1000)
    correct = np.concatenate([np.arange(1000) < 100 * tenth for tenth in range(1, 10)])
    assert calibration.expected_calibration_error(calibration.reliability(confidence, correct, 10)) < 1e-12
    sure = calibration.reliability(np.ones(9000), correct, 10)
    assert calibration.expected_calibration_error(sure) == pytest.approx(0.5)


def test_confidences_of_a_single_label_task():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.45, 0.45], [0.2, 0.2, 0.6], [0.0, 0.0, 1.0]])
    confidence, correct = calibration.confidences(np.array([0, 2, -1, 2]), probabilities)
    assert confidence.tolist() == [0.7, 0.45, 1.0] and correct.tolist() == [True, False, True]  # a tie: the lowest class


def test_pairs_of_a_multi_label_task():
    probability, label = calibration.pairs(np.array([[1, 0], [1, 1]]), np.array([[0.9, 0.2], [0.3, 0.6]]))
    assert probability.tolist() == [0.9, 0.2, 0.3, 0.6] and label.tolist() == [True, False, True, True]


@pytest.mark.parametrize("examples, classes", [(1, 2), (19, 3), (200, 11)])
def test_brier_score_equals_scikit_learn(examples, classes):
    probabilities, target = probabilities_and_targets(examples, examples, classes)
    expected = sklearn_metrics.brier_score_loss(target, probabilities, labels=list(range(classes)), scale_by_half=False)
    assert calibration.brier_score(target, probabilities) == pytest.approx(expected, abs=1e-12)
    unlabelled = np.append(target, -1), np.vstack([probabilities, probabilities[:1]])
    assert calibration.brier_score(*unlabelled) == pytest.approx(expected, abs=1e-12)
    labels = np.eye(classes)[target]
    pairs = calibration.pairs(labels, probabilities)
    binary = sklearn_metrics.brier_score_loss(labels.ravel(), probabilities.ravel(), pos_label=1)
    assert calibration.brier_score_of_pairs(*pairs) == pytest.approx(binary, abs=1e-12)


def test_brier_scores_without_examples():
    assert math.isnan(calibration.brier_score(np.array([-1]), np.array([[0.5, 0.5]])))
    assert math.isnan(calibration.brier_score_of_pairs(*calibration.pairs(np.zeros((0, 3)), np.zeros((0, 3)))))


@pytest.mark.parametrize("levels", [1, 3, 20, 10**9])
@pytest.mark.parametrize("examples", [1, 8, 201])
def test_thresholds_have_the_best_f1_of_scikit_learn(levels, examples):
    rng = np.random.default_rng(levels + examples)
    labels = (rng.random((examples, 5)) < 0.3).astype(np.uint8)
    labels[:, 0], labels[:, 1] = 0, 1
    probabilities = (rng.integers(0, levels, labels.shape) / levels + 0.3 * labels).astype(np.float32)
    chosen = calibration.thresholds(labels, probabilities)
    assert math.isnan(chosen.threshold[0]) and math.isnan(chosen.f1[0]) and math.isnan(chosen.recall[0])
    for column in np.flatnonzero(labels.any(axis=0)):
        truth, scores = labels[:, column], probabilities[:, column]
        precision, recall, values = sklearn_metrics.precision_recall_curve(truth, scores)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
        assert chosen.f1[column] == pytest.approx(f1.max(), abs=1e-12)
        assert chosen.threshold[column] == pytest.approx(values[np.flatnonzero(np.isclose(f1[:-1], f1.max()))].max())
        answers = scores >= chosen.threshold[column]
        expected = sklearn_metrics.precision_recall_fscore_support(truth, answers, average="binary", zero_division=0)
        found = (chosen.precision[column], chosen.recall[column], chosen.f1[column])
        assert found == pytest.approx(expected[:3], abs=1e-12)


def test_thresholds_are_applied_to_another_split():
    threshold = np.array([0.5, np.nan, 0.2])  # the second class had no positives where the thresholds were chosen
    labels = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
    probabilities = np.array([[0.5, 0.9, 0.3], [0.6, 0.1, 0.1], [0.4, 0.2, 0.1]])
    found = calibration.apply_thresholds(labels, probabilities, threshold)
    np.testing.assert_allclose(found.precision, [0.5, 0, 0])
    np.testing.assert_allclose(found.recall, [0.5, 0, np.nan])
    np.testing.assert_allclose(found.f1, [0.5, 0, np.nan])


def test_thresholds_without_examples():
    chosen = calibration.thresholds(np.zeros((0, 2)), np.zeros((0, 2)))
    assert np.isnan(chosen.threshold).all() and np.isnan(chosen.f1).all()
