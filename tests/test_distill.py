"""Distillation: the soft loss by its definition, the teacher in the step, cached logits, resumed runs, wrong teachers."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CLASSES, ROOT, small_config
from scipy.special import expit, rel_entr, softmax

from genre_jax import config as configs
from genre_jax import distill, loop, losses, run
from genre_jax.atomic import read_json
from genre_jax.checkpoint import named
from genre_jax.config_section import flat
from genre_jax.console import UserError
from genre_jax.weights import pretrained

RNG = np.random.default_rng(0)
SHUFFLED = ("noise", "high", "extra", "low", "mid")  # a teacher that knows more classes, in another order


def write_teacher(folder, data_dir, labels=SHUFFLED, model="resnet", **changes):
    """Write a network with random weights, and batch statistics that are far from those of a batch; return its path."""
    config = small_config(data_dir, model, **changes)
    program = run.Program(config, run.devices_of(config), len(labels), 24)

    def draw(path, leaf):
        value = RNG.normal(0, 0.5, leaf.shape)
        return (np.abs(value) + 0.5 if path[-1].key in ("var", "scale") else value).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(program.init))
    path = folder / f"{model}_{len(labels)}_{len(list(folder.iterdir()))}.safetensors"
    return str(pretrained.write(pretrained.Trained(config, tuple(labels), variables), path))


@pytest.fixture(scope="module")
def teacher(tones, tmp_path_factory) -> str:
    """Return the file of a teacher with batch norms, on another front end than the student's."""
    return write_teacher(tmp_path_factory.mktemp("teacher"), tones)


def student(tones, teacher, model="snn", **changes):
    """Return the config of a student of `teacher`."""
    return small_config(tones, model, distill__teacher=teacher, **changes)


def step_of(config):
    """Return a run, its state after a step, the metrics, and the batch."""
    work = run.Run(config)
    batch = work.program.devices.shard(work.batches(0))
    state, metrics = work.program.train_step(work.initial_state(), work.constants, batch)
    return work, jax.device_get(state), {key: float(value) for key, value in metrics.items()}, batch


def definition(task, logits, teacher, weights):
    """The divergence in float64 by its definition."""
    if task == "single":
        return rel_entr(softmax(teacher, -1), softmax(logits, -1)).sum(-1)
    there, not_there = rel_entr(expit(teacher), expit(logits)), rel_entr(expit(-teacher), expit(-logits))
    return ((there + not_there) * weights).mean(-1)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("temperature", "squared", "share"), [(1.0, True, 0.9), (4.0, True, 0.9), (10.0, False, 0.3)])
def test_the_loss_equals_its_definition(name, temperature, squared, share):
    loss, weights = losses.LOSSES[name], np.array([1.0, 2.0, 0.5])
    ours, theirs = RNG.normal(0, 5, (2, 7, 3))
    labels = np.eye(3)[RNG.integers(0, 3, 7)]
    settings = configs.base("x").distill
    settings.update(temperature=temperature, squared=squared, share=share)
    with jax.enable_x64(True):
        values = distill.distilled(loss, settings).values(
            jnp.asarray(ours), (jnp.asarray(labels), jnp.asarray(theirs)), weights
        )
        hard = np.asarray(loss.values(jnp.asarray(ours), jnp.asarray(labels), jnp.asarray(weights)))
        equal = distill.divergence(loss.task, jnp.asarray(ours), jnp.asarray(ours), weights)
    soft = definition(loss.task, ours / temperature, theirs / temperature, weights)
    factor = temperature**2 if squared else 1
    np.testing.assert_allclose(values, share * factor * soft + (1 - share) * hard, rtol=1e-10)
    np.testing.assert_allclose(equal, 0, atol=1e-12)


def test_the_gradient_is_the_difference_of_the_distributions():
    """With T², the gradient by a logit is T (p - q) (Hinton et al. 2015, equation 2)."""
    ours, theirs = RNG.normal(0, 3, (2, 5, 4))
    settings = configs.base("x").distill
    settings.update(temperature=3.0, share=1.0)
    loss = distill.distilled(losses.LOSSES["softmax"], settings)
    with jax.enable_x64(True):
        targets = jnp.zeros((5, 4)), jnp.asarray(theirs)
        gradient = jax.grad(lambda logits: loss.values(logits, targets, jnp.ones(4)).sum())(jnp.asarray(ours))
    np.testing.assert_allclose(gradient, 3 * (softmax(ours / 3, -1) - softmax(theirs / 3, -1)), atol=1e-12)


