"""The config: every file loads, typos die with the legal choices, presets and durations resolve in one place."""

import copy
import functools
import json
import re

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT

from genre_jax import atomic, durations, forward, models
from genre_jax import config as configs
from genre_jax.config_section import KINDS
from genre_jax.console import UserError

FILES = sorted((ROOT / "configs").glob("*.py"))
DATA = {"data.name": "synthetic"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_builds_at_full_size(path):
    config = configs.load(str(path), DATA)
    network = forward.build(config, num_classes=67)
    batch = {
        "audio": jax.ShapeDtypeStruct((2, config.data.samples), jnp.int16),
        "maximum": jax.ShapeDtypeStruct((2,), jnp.float32),
    }
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), config.data.samples))
    logits, intermediates = jax.eval_shape(network, variables, batch)
    assert logits.shape == (2, 67)
    assert intermediates["embedding"].shape[0] == 2
    assert path.stem in config.name
    assert json.loads(json.dumps(configs.to_json(config))) == configs.to_json(config)
    assert configs.flat(configs.from_json(configs.to_json(config))) == configs.flat(config)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_has_a_demo_and_a_claim(path):
    config = configs.load(f"{path}:demo")
    embedded = {"bytenet": "synthetic_hard", "gmm": "synthetic_musan", "swishnet": "synthetic_musan"}
    assert config.data.name == embedded.get(path.stem, "synthetic")
    assert config.name.endswith("_demo")
    header = path.read_text().split('"""')[1]
    assert "--config=configs/" in header and "Source:" in header


def test_published_counts():
    assert models.count_parameters("bytenet", num_classes=67) == 8_041_219
    assert models.count_parameters("resnet34", num_classes=67) == 21_319_043


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train.batchsize": "3"}, "unknown config key 'train.batchsize' .did you mean 'train.batch_size'..: choose one of train.accu"),
        ({"trian.batch_size": "3"}, "unknown config key 'trian.batch_size' .did you mean 'train.batch_size'."),
        ({"train": "3"}, "config key 'train' is a section, and was given 3: set its keys, such as 'train.accumulate'"),
        ({"train.batch_size": "ten"}, "'train.batch_size' must be int, as in 64, and was given 'ten'"),
        ({"train.batch_size": "2.5"}, "'train.batch_size' must be int, as in 64, and was given 2.5"),
        ({"train.batch_size": "0"}, "'train.batch_size' must be at least 1, and was given 0"),
        ({"ema": "true"}, "'ema' must be float, as in 0.0, and was given True"),
        ({"model.name": "resnt34"}, "unknown model 'resnt34' .did you mean 'resnet34'..: choose one of .*resnet18, resnet34, resnet50, and 1[0-9] more"),
        ({"model.widht": "3"}, "unknown config key 'model.widht' .did you mean 'model.width'."),
        ({"model.dephts": "3"}, "unknown config key 'model.dephts': choose one of "),
        ({"optimizer.name": "adma"}, "unknown optimizer 'adma' .did you mean 'adam'..: choose one of adam, adamw, amsgrad, sgd"),
        ({"schedule.name": "cosin"}, "unknown schedule 'cosin' .did you mean 'cosine'..: choose one of constant, cosine"),
        ({"frontend.name": "mel"}, "unknown frontend 'mel'.*: choose one of burrows_melgram, .*log_mel, log_mel_htk, and 13 more"),
        ({"loss.name": "hinge"}, "unknown loss.name 'hinge': choose one of auto, sigmoid, softmax"),
        ({"data.name": "synthetik"}, "unknown data set 'synthetik' .did you mean 'synthetic'..: choose one of audioset_music"),
        ({"dtype": "float16"}, "unknown dtype 'float16'.*: choose one of bfloat16, float32, float64"),
        ({"train.duration": "5 weeks"}, "'train.duration' must be a number and one of steps, epochs, examples.*was given '5 weeks'"),
        ({"evaluate.hop": "-5"}, "'evaluate.hop' must be at least 0, and was given -5"),
        ({"augment.polarity": "1.5"}, r"'augment.polarity' must lie in \[0, 1\], and was given 1.5"),
    ],
)  # fmt: skip
def test_typos_on_the_command_line(change, sentence):
    with pytest.raises(UserError, match=sentence):
        configs.load(str(ROOT / "configs/bytenet.py"), DATA | change)


