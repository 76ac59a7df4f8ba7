"""One real training step of every preset and of every published config, at small sizes on the tones."""

import ast
import csv

import jax
import numpy as np
import pytest
from conftest import CLASSES, ROOT

from genre_jax import config as configs
from genre_jax import config_files
from genre_jax.models import MODELS
from genre_jax.run import Run, resolved

# Sizes of 2,000 samples at 8 kHz. A key that the front end or the network does not have is left out.
FRONTEND = {"n_fft": 256, "hop_length": 128, "win_length": 200, "n_mels": 16, "height": 32, "width": 32, "n_mfcc": 12, "n_bins": 24,
            "frames": 16}  # fmt: skip
MODEL = {"bytenet": {"width": 4, "max_dilation": 2, "strides": [], "decoder_sets": 1, "head": "pooled", "stem_kernel": 1, "stem_stride": 1},
         "gru_attention": {"hidden": 8, "features": 4}, "resnet34": {"width": 4, "stages": [1]}, "snn": {"hidden": [16]},
         "resnet101": {"width": 4, "stages": [1]}, "densenet121": {"width": 4, "stages": [1], "growth_rate": 4},
         "mobilenet_v1": {"stages": [1, 1], "hidden": 4}, "folmer_cnn": {"filters": [4], "hidden": 8}, "folmer_mlp": {"hidden": [8]},
         "burrows_mlp": {"hidden": [8]}, "burrows_conv1d": {"filters": [4]}, "burrows_conv2d": {"filters": [4, 4], "hidden": 8},
         "schindler_deep": {"width": 2, "hidden": 8}, "schindler_shallow": {"width": 2, "hidden": 8},
         "musicnn": {"timbral": 4, "temporal": 2, "middle": 4, "hidden": 8},
         "choi_cnn": {"layers": 2, "maps": 4, "hidden": 8},
         "gmm": {"components": 2, "frames": 40, "iterations": 2}}  # fmt: skip


def presets() -> list[str]:
    """FILE and FILE:PRESET of all config files; a preset is a function of `config` in the file."""
    found = []
    for path in sorted((ROOT / "configs").glob("*.py")):
        functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        names = [node.name for node in functions if [argument.arg for argument in node.args.args] == ["config"]]
        found += [path.stem, *(f"{path.stem}:{name}" for name in names)]
    return found


def programs() -> list[str]:
    """The presets and the published configs, without those whose training step is that of another."""
    with open(ROOT / "third_party" / "published_results.csv", encoding="utf-8", newline="") as file:
        published = [row["config"].removeprefix("configs/").replace(".py", "") for row in csv.DictReader(file)]
    chosen: dict[str, str] = {}
    for spec in [*presets(), *published]:
        name, _, argument = spec.partition(":")
        config = configs.to_json(config_files.read(f"{ROOT}/configs/{name}.py", argument))
        data = {key: config["data"][key] for key in ("copies", "segments", "sampling", "labels")}
        config["augment"].pop("noise")  # `small` switches it off
        parts = [config[key] for key in ("frontend", "model", "loss", "optimizer", "augment", "freeze")]
        chosen.setdefault(str([data, *parts]), spec)
    return sorted(chosen.values())


def small(config, tones):
    """The config at small sizes: what it chose stays, what costs time or needs other data goes."""
    bands = {"n_mels": 40, "n_bins": 40} if config.model.name.startswith("schindler") else {}  # its pooling needs 40 of them
    for key, value in (FRONTEND | bands).items():
        if key in config.frontend and config.frontend[key] not in (0, "", ()):
            configs.override(config, f"frontend.{key}", value)
    for key, value in MODEL.get(config.model.name, {}).items():
        configs.override(config, f"model.{key}", value)
    samples = 6_400 if config.model.name.startswith(("schindler", "burrows_conv2d")) else 2_000
    config.data.update(name="tones", data_dir=str(tones), sample_rate=8_000, samples=samples, reader="threads", conditioning=[])
    config.data.update(train="train", validation=config.data.validation and "validation", test="test", margin=0, segment_hop=0)
    config.augment.noise.data_set = ""
    config.augment.vocoder_fft = 256
    config.train.update(batch_size=8, duration="1 steps")
    config.evaluate.update(batch_size=8, hop=0)
    config.devices = 1
    config.init_from, config.head.start, config.distill.teacher = "", "random", ""  # test_distill.py has teachers
    return config


def random_state(run):
    """The first state of a run with weights from NumPy: the network's initialisers take as long to compile as the step."""
    rng = np.random.default_rng(0)
    shapes = run.program.shapes()[0]
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype), shapes.params)
    return run.program.devices.replicate(state.replace(params=params))


def test_presets_are_found():
    assert {"bytenet:demo", "schindler:code", "burrows:conv2d", "gmm"} <= set(presets()) and len(presets()) >= 55
    assert len(programs()) >= 40


def slow_combinations() -> list:
    """`programs`; combinations of presets, and more programs of the same network and front end, are slow tests."""
    seen, found = set(), []
    for spec in programs():
        name, _, argument = spec.partition(":")
        config = config_files.read(f"{ROOT}/configs/{name}.py", argument)
        pair = config.model.name, config.frontend.name
        found.append(pytest.param(spec, marks=[pytest.mark.slow] if "," in spec or pair in seen else []))
        seen.add(pair)
    return found


@pytest.mark.parametrize("preset", slow_combinations())
def test_one_step_of_every_preset(tones, preset):
    name, _, argument = preset.partition(":")
    config = small(configs.load(f"{ROOT}/configs/{name}.py:{argument}", {"data.name": "synthetic"}), tones)
    configs.validate(config)
    assert config.model.name in MODELS
    config = resolved(config)
    run = Run(config)
    if config.model.name == "gmm":
        from genre_jax import gmm

        params, likelihood = gmm.fit(run, run.initial_state())
        assert params["means"].shape[:2] == (len(CLASSES), 2) and np.isfinite(likelihood)
        return
    state = random_state(run)
    before = jax.device_get(state.params)
    batch = run.program.devices.shard(run.batches(0))
    state, metrics = run.program.train_step(state, run.constants, batch)
    assert np.isfinite(float(metrics["loss"])) and float(metrics["gradient_norm"]) > 0
    changed = [np.any(a != b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True)]
    assert any(changed) if config.freeze.patterns else sum(changed) > 0.5 * len(changed)
