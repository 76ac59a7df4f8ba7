"""Runs that start from pretrained weights, and files of a trained run, give the same numbers and predictions."""

import json
import shutil

import jax
import numpy as np
import pytest
from absl import logging
from conftest import CLASSES, small_config
from damage import flips, initial_run
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from state_dicts import assert_equal, numbers, torchvision_resnet

import genre_jax
from genre_jax import config as configs
from genre_jax import models
from genre_jax.checkpoint import Checkpoints
from genre_jax.console import UserError
from genre_jax.loop import train_and_evaluate
from genre_jax.run import Program, Run, devices_of
from genre_jax.weights import files, pretrained


@pytest.fixture(scope="module")
def donor(tones, tmp_path_factory):
    """(workdir, file of `save_pretrained`, state) of a run whose front end has fitted statistics."""
    folder = tmp_path_factory.mktemp("donor")
    config = small_config(tones, "resnet", model__stages=[1], frontend__scale="standardise", devices=1, augment__gain_cap=0.3)
    _, state = initial_run(config, folder / "run")
    return folder / "run", genre_jax.save_pretrained(folder / "run", folder / "tones.safetensors"), state


def test_save_pretrained_and_load_predict_the_same(donor, tones):
    workdir, path, _ = donor
    one, other = genre_jax.load(workdir), genre_jax.load(path)
    assert (other.labels, other.sample_rate, other.samples) == (CLASSES, 8000, 2000)
    assert_equal(pretrained.load_trained(path).variables, pretrained.load_trained(workdir).variables)
    wave = numbers((5000,), 1) / 9
    assert other.predict(wave, 8000) == one.predict(wave, 8000)
    resampled = other.tags(wave, 16000)
    assert resampled.seconds == pytest.approx(5000 / 16000)
    with pytest.raises(UserError, match="a waveform needs its sample_rate in Hz, 1000 to 768000, and was given None"):
        other.predict(wave)
    with safe_open(path, framework="numpy") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    assert metadata["labels"] == list(CLASSES)
    assert metadata["sample_rate"] == 8000
    assert metadata["frontend"]["name"] == "log_mel_image"
    assert metadata["config"]["model"]["stages"] == [1]
    assert str(tones) not in json.dumps(metadata), "the file must not reveal the paths of the data"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_load_and_predict_leave_the_settings_of_the_process(tones, tmp_path, dtype):
    """A float64 run predicts in float64 in a float32 process, and a float32 run in float32 in a float64 process."""
    double, wave = dtype == "float64", numbers((5000,), 1) / 9
    with jax.enable_x64(double):
        initial_run(small_config(tones, "snn", dtype=dtype, devices=1), tmp_path / "run")
        expected = genre_jax.load(tmp_path / "run").tags(wave, 8000)
    file = genre_jax.save_pretrained(tmp_path / "run", tmp_path / "run.safetensors")
    verbosity = logging.get_verbosity()
    for source in (tmp_path / "run", file):
        with jax.enable_x64(not double):
            tagger = genre_jax.load(source)
            tags = tagger.tags(wave, 8000)
            assert jax.config.jax_enable_x64 is not double
        np.testing.assert_array_equal(tags.probabilities, expected.probabilities)
        np.testing.assert_array_equal(tags.embeddings, expected.embeddings)
        logits, _ = tagger.network.networks[0]({"audio": np.zeros((8, 2000), np.int16), "maximum": np.zeros(8, np.float32)})
        assert logits.dtype == dtype
    assert logging.get_verbosity() == verbosity


def test_load_does_not_switch_the_process_to_float64(tones, tmp_path):
    with jax.enable_x64(True):
        initial_run(small_config(tones, "snn", dtype="float64", devices=1), tmp_path / "run")
    assert not jax.config.jax_enable_x64
    genre_jax.load(tmp_path / "run").predict(numbers((5000,), 1) / 9, 8000)
    assert not jax.config.jax_enable_x64


