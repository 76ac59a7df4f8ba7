"""Every printed score has a config that builds at full size; `test_presets.py` takes a step of each."""

import csv
import functools

import jax
import numpy as np
import pytest
from conftest import ROOT

from genre_jax import config as configs
from genre_jax import evaluate, models
from genre_jax.explain import kernels
from genre_jax.parallel import Devices
from genre_jax.planning.memory import count_classes
from genre_jax.run import Program

with open(ROOT / "third_party" / "published_results.csv", encoding="utf-8", newline="") as file:
    ROWS = list(csv.DictReader(file))
SPECS = sorted({row["config"] for row in ROWS})
CLIPS = {"balanced": 3_146, "unbalanced": 19_042, "gtzan_random": 800, "gtzan_stratified_750_250": 750, "fma_small_70_30": 5_600,
         "musan": 1_310, "gtzan_music_speech": 32}  # fmt: skip
PARAMETERS = {  # as the documents, their code or the papers have them (docs/networks.md)
    "resnet34": 21_319_043, "resnet101": 42_637_443, "gru_attention": 61_284_567, "bytenet": 8_041_219, "densenet121": 6_964_106,
    "folmer_cnn": 12_851_370, "burrows_mlp": 88_584, "burrows_conv1d": 255_656, "burrows_conv2d": 2_796_648,
    "swishnet_slim": 5_466, "swishnet_wide": 18_234, "mobilenet_v1": 217_218, "schindler_shallow": 2_060_610, "schindler_deep": 1_279_522,
    "choi_cnn": 148_352 + 655_616 + 2_570,
}  # fmt: skip


load = functools.cache(lambda spec: configs.load(str(ROOT / spec)))
shapes_of = {}  # front end, network and classes → shapes of the variables; 48 configs have 21 networks


def test_the_file_holds_the_94_scores_and_ten_sizes_of_the_five_documents():
    assert len(ROWS) == 104
    counts = {document: sum(row["document"] == document for row in ROWS) for document in ("000", "001", "002", "003", "004")}
    assert counts == {"000": 19, "001": 6, "002": 6, "003": 25, "004": 48}
    values = [float(row["value"]) for row in ROWS if row["unit"] == "%"]
    assert len(values) == 94
    assert min(values) == 2.45 and max(values) == 99.45 and 27.32 in values


def test_no_two_systems_of_a_table_share_a_config():
    """Rows of one config differ in the metric alone, and the sizes of kernels in the layer too."""
    systems = {}
    for row in ROWS:
        variant = "" if row["ours"].startswith("kernel/") else row["variant"]
        about = (*(row[key] for key in ("document", "system", "front_end", "loss", "data")), variant)
        assert systems.setdefault(row["config"], about) == about
    assert len(systems) == len(SPECS) == 48


@pytest.mark.parametrize("spec", SPECS)
def test_every_config_builds_at_full_size(spec):
    config = load(spec)
    classes = count_classes(config)
    clips = CLIPS.get(config.data.name, CLIPS.get(config.data.train))
    program = Program(config, Devices(1), classes, clips)
    network = str((config.frontend, config.model, config.data.samples, config.data.sample_rate, classes))
    if network not in shapes_of:
        shapes_of[network] = jax.eval_shape(program.init)
    state = jax.eval_shape(program.state_of, shapes_of[network])
    stem = models.count(state.params.get("stem", {}))
    assert models.count(state.params) - stem == PARAMETERS[config.model.name]
    epochs = float(config.train.duration.split()[0])
    assert program.total == np.ceil(epochs * clips / config.train.batch_size)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['config']}-{row['metric'].split(' (')[0]}".replace(" ", "_"))
def test_every_score_has_a_place_in_results_json(row):
    """The path in column "ours" is a score of the config's task."""
    task = evaluate.task(load(row["config"]))
    if row["ours"].startswith("kernel/"):
        size = kernels.effective_size(load(row["config"]).to_dict(), tuple(row["ours"].split("/")))
        assert abs(size - float(row["value"])) < 1 or "a slip" in row["variant"]
        return
    path = row["ours"].removeprefix("train/")
    assert path in evaluate.selectable(task) or (path.split("/")[0], path.split("/")[2]) == ("classes", "recall")
