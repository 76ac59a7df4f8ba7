"""Tests of the Gaussian mixture models: likelihoods as in scikit-learn, refused options, and all commands on a run."""

import html
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config

import genre_jax
from genre_jax import config as configs
from genre_jax import dry_run, models
from genre_jax.console import UserError
from genre_jax.loop import train_and_evaluate
from genre_jax.report import page

mixture = pytest.importorskip("sklearn.mixture")
RNG = np.random.default_rng(0)
CLASSES = ("low", "high")


def two_classes(frames: int = 300):
    """Return frames of 4 features in two clusters per class, and the class of each frame."""
    targets = np.arange(frames) % 2
    centres = np.array([[[0, 0, 0, 0], [6, 0, 3, 0]], [[0, 6, 0, 0], [6, 6, 0, 3]]])
    return RNG.normal(centres[targets, RNG.integers(0, 2, frames)], 1.0).astype(np.float32), targets


def gmm_config(data_dir, **changes):
    changes = {"frontend__scale": "standardise", "train__duration": "1 steps", "devices": 1} | changes
    config = small_config(data_dir, "snn", **changes)
    configs.choose(config, "model", "gmm", components=3, frames=400)
    return config


def test_count_is_the_papers():
    """The paper counts the weights of one of the three mixtures. The parameters contain the weights of all three."""
    assert models.count_parameters("gmm", num_classes=3) == 92_416
    assert models.count(models.abstract_variables(models.build("gmm", num_classes=3))) == 92_928


def test_logits_are_scikit_learns_likelihoods():
    features, targets = two_classes()
    net = models.build("gmm", num_classes=2, components=3, iterations=50, vote="mean")
    params, likelihood = net.fit(features, targets, CLASSES, seed=1)
    clips = features[:60].reshape(5, 12, 4)
    logits, kept = jax.jit(net.apply)({"params": params}, jnp.asarray(clips))
    total, shares = 0.0, []
    for number in range(2):
        of_class = features[targets == number].astype(np.float64)
        expected = mixture.GaussianMixture(3, covariance_type="diag", max_iter=50, random_state=1).fit(of_class)
        np.testing.assert_allclose(kept["frame_logits"][..., number].ravel(), expected.score_samples(features[:60]), rtol=1e-4)
        shares.append(expected.predict_proba(features[:60]).reshape(5, 12, 3).mean(1))
        total += expected.score(of_class) * len(of_class)
    np.testing.assert_allclose(logits, kept["frame_logits"].mean(1), rtol=1e-6)
    majority, _ = net.clone(vote="majority").apply({"params": params}, jnp.asarray(clips))
    wins = (kept["frame_logits"].argmax(-1) == 1).sum(1)
    np.testing.assert_allclose(np.exp(majority[:, 1]), (wins + 0.5) / 13, rtol=1e-5)
    np.testing.assert_allclose(kept["embedding"], np.concatenate(shares, 1), atol=1e-4)
    assert likelihood == pytest.approx(total / len(features), rel=1e-9)
    assert {name: leaf.shape for name, leaf in params.items()} == {
        name: leaf.shape for name, leaf in models.abstract_variables(net, (12, 4))["params"].items()
    }


def test_bfloat16_leaves_the_likelihoods_alone():
    features, targets = two_classes()
    net = models.build("gmm", num_classes=2, components=2, dtype="bfloat16")
    params, _ = net.fit(features, targets, CLASSES, seed=0)
    logits, kept = net.apply({"params": params}, jnp.asarray(features[:24].reshape(2, 12, 4), jnp.bfloat16))
    assert logits.dtype == kept["embedding"].dtype == jnp.bfloat16 and kept["frame_logits"].dtype == jnp.float32


def test_what_it_refuses(tones):
    features, targets = two_classes(6)
    net = models.build("gmm", num_classes=2, components=4)
    with pytest.raises(UserError, match="'model.components' must be at most 3, the frames of class 'low', and was given 4"):
        net.fit(features, targets, CLASSES, seed=0)
    with pytest.raises(UserError, match="'model.frames' must be at least 1, and was given 0"):
        models.build("gmm", num_classes=2, frames=0)
    config = gmm_config(tones, loss__name="sigmoid")
    with pytest.raises(
        UserError, match="model 'gmm' needs one label per clip: loss.name must be 'softmax', and was given 'sigmo"
    ):
        train_and_evaluate(config, tones / "never")
    config = gmm_config(tones)
    config.init_from = "runs/other"
    with pytest.raises(UserError, match="model 'gmm' is fitted anew: init_from must be '', and was given 'runs/other'"):
        train_and_evaluate(config, tones / "never")
    assert not (tones / "never").exists()
    for check in (dry_run.dry_run, dry_run.overfit_one_batch):
        with pytest.raises(UserError, match="model 'gmm' is fitted at once and takes no training steps"):
            check(gmm_config(tones))


def test_a_run_goes_through_every_command(tones, tmp_path):
    """Covers fitting, results, report, tagging and export. A second run from the checkpoint gives the same results."""
    config = gmm_config(tones)
    workdir = tmp_path / "run"
    results = train_and_evaluate(config, workdir)
    assert results["step"] == 1 and results["raw"]["accuracy"] > 0.8 and results["parameters"] == 4 * 3 * (16 + 16 + 1)
    with np.load(workdir / "predictions.npz") as table:
        predictions = dict(table)
    assert predictions["logits"].shape == (results["windows"], 4)
    assert '"name": "gmm"' in html.unescape(page.write_report([workdir], tmp_path / "report").read_text())
    tone = 0.4 * np.sin(2 * np.pi * 1200 * np.arange(8000) / 8000)
    tagger = genre_jax.load(workdir)
    tags = tagger.predict(tone, sample_rate=8000)
    assert next(iter(tags)) == "high"
    one_file = genre_jax.save_pretrained(workdir, tmp_path / "gmm.safetensors")
    assert genre_jax.load(one_file).predict(tone, sample_rate=8000) == tags
    (workdir / "results.json").rename(tmp_path / "results.json")
    again = train_and_evaluate(config, workdir)
    timed = ("clips_per_second", "train_seconds", "peak_memory_bytes")
    assert {k: v for k, v in again.items() if k not in timed} == {k: v for k, v in results.items() if k not in timed}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines] == ["train", "validation"] and np.isfinite(lines[0]["log_likelihood"])
