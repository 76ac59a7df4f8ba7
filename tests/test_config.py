"""The config: every file loads, typos die with the legal choices, presets and durations resolve in one place."""

import json

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT

from genre_jax import config as configs
from genre_jax import forward, models
from genre_jax.console import UserError

FILES = sorted((ROOT / "configs").glob("*.py"))
DATA = {"data.name": "synthetic"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_builds_at_full_size(path):
    config = configs.load(str(path))
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
    assert config.data.name == "synthetic"
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
        ({"train": "3"}, "unknown config key 'train'"),
        ({"train.batch_size": "ten"}, "'train.batch_size' must be int, as in 16, and was given 'ten'"),
        ({"train.batch_size": "2.5"}, "'train.batch_size' must be int, as in 16, and was given 2.5"),
        ({"train.batch_size": "0"}, "'train.batch_size' must be at least 1, and was given 0"),
        ({"ema": "true"}, "'ema' must be float, as in 0.0, and was given True"),
        ({"model.name": "resnt34"}, "unknown model 'resnt34' .did you mean 'resnet34'..: choose one of burrows_conv1d, .*bytenet, .*resnet34, "),
        ({"model.widht": "3"}, "unknown config key 'model.widht' .did you mean 'model.width'."),
        ({"optimizer.name": "adma"}, "unknown optimizer 'adma' .did you mean 'adam'..: choose one of adam, adamw, amsgrad, sgd"),
        ({"schedule.name": "cosin"}, "unknown schedule 'cosin' .did you mean 'cosine'..: choose one of constant, cosine"),
        ({"frontend.name": "mel"}, "unknown frontend 'mel'.*: choose one of burrows_melgram, .*log_mel, log_mel_htk, .*waveform"),
        ({"loss.name": "hinge"}, "unknown loss.name 'hinge': choose one of sigmoid, softmax"),
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


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "config.train.batchsize = 3",
            "unknown config key 'batchsize' .did you mean 'train.batch_size'..: choose one of augment",
        ),
        ("config.train.batch_size = 'ten'", "batch_size.* ten is of original type"),
        ("config.optimiser = 3", "unknown config key 'optimiser'"),
        ("choose(config, 'model', 'bytnet')", "unknown model 'bytnet' .did you mean 'bytenet'."),
        ("choose(config, 'model', 'bytenet', widht=3)", "unknown config key 'model.widht'"),
    ],
)
def test_typos_in_a_config_file(tmp_path, line, sentence):
    path = tmp_path / "mine.py"
    path.write_text(
        "from genre_jax.config import base, choose\n"
        f"def get_config(argument=''):\n    config = base('mine')\n    {line}\n    return config\n"
    )
    with pytest.raises(UserError, match=sentence):
        configs.load(str(path))


def test_missing_config_file_names_its_neighbours():
    with pytest.raises(UserError, match=r"unknown config file 'configs/bytnet.py' .did you mean 'configs/bytenet.py'."):
        configs.load("configs/bytnet.py")


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


def test_old_runs_load_after_the_config_gains_keys():
    values = configs.to_json(configs.base("old"))
    del values["ema"], values["train"]["accumulate"], values["model"]["dropout"]
    assert configs.flat(configs.from_json(values)) == configs.flat(configs.base("old"))


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
    assert configs.steps(text, batch_size=8, examples=100) == steps