def test_the_step_takes_the_logits_of_the_teacher_in_evaluation_mode(tones, teacher):
    """The logits in the targets are those that the teacher's file gives for the same clips, in the order of our classes."""
    work = run.Run(student(tones, teacher, devices=1))
    batch = work.batches(0)
    step = work.program.step
    inputs = step.inputs(work.initial_state(), work.constants, {key: jnp.asarray(value) for key, value in batch.items()})
    labels, soft = inputs["targets"]
    trained = pretrained.load_trained(teacher)
    network = work.program.teacher.network
    expected, _ = network(trained.variables, {"audio": batch["audio"], "maximum": batch["maximum"]})
    places = [SHUFFLED.index(label) for label in work.splits["train"].classes]
    np.testing.assert_allclose(soft, np.asarray(expected)[:, places], atol=1e-5)
    np.testing.assert_array_equal(labels, batch["labels"])
    assert places != sorted(places) and np.ptp(np.asarray(soft)) > 0.1


def test_a_share_of_0_trains_as_without_a_teacher(tones, teacher):
    _, alone, _, _ = step_of(small_config(tones, "snn", devices=1))
    _, taught, _, _ = step_of(student(tones, teacher, devices=1, distill__share=0.0))
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(taught), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
    _, soft, _, _ = step_of(student(tones, teacher, devices=1, distill__share=1.0))
    assert (
        max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(soft.params), strict=True))
        > 1e-4
    )


def test_a_student_that_equals_its_teacher_has_no_gradient(tones, tmp_path):
    changes = {"model": "snn", "model__dropout": 0.0, "model__vote": "mean"}  # training takes the mean over the frames, too
    path = write_teacher(tmp_path, tones, labels=CLASSES, **changes)
    config = student(tones, path, devices=1, distill__share=1.0, init_from=path, **changes)
    _, _, metrics, _ = step_of(config)
    assert abs(metrics["loss"]) < 1e-6 and metrics["gradient_norm"] < 1e-5


def test_the_teacher_is_neither_donated_nor_saved(tones, teacher, tmp_path):
    """After steps it is still there and the same; the state has the leaves of a run without a teacher."""
    work, state, _, batch = step_of(student(tones, teacher, devices=2))
    kept = jax.device_get(work.constants["teacher"]["variables"])  # raises if it was donated
    given = pretrained.load_trained(teacher).variables
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(given), strict=True):
        np.testing.assert_array_equal(a, b)
    alone = run.Run(small_config(tones, "snn", devices=2)).initial_state()
    assert list(named(state)) == list(named(alone))
    donated = work.program.train_step.lower(work.initial_state(), work.constants, batch).as_text()
    assert donated.count("tf.aliasing_output") + donated.count("jax.buffer_donor") <= len(jax.tree.leaves(state))


MIXED = {"augment__mixup__alpha": 0.5, "augment__polarity": 0.5, "augment__shift": 0.5, "augment__mask__time": 1}


