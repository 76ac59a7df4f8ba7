"""Scores against scikit-learn, or the definition, on grids with ties and empty classes; voting rules on small cases worked by hand."""

import json
import math
import statistics

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


def test_top_k_accuracy_equals_a_loop_with_ties():
    labels, scores = labels_and_scores(3, 77, 9, 4)
    labels[5] = 0
    hits, counts = metrics.top_k_hits(labels, scores)
    for row in range(77):
        largest = np.argsort(-scores[row], kind="stable")[: labels[row].sum()]
        assert (hits[row], counts[row]) == (labels[row, largest].sum(), labels[row].sum())


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9])
def test_top_n_accuracy_equals_scikit_learn(n):
    rng = np.random.default_rng(n)
    target, scores = rng.integers(0, 6, 51), rng.random((51, 6))
    target[:6] = np.arange(6)
    expected = 1.0 if n >= 6 else sklearn_metrics.top_k_accuracy_score(target, scores, k=n, labels=np.arange(6))
    assert metrics.top_n_accuracy(metrics.Examples(target, one_hot(target, 6), scores), n) == pytest.approx(expected)


def test_ties_of_top_n_accuracy_go_to_the_lowest_class():
    scores = np.array([[1, 3, 3, 2], [1, 3, 3, 2], [0, 0, 0, 0], [9, 8, 7, 6]])
    target = np.array([1, 2, 3, -1])  # the last example has no label
    examples = metrics.Examples(target, one_hot(target, 4), scores)
    assert [metrics.top_n_accuracy(examples, n) for n in (1, 2, 3, 4)] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])
    assert math.isnan(metrics.top_n_accuracy(metrics.Examples(target[3:], one_hot(target[3:], 4), scores[3:]), 1))


def test_examples_without_label_do_not_count():
    target, answers = np.array([2, -1, 0, 1]), np.array([2, 1, 1, 1])
    assert metrics.accuracy(target, answers) == pytest.approx(2 / 3)
    np.testing.assert_array_equal(metrics.confusion_matrix(target, answers, 3), [[0, 1, 0], [0, 1, 0], [0, 0, 1]])
    assert math.isnan(metrics.accuracy(target[1:2], answers[1:2]))


def direct_lwlrap(labels: np.ndarray, scores: np.ndarray) -> float:
    """The definition of DCASE 2019 task 2: for each label, the share of labels among the classes that rank as high."""
    precisions = []
    for truth, row in zip(labels, scores, strict=True):
        for positive in np.flatnonzero(truth):
            above = [other for other in range(len(row)) if row[other] >= row[positive]]
            precisions.append(sum(bool(truth[other]) for other in above) / len(above))
    return float(np.mean(precisions))


@pytest.mark.parametrize("levels", [1, 4, 10**9])
@pytest.mark.parametrize("examples, classes", [(1, 3), (23, 7), (301, 2)])
def test_lwlrap_equals_its_definition_and_scikit_learn(levels, examples, classes):
    labels, scores = labels_and_scores(levels + examples, examples, classes, levels)
    labels[0, 1] = 1
    found = metrics.lwlrap(labels, scores)
    assert found == pytest.approx(direct_lwlrap(labels, scores), abs=1e-12)
    some = labels.any(axis=1)  # scikit-learn gives an example without labels the precision 1
    rank = sklearn_metrics.label_ranking_average_precision_score
    assert found == pytest.approx(rank(labels[some], scores[some], sample_weight=labels[some].sum(axis=1)), abs=1e-12)
    assert math.isnan(metrics.lwlrap(labels[:0], scores[:0])) and math.isnan(metrics.lwlrap(0 * labels, scores))


def test_lwlrap_worked_by_hand():
    # The labels 0 and 3 have the ranks 1 and 3, with the precisions 1/1 and 2/3; label 2 of the second row has rank 2.
    labels = np.array([[1, 0, 0, 1], [0, 0, 1, 0]])
    scores = np.array([[0.9, 0.5, 0.1, 0.3], [0.1, 0.6, 0.4, 0.2]])
    assert metrics.lwlrap(labels, scores) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)