def test_a_file_of_save_pretrained_that_was_changed_is_refused(donor, tmp_path):
    _, path, _ = donor
    arrays, metadata = files.read(path)
    changed = tmp_path / "changed.safetensors"
    damaged = "is damaged or was changed: its content has another checksum than the one that was written"
    for change in ({"labels": '["d", "c", "b", "a"]'}, {"sample_rate": "16000"}, {"sha256": '"0"'}, {"more": "1"}):
        save_file(arrays, changed, metadata | change)
        with pytest.raises(UserError, match=damaged):
            genre_jax.load(changed)
    save_file(arrays | {"params/fc/bias": -arrays["params/fc/bias"] - 1}, changed, metadata)
    for refused in (lambda: genre_jax.load(changed), lambda: pretrained.transplant(str(changed), {}, None, CLASSES)):
        with pytest.raises(UserError, match=damaged):
            refused()
    for change, sentence in (
        ({"labels": '["a", "b"]'}, "do not fit the config in it: params/fc/bias, params/fc/kernel differ"),
        ({"labels": '["a", "a", "b", "c"]'}, "must hold a list of distinct class names that are not empty, and holds"),
        ({"labels": "["}, "contains an invalid config or invalid labels: Expecting value"),
        ({"config": "{}"}, "contains an invalid config or invalid labels: the config has no schema version, and"),
        ({"config": metadata["config"].replace("resnet18", "resnet81")}, "invalid labels: unknown model 'resnet81'"),
    ):
        content = metadata | change
        save_file(arrays, changed, content | {"sha256": pretrained._checksum(arrays, content)})
        with pytest.raises(UserError, match=sentence):
            genre_jax.load(changed)
    save_file(arrays, changed, {key: value for key, value in metadata.items() if key != "sha256"})
    with pytest.raises(
        UserError, match="was written by an earlier genre_jax, without a checksum: save it again from a new run"
    ):
        genre_jax.load(changed)
    save_file(arrays, changed)
    with pytest.raises(UserError, match="was not written by genre_jax.save_pretrained: it lacks config and labels"):
        genre_jax.load(changed)
    with pytest.raises(UserError, match="a trained network is saved as .safetensors, and 'net.pth' ends in '.pth'"):
        genre_jax.save_pretrained(donor[0], "net.pth")
    assert load_file(path).keys() == arrays.keys()


def test_weights_that_are_not_finite_are_not_written(donor, tmp_path):
    trained = pretrained.load_trained(donor[0])
    trained.variables["params"]["fc"]["bias"] = np.array([0, np.nan, 0, 0], np.float32)
    with pytest.raises(
        UserError, match="x.safetensors is not written, because the weights hold NaN or infinity in params/fc/bias"
    ):
        pretrained.write(trained, tmp_path / "x.safetensors")
    trained = pretrained.load_trained(donor[0])
    trained.config.schedule.learning_rate = float("nan")
    with pytest.raises(UserError, match="config key 'schedule.learning_rate' must hold finite numbers, and was given nan"):
        pretrained.write(trained, tmp_path / "x.safetensors")
    assert not any(tmp_path.iterdir())


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(tones, tmp_path):
    """In a file of `save_pretrained`, and in config.json and labels.json of a workdir."""
    workdir = tmp_path / "run"
    initial_run(small_config(tones, "snn", devices=1), workdir)
    file = genre_jax.save_pretrained(workdir, tmp_path / "run.safetensors")
    found = 0
    for source, changed in ((file, [file]), (workdir, [workdir / "config.json"]), (workdir, [workdir / "labels.json"])):
        whole = pretrained.load_trained(source)
        for place in flips(changed, 40):
            try:
                trained = pretrained.load_trained(source)
            except UserError:
                found += 1
                continue
            assert trained.labels == whole.labels, place
            assert configs.digest(trained.config) == configs.digest(whole.config), place
            assert_equal(trained.variables, whole.variables)
    assert found > 100


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", "", "config.json cannot be read as JSON: Expecting value"),
        ("config.json", '{"version": 2, "na', "config.json cannot be read as JSON: Unterminated string"),
        ("config.json", "[1]", r"config.json must hold a JSON object, and holds \[1\]"),
        ("config.json", {"model": 3}, "config.json: the config lacks the keys model"),
        ("config.json", {"model": {"name": ["snn"]}}, "config.json: unhashable type"),
        ("config.json", {"loss": {"name": "Softmax"}}, "config.json: unknown loss.name 'Softmax' .did you mean 'softmax'"),
        ("config.json", {"ema": float("nan")}, "config.json cannot be read as JSON: NaN is not a number of JSON"),
        (
            "config.json",
            {"loss": {"name": "sigmoid"}},
            "config.json of .* has changed since its checkpoint of step 1 was written",
        ),
        ("labels.json", None, "is not the workdir of a run: it holds no labels.json"),
        ("labels.json", "", "labels.json cannot be read as JSON"),
        ("labels.json", b'["\xff"]', "labels.json cannot be read as JSON"),
        ("labels.json", "{}", "labels.json must hold a JSON array, and holds {}"),
        ("labels.json", '["a", "a", "a", "a"]', "labels.json must hold a list of distinct class names"),
        ("labels.json", '["low", "", "high", "noise"]', "labels.json must hold a list of distinct class names"),
        ("labels.json", '["low", 1, "high", "noise"]', "labels.json must hold a list of distinct class names"),
        ("labels.json", "[]", "labels.json must hold a list of distinct class names"),
        ("labels.json", '["mid", "low", "high", "noise"]', "labels.json of .* has changed since its checkpoint of step 1"),
    ],
)
def test_a_workdir_whose_files_are_damaged_is_refused(donor, tmp_path, name, content, sentence):
    workdir = shutil.copytree(donor[0], tmp_path / "run")
    path = workdir / name
    if content is None:
        path.unlink()
    elif isinstance(content, dict):
        values = json.loads(path.read_text())
        for key, change in content.items():
            values[key] = values[key] | change if isinstance(change, dict) else change
        path.write_text(json.dumps(values))
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    for refused in (genre_jax.load, lambda source: pretrained.transplant(str(source), {}, None, CLASSES)):
        with pytest.raises(UserError, match=sentence):
            refused(workdir)


