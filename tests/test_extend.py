"""A metric, an augmentation, a loss, a front end, a network and a data set of one's own: each is one entry of one table.

Each test adds an entry and takes a training step with it, through the same code as the entries of the package.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from conftest import CLASSES, small_config

from genre_jax import config as configs
from genre_jax import config_checks, datasets, evaluate, frontends, losses, metrics, models
from genre_jax.augment import validate, waveform
from genre_jax.datasets.types import Item, Source
from genre_jax.frontends import Frontend
from genre_jax.loop import train_and_evaluate
from genre_jax.models.layers import Dense
from genre_jax.models.network import Network
from genre_jax.prepare.build import prepare
from genre_jax.run import Run


def step_of(config):
    """The loss of the first training step, and the run."""
    configs.validate(config)
    run = Run(config)
    _, values = run.program.train_step(run.initial_state(), run.constants, run.program.devices.shard(run.batches(0)))
    assert np.isfinite(float(values["loss"])) and float(values["gradient_norm"]) > 0
    return float(values["loss"]), run


def test_a_metric(tones, tmp_path, monkeypatch):
    def errors(examples: metrics.Examples) -> float:
        """Number of wrong answers."""
        return float(np.sum(examples.target != examples.answers))

    monkeypatch.setitem(metrics.METRICS["single"], "errors", errors)
    results = train_and_evaluate(small_config(tones, "snn", train__duration="1 steps"), tmp_path)
    wrong = (1 - results["raw"]["accuracy"]) * results["windows"]
    assert results["raw"]["errors"] == pytest.approx(wrong)
    assert results["track"]["majority"]["errors"] <= results["tracks"]


def test_an_augmentation(tones, monkeypatch):
    @waveform.per_example
    def reverse(key: jax.Array, y: jax.Array, context: waveform.Context) -> jax.Array:
        """Play a waveform backwards, with a probability."""
        return jnp.where(jax.random.bernoulli(key, context.config.reverse), y[::-1], y)

    entry = waveform.Augmentation("reverse", lambda config: config.reverse, reverse)
    monkeypatch.setattr(waveform, "AUGMENTATIONS", (*waveform.AUGMENTATIONS, entry))
    config = small_config(tones, "snn", devices=1)
    with config.augment.unlocked():
        config.augment.reverse = 1.0
    config.augment.start = ["reverse=1 epochs"]
    assert "reverse" in validate.names()
    _, run = step_of(config)
    keys = jax.random.split(jax.random.key(0), 3)
    y = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(waveform.augment(y, keys, run.config.augment), y[:, ::-1])
    np.testing.assert_array_equal(waveform.augment(y, keys, run.config.augment, on={"reverse": jnp.array(False)}), y)


def test_a_loss_brings_its_task(tones, tmp_path, monkeypatch):
    """A new loss of one label is scored as a loss of one label."""

    def squares(logits: jax.Array, labels: jax.Array, class_weights: jax.Array) -> jax.Array:
        """Squared error of the probabilities (Brier score)."""
        return jnp.square(jax.nn.softmax(logits) - labels).sum(-1)

    softmax = losses.LOSSES["softmax"]
    monkeypatch.setitem(losses.LOSSES, "brier", softmax._replace(values=squares))
    monkeypatch.setitem(config_checks.CHOICES, "loss.name", tuple(losses.LOSSES))
    config = small_config(tones, "snn", loss__name="brier", train__duration="1 steps")
    assert evaluate.task(config) == "single"
    results = train_and_evaluate(config, tmp_path)
    assert results["task"] == "single" and 0 < results["loss"] < 2 and "accuracy" in results["raw"]


def test_a_front_end(tones, monkeypatch):
    class Envelope(Frontend):
        """Largest magnitude of frames `(batch, frames, 1)`.

        Attributes:
          hop_length: int ≥ 1, samples per frame.
        """

        hop_length: int = 100

        def features(self, y):
            frames = y.shape[-1] // self.hop_length
            return jnp.abs(y[..., : frames * self.hop_length].reshape(*y.shape[:-1], frames, -1)).max(-1)[..., None]

    monkeypatch.setitem(frontends.FRONTENDS, "envelope", Envelope)
    config = small_config(tones, "snn", devices=1)
    configs.choose(config, "frontend", "envelope", hop_length=50, scale="standardise")
    _, run = step_of(config)
    assert run.program.network.frontend.hop_length == 50
    assert configs.flat(configs.from_json(configs.to_json(config)))["frontend.hop_length"] == 50


def test_a_network(tones, monkeypatch):
    class Linear(Network):
        """Logistic regression on the mean over frames.

        Attributes:
          scale: float > 0, factor of the features.
        """

        scale: float = 1.0
        input_shape = (16, 16)

        def forward(self, x, call):
            embedding = self.scale * x.mean(1)
            return Dense(self.num_classes, name="fc")(embedding), {"embedding": embedding}

    monkeypatch.setitem(models.MODELS, "linear", Linear)
    config = small_config(tones, "snn", devices=1)
    configs.choose(config, "model", "linear", scale=0.5)
    loss, _ = step_of(config)
    assert 0 < loss < 20
    assert models.count_parameters("linear", num_classes=4) == 16 * 4 + 4


def test_a_data_set(tmp_path, monkeypatch):
    def clicks(source) -> Source:
        """Sub-folders of `source` are the classes; the file names state the splits."""
        paths = sorted(source.rglob("*.wav"))
        items = [Item(path.name, path.stem, (path.parent.name,), path.stem.split("-")[0], str(path)) for path in paths]
        return Source("clicks", CLASSES, tuple(items))

    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (tmp_path / "music" / name).mkdir(parents=True)
        for split in ("train", "validation", "test"):
            noise = rng.normal(0, 0.1 * (number + 1), 2_500).clip(-1, 1)
            soundfile.write(tmp_path / f"music/{name}/{split}-{number}.wav", noise, 8_000)
    monkeypatch.setitem(datasets.DATASETS, "clicks", clicks)
    prepare("clicks", tmp_path / "data", 8_000, tmp_path / "music", workers=1)
    _, run = step_of(small_config(tmp_path / "data", "snn", devices=1, data__name="clicks", train__batch_size=4))
    assert run.splits["train"].classes == CLASSES and len(run.splits["train"]) == 4