def test_scores_do_not_depend_on_the_size_of_blocks(monkeypatch):
    labels, scores = labels_and_scores(6, 200, 5, 30)
    clip = np.arange(200) // 3
    table = a_table(scores, labels.argmax(1), clip, clip // 2, labels)
    whole = [metrics.summarise(table, task) for task in ("single", "multi")]
    monkeypatch.setattr(metrics, "_BLOCK", 1)  # a row at a time
    for task, expected in zip(("single", "multi"), whole, strict=True):
        found = metrics.summarise(table, task)
        assert found["raw"] == pytest.approx(expected["raw"], rel=1e-12)
        level, other = (x["track"] if task == "multi" else x["track"]["max_probability"] for x in (found, expected))
        assert level == pytest.approx(other, rel=1e-12)


def test_thresholds_are_counted_as_in_scikit_learn():
    labels, scores = labels_and_scores(12, 91, 1, 8)
    values, hits, accepted, equal = metrics.threshold_counts(labels[:, 0] > 0, scores[:, 0])
    precision, recall, expected = sklearn_metrics.precision_recall_curve(labels[:, 0], scores[:, 0])
    place = np.searchsorted(expected, values)
    np.testing.assert_array_equal(values, np.unique(scores[labels > 0])[::-1])
    np.testing.assert_allclose(hits / accepted, precision[place])
    np.testing.assert_allclose(hits / hits[-1], recall[place])
    np.testing.assert_array_equal(equal, [(scores == value).sum() for value in values])


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


def test_the_target_of_a_group_is_the_most_frequent():
    groups = np.array([5, 5, 5, 5, 2, 2, 9, 9, 9, 7])
    target = np.array([3, 1, 1, -1, 4, 0, -1, -1, 2, -1])  # group 2 is a tie; a window without label does not count
    assert metrics.group_targets(target, groups).tolist() == [0, 1, -1, 2]
    assert metrics.group_targets(target[:0], groups[:0]).tolist() == []


@pytest.mark.parametrize("most", [1, 2, 40])  # a window a group, a few, groups that span blocks
def test_groups_equal_a_loop(most, monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK", 64)  # blocks of 12 rows
    rng = np.random.default_rng(most)
    groups = rng.permutation(np.repeat(rng.permutation(np.arange(30)) * 7, rng.integers(1, most + 1, 30)))
    logits = rng.normal(size=(len(groups), 5)).astype(np.float32)
    labels = (rng.random(logits.shape) < 0.1).astype(np.uint8)
    numbers, sums = metrics.group_sums(logits, groups)
    assert numbers.tolist() == sorted(set(groups.tolist()))
    parts = [np.flatnonzero(groups == number) for number in numbers]
    np.testing.assert_allclose(sums, [logits[part].sum(0, dtype=np.float64) for part in parts], atol=1e-12)
    union = metrics.group_labels(labels, groups)
    assert union.dtype == np.uint8
    np.testing.assert_array_equal(union, [labels[part].max(0) for part in parts])
    for task, probability in (("single", metrics.softmax), ("multi", metrics.sigmoid)):
        expected = [probability(logits[part]).mean(0) for part in parts]
        np.testing.assert_allclose(metrics.group_probabilities(logits, groups, task), expected, atol=1e-12)
    majority = [np.bincount(logits[part].argmax(1), minlength=5) for part in parts]
    np.testing.assert_array_equal(metrics.vote_scores(logits, groups)["majority"], majority)


def one_hot(target, classes: int) -> np.ndarray:
    """Labels with the target of each row; none where it is -1."""
    return (np.asarray(target)[:, None] == np.arange(classes)).astype(np.uint8)


def a_table(logits, target, clip, track, labels=None) -> dict:
    """A table of predictions; the labels are the targets if none are given."""
    logits, target = np.asarray(logits, np.float32), np.asarray(target, np.int32)
    labels = one_hot(target, logits.shape[1]) if labels is None else labels
    loss = np.arange(len(logits), dtype=np.float32)
    return {"logits": logits, "labels": labels, "target": target, "loss": loss} | {
        "clip": np.asarray(clip, np.int32),
        "track": np.asarray(track, np.int32),
    }


def test_summary_of_a_single_label_run():
    logits = [[9, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 1]]
    table = a_table(logits, [1, 1, 1, 2], [0, 0, 1, 2], [0, 0, 0, 1])
    found = metrics.summarise(table | {"classes": np.array(["jazz", "rock", "pop"])}, "single")
    assert json.loads(json.dumps(found)) == found
    assert found["loss"] == 1.5
    assert found["raw"].pop("macro_f1") == pytest.approx((0 + 0.8 + 1) / 3)
    assert found["raw"].pop("macro_recall") == pytest.approx((0 + 2 / 3 + 1) / 3)
    assert found["raw"].pop("macro_precision") == pytest.approx(2 / 3)
    assert found["raw"] == {"accuracy": 0.75, "top_k_accuracy": 0.75}
    for metric in ("accuracy", "top_k_accuracy"):
        clips = {rule: entry[metric] for rule, entry in found["clip"].items()}
        assert clips == dict.fromkeys(metrics.VOTES, pytest.approx(2 / 3))
        tracks = {rule: entry[metric] for rule, entry in found["track"].items()}
        assert tracks == {"max_logit": 0.5, "max_probability": 1.0, "majority": 1.0}
    assert found["classes"]["jazz"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert found["classes"]["rock"] == {"precision": 1, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8), "support": 3}
    assert list(metrics.summarise(table, "single")["classes"]) == ["0", "1", "2"]


def test_a_single_label_run_is_scored_by_all_labels():
    """Softmax trains on the target; micro top-k counts all labels, as document 000 does for cross-entropy."""
    rng = np.random.default_rng(4)
    target = rng.integers(-1, 6, 90)
    labels = one_hot(target, 6) | (rng.random((90, 6)) < 0.3).astype(np.uint8)
    labels[target < 0] = 0
    logits, clip = rng.normal(size=(90, 6)), np.arange(90) // 3
    found = metrics.summarise(a_table(logits, target, clip, clip // 2, labels), "single")
    labelled = target >= 0
    answers = logits.argmax(1)
    assert found["raw"]["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(target[labelled], answers[labelled]))
    expected = sklearn_metrics.f1_score(target[labelled], answers[labelled], average="macro")
    assert found["raw"]["macro_f1"] == pytest.approx(expected)
    for scores, truth, value in (
        (logits, labels, found["raw"]),
        (logits.reshape(30, 3, 6).sum(1), labels.reshape(30, 3, 6).max(1), found["clip"]["max_logit"]),
        (logits.reshape(15, 6, 6).sum(1), labels.reshape(15, 6, 6).max(1), found["track"]["max_logit"]),
    ):
        hits = sum(bool(row[c]) for row, s in zip(truth, scores, strict=True) for c in np.argsort(-s)[: row.sum()])
        assert value["top_k_accuracy"] == pytest.approx(hits / truth.sum())


def test_summary_of_a_multi_label_run():
    labels, _ = labels_and_scores(5, 40, 4, 3)
    labels[:, 3] = 0
    labels[:, :3] |= np.eye(3, dtype=np.uint8)[np.arange(40) % 3]
    logits = np.random.default_rng(2).normal(size=(40, 4)).astype(np.float32)
    clip = np.repeat(np.arange(20), 2)
    labels = np.repeat(labels[:20], 2, axis=0)
    table = a_table(logits, np.full(40, -1), clip, clip, labels)
    found = metrics.summarise(table, "multi")
    assert json.loads(json.dumps(found)) == found and "classes" not in found
    probabilities = (1 / (1 + np.exp(-logits.astype(np.float64)))).reshape(20, 2, 4).mean(axis=1)
    expected = sklearn_metrics.average_precision_score(labels[::2, :3], probabilities[:, :3])
    assert found["clip"] == found["track"]
    assert found["clip"]["mean_average_precision"] == pytest.approx(expected)
    assert found["clip"]["classes_without_positives"] == 1
    area = sklearn_metrics.roc_auc_score(labels[:, :3], logits[:, :3])
    assert found["raw"]["roc_auc"] == pytest.approx(area)
    assert found["raw"]["d_prime"] == pytest.approx(2**0.5 * statistics.NormalDist().inv_cdf(area))
    assert found["raw"]["lwlrap"] == pytest.approx(direct_lwlrap(labels, logits))
    assert metrics.summarise({name: values for name, values in table.items() if name != "target"}, "multi") == found


def test_clips_of_a_single_window_and_windows_have_the_same_scores():
    labels, _ = labels_and_scores(8, 51, 7, 3)
    logits = np.random.default_rng(8).normal(size=(51, 7))
    alone, track = np.arange(51), np.arange(51) // 2
    found = metrics.summarise(a_table(logits, np.full(51, -1), alone, track, labels), "multi")
    assert found["clip"] == found["raw"] != found["track"]
    shuffled = metrics.summarise(a_table(logits, np.full(51, -1), alone[::-1], track, labels), "multi")
    assert shuffled["clip"] == pytest.approx(found["raw"], rel=1e-12)  # here the probabilities are ranked


def test_undefined_scores_are_none_in_a_summary():
    table = a_table(np.zeros((3, 2)), [-1, -1, -1], np.arange(3), np.arange(3)) | {"loss": np.full(3, np.nan)}
    found = metrics.summarise(table, "multi")
    assert found["loss"] is None
    assert found["raw"].pop("classes_without_positives") == 2
    assert found["raw"] == dict.fromkeys(["mean_average_precision", "roc_auc", "d_prime", "lwlrap", "top_k_accuracy"])
    found = metrics.summarise(table, "single")
    assert set(found["raw"].values()) == set(found["track"]["majority"].values()) == {None}


@pytest.mark.parametrize("task", ["single", "multi"])
def test_an_empty_table_has_a_summary(task):
    none = np.zeros(0, np.int32)
    found = metrics.summarise(a_table(np.zeros((0, 3)), none, none, none), task)
    assert found["loss"] is None and found["raw"].pop("classes_without_positives", 3) == 3
    assert set(found["raw"].values()) == {None}
    if task == "single":
        assert found["track"]["majority"] == found["raw"] and found["classes"]["2"]["support"] == 0


def test_a_single_window_has_a_summary():
    table = a_table([[0.0, 1.0, 2.0]], [2], [4], [9])
    found = metrics.summarise(table, "single")
    assert set(found["raw"].values()) == set(found["track"]["majority"].values()) == {1}
    found = metrics.summarise(table, "multi")["track"]
    assert found["mean_average_precision"] == found["lwlrap"] == found["top_k_accuracy"] == 1
    assert found["roc_auc"] is found["d_prime"] is None and found["classes_without_positives"] == 2


def test_unknown_task():
    sentence = r"unknown task 'singel' \(did you mean 'single'\?\): choose one of multi, single"
    with pytest.raises(UserError, match=sentence):
        metrics.summarise(a_table(np.zeros((0, 3)), [], [], []), "singel")