def test_a_run_starts_from_a_file_as_from_its_workdir(donor, tones, capsys):
    workdir, path, state = donor
    states = []
    for source in (workdir, path):
        config = small_config(tones, "resnet", model__stages=[1], seed=5, devices=1, init_from=str(source))
        states.append(jax.device_get(Run(config).initial_state()))
        assert "leaves loaded; fresh: none; unused: none" in capsys.readouterr().out
    for each in states:
        assert_equal(each.params, state.params)
        assert set(each.batch_stats) == set(state.batch_stats) - {"frontend"}
    net, variables = models.build("resnet18", num_classes=4, stages=(1,), width=4), states[0].variables()
    renamed = pretrained.transplant(str(path), jax.tree.map(np.zeros_like, variables), net, ("a", "b", "c", "d"))
    assert "fresh: params/fc/bias, params/fc/kernel; unused: params/fc/bias, params/fc/kernel" in capsys.readouterr().out
    assert not renamed["params"]["fc"]["kernel"].any() and renamed["params"]["conv1"]["kernel"].any()


def test_init_from_a_torchvision_file_gives_its_logits_in_a_run(tones, tmp_path):
    net = models.build("resnet18", num_classes=4, stages=(1, 1), width=4)
    w = torchvision_resnet(models.abstract_variables(net, (16, 16, 1)), False, 1000)
    save_file(w.state, tmp_path / "model.safetensors")
    config = small_config(tones, "resnet", devices=1, init_from=str(tmp_path / "model.safetensors"))
    run = Run(config)
    state = run.initial_state()
    ours = jax.device_get(state)
    w.variables["params"]["fc"], w.variables["params"]["stem"] = ours.params["fc"], ours.params["stem"]
    w.variables["frontend"] = {}
    assert_equal(ours.variables(), w.variables)
    batch = run.program.devices.shard(run.batches(0))
    by_hand = run.program.devices.replicate(run.program.state_of(w.variables))
    np.testing.assert_array_equal(
        *(run.program.eval_step(s.variables(), run.constants, batch)["logits"] for s in (state, by_hand))
    )


def test_resuming_goes_before_init_from(donor, tones, tmp_path, capsys):
    """A run that is killed while layers are frozen resumes from its checkpoint, including the optimiser's state."""
    options = {"model__stages": [1], "devices": 1, "freeze__patterns": ["*", "!fc/*"], "freeze__until": "3 steps"}
    options |= {"train__duration": "5 steps", "train__evaluate_every": "5 steps", "init_from": str(donor[1])}
    config = small_config(tones, "resnet", **options)
    whole = train_and_evaluate(config, tmp_path / "whole")
    assert "weights of" in capsys.readouterr().out
    run = Run(config)
    state = run.initial_state()
    for step in range(2):
        state, _ = run.program.train_step(state, run.constants, run.program.devices.shard(run.batches(step)))
    capsys.readouterr()
    checkpoints = Checkpoints(tmp_path / "killed", config, CLASSES)
    checkpoints.save(2, state)
    checkpoints.close()
    resumed = train_and_evaluate(config, tmp_path / "killed")
    said = capsys.readouterr().out
    assert "resuming" in said and "weights of" not in said
    for key in ("clip", "track"):
        assert resumed[key] == whole[key]


@pytest.mark.parametrize("labels", [("noise", "low"), ("low", "noise", "other")])
def test_a_classifier_gets_the_columns_of_its_classes_by_name(tones, tmp_path, labels):
    """A run on some classes of a trained network starts with its classifier; with a new class the classifier starts anew."""
    config = small_config(tones, "snn")
    program = Program(config, devices_of(config), len(CLASSES), 24)
    rng = np.random.default_rng(0)
    trained = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), jax.eval_shape(program.init))
    file = str(pretrained.write(pretrained.Trained(config, CLASSES, trained), tmp_path / "all.safetensors"))
    other = Program(config, devices_of(config), len(labels), 24)
    fresh = jax.device_get(other.init())
    found = pretrained.transplant(file, fresh, other.network.model, labels)["params"]
    np.testing.assert_array_equal(found["dense1"]["kernel"], trained["params"]["dense1"]["kernel"])
    known = set(labels) <= set(CLASSES)
    for name in ("kernel", "bias"):
        columns = trained["params"]["fc"][name][..., [CLASSES.index(label) for label in labels if label in CLASSES]]
        np.testing.assert_array_equal(found["fc"][name], columns if known else fresh["params"]["fc"][name])