@pytest.mark.parametrize("of", ["waveform", "features"])
def test_8_devices_and_micro_batches_change_nothing(tones, tmp_path, of):
    """Float64, with mixup: the teacher hears the mixture, or reads its features mixed as the student's."""
    with jax.enable_x64(True):
        path = write_teacher(tmp_path, tones, dtype="float64")
        found = []
        for devices, parts in ((1, 1), (8, 2)):
            config = student(tones, path, dtype="float64", augment__mixup__of=of, train__batch_size=16, **MIXED)
            config.devices, config.train.accumulate = devices, parts
            work = run.Run(config)
            state, values = work.initial_state(), []
            for number in range(2):
                batch = work.program.devices.shard(work.batches(number))
                state, metrics = work.program.train_step(state, work.constants, batch)
                values.append(float(metrics["loss"]))
            found.append((values, jax.device_get(state.params)))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=0, atol=1e-10)
    for a, b in zip(jax.tree.leaves(found[0][1]), jax.tree.leaves(found[1][1]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


CACHED = {"data__segments": "consecutive", "data__segment_hop": 700}


@pytest.mark.parametrize(("devices", "runner"), [(1, "pmap"), (8, "pmap"), (2, "jit")])
def test_cached_logits_train_as_computed_ones(tones, teacher, devices, runner):
    losses_of = {}
    for cached in (False, True):
        work = run.Run(student(tones, teacher, devices=devices, runner=runner, distill__cached=cached, **CACHED))
        state, losses_of[cached] = work.initial_state(), []
        for number in range(6):
            batch = work.batches(number)
            assert ("soft" in batch) == cached
            state, metrics = work.program.train_step(state, work.constants, work.program.devices.shard(batch))
            losses_of[cached].append(float(metrics["loss"]))
    np.testing.assert_allclose(losses_of[True], losses_of[False], rtol=1e-5)
    shapes = work.program.shapes()[2]
    assert {key: value.shape for key, value in work.program.devices.shard(batch).items()} == {
        key: value.shape for key, value in shapes.items()
    }


def test_an_upright_image_is_the_image_turned(tones):
    """As SwishNet's paper has it, time × mel; masks along time then hide rows."""
    options = {"n_fft": 256, "hop_length": 128, "n_mels": 16, "image": True}
    wave = RNG.normal(0, 0.1, (2, 3000)).astype(np.float32)
    from genre_jax import frontends
    from genre_jax.augment import features

    flat_image, upright = (
        np.asarray(frontends.build("log_mel", 8000, **options, upright=turned).apply({}, wave)) for turned in (False, True)
    )
    np.testing.assert_array_equal(upright, flat_image.swapaxes(1, 2))
    settings = configs.base("x").augment.mask
    settings.update(time=1, time_width=0.5)
    keys = jax.random.split(jax.random.key(0), 2)
    masked, turned = features.mask(flat_image, keys, settings), features.mask(upright, keys, settings, upright=True)
    np.testing.assert_array_equal(turned, masked.swapaxes(1, 2))
    assert (np.asarray(masked) != flat_image).any()


def test_a_run_learns_from_its_teacher_and_resumes(nothing_rendered, tones, tmp_path):
    """A teacher of a workdir; a student that was stopped ends as one that was not; another teacher in that place is refused."""
    keys = {
        "train__duration": "40 steps",
        "train__evaluate_every": "20 steps",
        "train__checkpoint_every": "10 steps",
        "devices": 1,
    }
    loop.train_and_evaluate(small_config(tones, "resnet", **keys, schedule__learning_rate=3e-3), tmp_path / "teacher")
    config = student(tones, str(tmp_path / "teacher"), **keys, schedule__learning_rate=1e-2)
    whole = loop.train_and_evaluate(config, tmp_path / "whole")
    short = student(tones, str(tmp_path / "teacher"), **keys | {"train__duration": "40 steps"}, schedule__learning_rate=1e-2)
    part = run.Run(short)
    assert part.program.teacher.checksum() == read_json(tmp_path / "whole" / "environment.json", dict)["teacher_sha256"]
    again = loop.train_and_evaluate(config, tmp_path / "again")
    assert again["raw"] == whole["raw"]
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    train = [line["loss"] for line in lines if line["split"] == "train"]
    assert train[-1] < 0.8 * train[0]
    os.replace(tmp_path / "teacher", tmp_path / "old")
    loop.train_and_evaluate(small_config(tones, "resnet", **keys, seed=1), tmp_path / "teacher")
    (tmp_path / "whole" / "results.json").unlink()
    with pytest.raises(UserError, match="learned from another teacher"):
        loop.train_and_evaluate(config, tmp_path / "whole")


def test_wrong_teachers_are_one_sentence(tones, teacher, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    cases = {
        "there is no trained network in distill.teacher=": {"distill__teacher": str(other)},
        "they must have the same task": {"loss__name": "sigmoid"},
        "does not know the class": {"distill__teacher": write_teacher(tmp_path, tones, labels=("low", "mid", "high"))},
        r"trained with data.conditioning=\['remove_silence'\]": {
            "distill__teacher": write_teacher(tmp_path, tones, data__conditioning=["remove_silence"])
        },
        "trained with augment.gain_cap=0.7": {"distill__teacher": write_teacher(tmp_path, tones, augment__gain_cap=0.7)},
        "cannot read cuts of 900 samples": {
            "distill__teacher": write_teacher(tmp_path, tones, frontend__n_fft=2048),
            "data__samples": 900,
        },
    }
    for words, changes in cases.items():
        with pytest.raises(UserError, match=words):
            run.Run(small_config(tones, "snn", **{"distill__teacher": teacher, "devices": 1} | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distill__temperature": 0.0}, "'distill.temperature' must be above 0"),
        ({"distill__share": 1.5}, r"'distill.share' must lie in \[0, 1\]"),
        ({"distill__cached": True}, "'distill.cached' needs data.segments fixed or consecutive"),
        ({"distill__cached": True, **CACHED, "augment__mixup__alpha": 0.5}, "'distill.cached' needs augment.mixup.alpha 0"),
        ({"distill__cached": True, **CACHED, "data__copies__semitones": [1]}, "without data.copies"),
        ({"distill__cached": True, **CACHED, "data__order": "by_shard"}, "'distill.cached' needs data.order global"),
    ],
)
def test_wrong_settings_are_one_sentence(tones, changes, words):
    with pytest.raises(UserError, match=words):
        small_config(tones, "snn", **changes)


def test_temperatures_of_the_presets():
    """The paper's choice: slim 4 / 2 / 1, wide 10 / 10 / 8 for clips of 2, 1 and 0.5 s."""
    table = {}
    for width in ("", "wide,"):
        for length in ("", "one_second,", "half_second,"):
            config = configs.load(f"{ROOT}/configs/swishnet.py:{width}{length}distilled")
            teacher = configs.load(f"{ROOT}/configs/swishnet.py:{length}teacher")
            assert config.distill.teacher == f"runs/{teacher.name}" and config.data.samples == teacher.data.samples
            differing = {key for key, value in flat(config).items() if flat(teacher).get(key) != value}
            assert not differing & {"data.samples", "data.segment_hop", "data.name", "data.sample_rate", "train.batch_size"}
            table[width, length] = config.distill.temperature
    assert list(table.values()) == [4, 2, 1, 10, 10, 8]
    assert configs.load(f"{ROOT}/configs/swishnet.py:distilled").distill.share == 0.9
