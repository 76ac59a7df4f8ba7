"""The linear probe: scikit-learn's logistic regression as the classifier of a network, and the run that starts from it."""

import json

import jax
import numpy as np
import pytest
from conftest import small_config
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from genre_jax import probe
from genre_jax.console import UserError
from genre_jax.freezing import Freeze
from genre_jax.loop import train_and_evaluate
from genre_jax.metrics import sigmoid, softmax
from genre_jax.run import Run, resolved

RNG = np.random.default_rng(0)


def drawn(classes: int, rows: int = 60, dimensions: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different scales, and a class of each row."""
    target = np.arange(rows) % classes
    features = RNG.normal(size=(rows, dimensions)) + RNG.normal(size=(classes, dimensions))[target]
    return features * 10.0 ** np.arange(-3, dimensions - 3) + 5, target


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("c", [0.1, 10.0])
def test_single_label_probabilities_are_those_of_scikit_learn(classes, c):
    features, target = drawn(classes)
    kernel, bias = probe.logistic(features, np.eye(classes, dtype=bool)[target], "single", c)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, class_weight="balanced", max_iter=1000))
    expected = model.fit(features, target).predict_proba(features)
    np.testing.assert_allclose(softmax(features @ kernel + bias), expected, atol=1e-9)


def test_several_labels_are_a_regression_each():
    features, target = drawn(4)
    labels = np.eye(4, dtype=bool)[target] | (features[:, :1] > 5)
    kernel, bias = probe.logistic(features, labels, "multi", 0.1)
    model = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(C=0.1, max_iter=1000)))
    expected = model.fit(features, labels.astype(int)).predict_proba(features)
    np.testing.assert_allclose(sigmoid(features @ kernel + bias), expected, atol=1e-9)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_classes_without_examples_and_constant_features(task):
    """Of five classes two have no track; a feature never changes. All probabilities are finite, and the two are small."""
    features, target = drawn(3)
    features[:, 2] = 4.0
    labels = np.zeros((60, 5), bool)
    labels[np.arange(60), target * 2] = True
    kernel, bias = probe.logistic(features, labels, task, 0.1)
    probabilities = (softmax if task == "single" else sigmoid)(features @ kernel + bias)
    assert np.isfinite(probabilities).all()
    assert probabilities[:, [1, 3]].max() < 1e-3
    assert (probabilities.argmax(1) == target * 2).mean() > 0.7
    one = np.zeros((60, 2), bool)
    one[:, 1] = True
    kernel, bias = probe.logistic(features, one, task, 0.1)
    assert not kernel.any()
    assert bias[1] > bias[0]


def probed(tones, **changes):
    """A small run that starts from a logistic regression."""
    options = {"devices": 1, "head__start": "logistic", "train__duration": "4 steps", "train__evaluate_every": "2 steps"}
    return small_config(tones, "resnet", **options | changes)


def test_the_run_starts_from_the_regression_and_may_end_with_it(tones, tmp_path):
    """At a rate that destroys the weights, the checkpoint of step 0 is the best one, and its embeddings give its logits."""
    config = probed(tones, schedule__learning_rate=10.0, evaluate__select="min loss", gradient_clip=1.0)
    results = train_and_evaluate(config, tmp_path)
    assert results["step"] == 5  # the checkpoint of the second fit, after the last step
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if row["split"] == "validation"}
    assert sorted(losses) == [0, 2, 4]
    assert losses[0] == min(losses.values())
    with np.load(tmp_path / "predictions.npz") as file:
        table = dict(file)
    assert table["embedding"].shape[0] == len(table["track_names"])
    run = Run(config)
    state = run.refitted(run.initial_state())
    fc = jax.device_get(state.params["fc"])
    for track in np.unique(table["track"]):
        logits = table["logits"][table["track"] == track].mean(0)
        np.testing.assert_allclose(table["embedding"][track] @ fc["kernel"] + fc["bias"], logits, atol=1e-3)


def test_a_run_may_consist_of_the_regression_alone(tones, tmp_path):
    results = train_and_evaluate(probed(tones, train__duration="0 steps", data__validation=""), tmp_path)
    assert (results["step"], results["windows"] > 0) == (0, True)
    with pytest.raises(UserError, match="'train.duration' must be above 0 with head.start 'random', and was given '0 steps'"):
        small_config(tones, train__duration="0 steps")


def test_a_network_without_such_a_classifier_is_refused(tones):
    config = probed(tones)
    run = Run(config)
    variables = run.program.init() | {"params": {}}
    with pytest.raises(UserError, match="head.start 'logistic' needs a classifier that reads the embedding, and 'resnet"):
        probe.fit([run.splits["train"]], variables, run.program.network, run.program.devices, config)


def test_the_loss_follows_from_the_labels(tones, monkeypatch):
    assert resolved(small_config(tones, loss__name="auto")).loss.name == "softmax"
    from genre_jax import run

    monkeypatch.setattr(run, "label_matrix", lambda index, mode: np.ones((len(index), 4), np.uint8))
    assert resolved(small_config(tones, loss__name="auto")).loss.name == "sigmoid"
    assert resolved(small_config(tones)).loss.name == "softmax"


def test_parameters_that_are_frozen_throughout_have_no_gradient():
    params = {"a": {"kernel": np.ones(3)}, "fc": {"kernel": np.ones(3)}}

    def loss(freeze):
        return jax.grad(lambda p: sum((leaf**2).sum() for leaf in jax.tree.leaves(freeze.detached(p))))(params)

    always, first = loss(Freeze(("*", "!fc/*"), None)), loss(Freeze(("*", "!fc/*"), 10))
    assert not always["a"]["kernel"].any()
    assert always["fc"]["kernel"].all()
    assert first["a"]["kernel"].all()