def config_file(tmp_path, body, start="from genre_jax.config import base, choose, override, with_argument\n"):
    """A config file whose `body` begins at line 4."""
    path = tmp_path / "mine.py"
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    path.write_text(f"{start}def get_config(argument=''):\n    config = base('mine')\n{lines}")
    return str(path)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("config.train.batchsize = 3", "unknown config key 'train.batchsize' (did you mean 'train.batch_size'?): choose one of "
         "train.accumulate, train.batch_size, train.checkpoint_every, train.duration, train.evaluate_every, train.keep, train.log_every"),
        ("config.data.update(sample=3)", "unknown config key 'data.sample' (did you mean 'data.samples'?)"),
        ("config.data.copies.update(semitone=[1])", "unknown config key 'data.copies.semitone' (did you mean 'data.copies.semitones'?)"),
        ("config.optimiser = 3", "unknown config key 'optimiser' (did you mean 'optimizer'?)"),
        ("config.trian.batch_size = 3", "unknown config key 'trian' (did you mean 'train'?)"),
        ("config.train.batch_size = 'eight'", "config key 'train.batch_size' must be int, as in 16, and was given 'eight'"),
        ("config.train.batch_size = '8'", "config key 'train.batch_size' must be int, as in 16, and was given '8'"),
        ("config.train.batch_size = True", "config key 'train.batch_size' must be int, as in 16, and was given True"),
        ("config.data.update(samples='x')", "config key 'data.samples' must be int, as in 57344, and was given 'x'"),
        ("config.ema = None", "config key 'ema' must be float, as in 0.0, and was given None"),
        ("config.train = {'batch_size': 8}", "config key 'train' is a section, and was given {'batch_size': 8}: set its keys, such as "
         "'train.accumulate'"),
        ("config.model = 'snn'", "config key 'model' is a section, and was given 'snn': set its keys, such as 'model.name'"),
        ("config.model.name = 'snn'", "config key 'model.name' cannot be set alone: choose(config, 'model', 'snn') sets it with the "
         "options of the component"),
        ("choose(config, 'model', 'bytnet')", "unknown model 'bytnet' (did you mean 'bytenet'?): choose one of "),
        ("choose(config, 'optimizer', 'adma')", "unknown optimizer 'adma' (did you mean 'adam'?): choose one of adam, adamw, amsgrad, sgd"),
        ("choose(config, 'model', 'bytenet', widht=3)", "unknown config key 'model.widht' (did you mean 'model.width'?)"),
        ("choose(config, 'modell', 'resnet34')", "unknown component kind 'modell' (did you mean 'model'?): choose one of frontend, model, "
         "optimizer, schedule"),
        ("override(config, 'train.batchsize', 8)", "unknown config key 'train.batchsize' (did you mean 'train.batch_size'?)"),
        ("{'a': 1}['b']", "KeyError: 'b'"),
        ("int('ten')", "ValueError: invalid literal for int() with base 10: 'ten'"),
        ("base()", "TypeError: base() missing 1 required positional argument: 'name'"),
        ("conifg.seed = 3", "NameError: name 'conifg' is not defined"),
        ("import genre_jaxx", "ModuleNotFoundError: No module named 'genre_jaxx'"),
        ("from genre_jax.config import chose", "ImportError: cannot import name 'chose' from 'genre_jax.config'"),
        ("config.seed = = 3", "SyntaxError: invalid syntax"),
        ("assert config.seed", "AssertionError"),
    ],
)  # fmt: skip
def test_an_error_in_a_config_file_names_its_line(tmp_path, line, sentence):
    path = config_file(tmp_path, f"{line}\nreturn config")
    with pytest.raises(UserError) as caught:
        configs.load(path)
    assert str(caught.value).startswith(f"{path}, line 4: {sentence}")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_config_file_without_a_config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("config = 3\n")
    with pytest.raises(
        UserError, match=rf"^{path}: a config file must define get_config\(argument\), which returns the config$"
    ):
        configs.load(str(path))
    path.write_text("def get_config():\n    pass\n")
    with pytest.raises(UserError, match=rf"^{path}: TypeError: get_config\(\) takes 0 positional arguments but 1 was given$"):
        configs.load(str(path))
    with pytest.raises(UserError, match=r"get_config must return the config that it got from base\(NAME\), and returned None$"):
        configs.load(config_file(tmp_path, "pass"))
    (tmp_path / "mine.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match=r"^a config file is a Python file, and '.*mine.yaml' does not end in .py$"):
        configs.load(str(tmp_path / "mine.yaml"))


def test_an_error_in_a_preset_names_its_line_and_an_error_in_the_argument_none(tmp_path):
    preset = "def wide(config):\n    config.model.widht = 3\n"
    path = config_file(
        tmp_path, "return with_argument(config, argument, wide=wide)", preset + "from genre_jax.config import *\n"
    )
    with pytest.raises(UserError, match=rf"^{path}, line 2: unknown config key 'model.widht' \(did you mean 'model.width'\?\)"):
        configs.load(f"{path}:wide")
    with pytest.raises(UserError, match=r"^unknown config key 'train.batchsize' \(did you mean 'train.batch_size'\?\)"):
        configs.load(f"{path}:train.batchsize=3")
    with pytest.raises(UserError, match=r"^unknown preset 'wied' \(did you mean 'wide'\?\): choose one of wide$"):
        configs.load(f"{path}:wied")


def test_sections_take_values_of_their_types():
    config = configs.base("mine")
    config.data.update(samples=8000.0, mix=("a=1",), copies={"semitones": [1]})
    config.ema = 1
    assert (config.data.samples, config.data.mix, config.data.copies.semitones, config.ema) == (8000, ["a=1"], [1], 1.0)
    assert type(config.data.samples) is int and type(config.ema) is float
    assert not hasattr(config.model, "nothing")
    assert tuple(configs.COMPONENTS) == KINDS
    twin = copy.deepcopy(config)
    assert twin == config and twin == config.copy_and_resolve_references()
    with pytest.raises(UserError, match="unknown config key 'data.copies.semitone'"):
        twin.data.copies.semitone = []


def test_missing_config_file_names_its_neighbours():
    with pytest.raises(UserError, match=r"unknown config file 'configs/bytnet.py' .did you mean 'configs/bytenet.py'."):
        configs.load("configs/bytnet.py")


def test_a_shipped_config_is_loaded_by_its_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = configs.load("schindler:code,cqt,seed=3")
    assert named.made_by.config == "schindler:code,cqt,seed=3" and named.name == "schindler_cqt_code"
    by_path = configs.load(f"{ROOT}/configs/schindler.py:code,cqt,seed=3")
    by_path.made_by.config = named.made_by.config
    assert named == by_path
    (tmp_path / "bytenet.py").write_text("from genre_jax.config import base\n\ndef get_config(_):\n    return base('mine')\n")
    assert (configs.load("bytenet.py").name, configs.load("bytenet:demo").name) == ("mine", "bytenet_demo")
    for wrong, sentence in {
        "bytnet:demo": "unknown config 'bytnet' (did you mean 'bytenet'?): choose one of burrows, bytenet, ",
        "bytnet.py": "unknown config file 'bytnet.py' (did you mean 'bytenet.py'?): choose one of bytenet.py",
        "configs/bytenet.py:demo": "config file 'configs/bytenet.py' does not exist: the shipped config of this name is --config=bytenet",
        "elsewhere/bytnet.py": "unknown config file 'elsewhere/bytnet.py': choose one of burrows, bytenet, ",
    }.items():
        with pytest.raises(UserError) as error:
            configs.load(wrong)
        assert str(error.value).startswith(sentence)


def test_argument_takes_presets_and_values():
    config = configs.load(f"{ROOT}/configs/bytenet.py:demo,train.batch_size=24,seed=3", {"seed": "7"})
    assert (config.name, config.train.batch_size, config.seed) == ("bytenet_demo", 24, 7)
    with pytest.raises(UserError, match="unknown preset 'dmeo' .did you mean 'demo'."):
        configs.load(f"{ROOT}/configs/bytenet.py:dmeo")


def test_another_component_brings_its_own_options():
    config = configs.load(
        f"{ROOT}/configs/bytenet.py", DATA | {"frontend.name": "log_mel_image", "model.name": "resnet18", "model.width": "8"}
    )
    assert config.model.to_dict() == {
        "name": "resnet18", "stages": [2, 2, 2, 2], "width": 8, "instance_norm": True, "train_stem": False,
    }  # fmt: skip


def without(values, *keys):
    values = json.loads(json.dumps(values))
    for key in keys:
        *path, last = key.split(".")
        del functools.reduce(dict.get, path, values)[last]
    return values


def test_a_config_of_another_schema_is_refused():
    values = configs.to_json(configs.base("run"))
    stored = without(values, "init_from", "data.data_dir", "distill.teacher")  # a file of save_pretrained
    assert configs.flat(configs.from_json(stored)) == configs.flat(configs.base("run"))
    for wrong, sentence in (
        (values | {"version": 1}, "has schema version 1, and this genre_jax reads schema version 6"),
        ({}, "has no schema version, and this genre_jax reads schema version 6"),
        (without(values, "ema", "train.accumulate", "model.dropout"), "lacks the keys ema, model.dropout, train.accumulate"),
        (without(values, "schedule"), "lacks the keys schedule.learning_rate, schedule.name, schedule.warmup"),
        (without(values, "seed"), "lacks the key seed"),
        (values | {"emma": 0.5}, "has the unknown key emma"),
    ):
        sentence += ": train the run again, or use the genre_jax that wrote it"
        with pytest.raises(UserError, match=f"^the config {re.escape(sentence)}$"):
            configs.from_json(wrong)


def test_the_digest_covers_the_keys_that_change_the_numbers():
    config, other = configs.base("run"), configs.base("run")
    for key, value in {"devices": 4, "data.data_dir": "x", "data.prefetch": 9, "model.backend": "lax"}.items():
        configs.override(other, key, value)
    assert configs.digest(config) == configs.digest(other) == configs.digest(configs.from_json(configs.to_json(config)))
    configs.override(other, "schedule.learning_rate", 0.5)
    assert configs.digest(config) != configs.digest(other)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    config = configs.base("run")
    config.schedule.learning_rate = float("inf")
    with pytest.raises(UserError, match="config key 'schedule.learning_rate' must hold finite numbers, and was given inf"):
        configs.validate_values(config)
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "x.json", configs.to_json(config))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("7 steps", 7),
        ("1 step", 1),
        ("2 epochs", 25),
        ("2epochs", 25),
        ("0.5 epochs", 7),
        ("1e2 examples", 13),
        ("16 examples", 2),
        ("0 steps", 1),
    ],
)
def test_durations(text, steps):
    assert durations.steps(text, batch_size=8, examples=100) == steps
