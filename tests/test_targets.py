"""Tests of plans for GPUs that this machine lacks. Tests that compile for a GPU run only with JAX's CUDA plugin."""

import importlib.util
import json
import types

import jax
import pytest
from conftest import ROOT, finish, run_module, small_config
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from genre_jax import parallel
from genre_jax.bench import targets
from genre_jax.console import UserError
from genre_jax.models import cpu
from genre_jax.planning import memory

HERE = importlib.util.find_spec("jax_plugins") and any(importlib.util.find_spec(f"jax_plugins.xla_cuda{n}") for n in (12, 13))
plugin = pytest.mark.skipif(not HERE, reason="JAX's CUDA plugin is not installed")
DILATION = ("genre_jax.bench", "dilation", "--dry_run", "--max_dilation=4", "--remat=lean")


@pytest.fixture
def absent(monkeypatch):
    """After the test, restore the settings that `use` and `compile_for` change."""
    monkeypatch.setattr(parallel, "_absent", [])
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    before = {name: getattr(jax.config, name) for name in ("jax_platforms", "jax_enable_compilation_cache")}
    compilation_cache.reset_cache()  # JAX reads the cache setting only once
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_code_is_that_of_the_card_and_not_of_this_machine(absent):
    assert parallel.platform() == jax.default_backend() == "cpu"
    assert cpu.chunk_length(1 << 28, 2) == cpu.CHUNK["cpu"] // 2
    cards = [types.SimpleNamespace(platform="gpu", process_index=0) for _ in range(2)]
    parallel.compile_for(cards)
    assert parallel.platform() == "gpu" and parallel.available() == cards
    assert cpu.chunk_length(1 << 28, 2) > cpu.CHUNK["cpu"] // 2
    with pytest.raises(UserError, match=r"^config key 'devices' must be at most 2, the devices of this machine, not 3$"):
        parallel.Devices(3)


def test_a_card_is_described_to_xla(absent, monkeypatch):
    asked = []

    def describe(name, platform, *, target_config, topology):
        asked.append((name, platform, topology, target_config))
        return types.SimpleNamespace(devices=["a card"])

    monkeypatch.setattr(topologies, "get_topology_desc", describe)
    assert targets.use("h200", 4) == int(0.75 * 151_397_597_184)  # the share of GPU memory that JAX allocates
    ((name, platform, topology, description),) = asked
    assert (name, platform, topology, parallel.available()) == ("h200", "cuda", "1x1x4", ["a card"])
    for line in ('name: "NVIDIA H200"', "core_count: 132", "device_memory_size: 151397597184", "capability { major: 9 "):
        assert line in description
    assert "{" not in description.replace(" {\n", "").replace("{ major", "") and description.count("}") == 3


def test_without_the_plugin_or_with_an_unknown_card_there_is_a_sentence(absent, monkeypatch):
    def none(*_, **__):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(topologies, "get_topology_desc", none)
    with pytest.raises(UserError, match=r"^--target=a100 needs JAX's CUDA plugin, .*: pip install '\.\[cuda\]' \(topology not"):
        targets.use("a100")
    with pytest.raises(UserError, match=r"^unknown target 'b100' \(did you mean 'h100'\?\): choose one of a100, h100, h200$"):
        targets.use("b100")
    assert parallel.available() == jax.devices()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--target=h100"], "--target=h100 needs --plan_only: what is compiled for a card that is not here cannot run"),
        (["--target=x", "--plan_only"], "unknown target 'x': choose one of a100, h100, h200"),
    ],
)
def test_bad_targets_get_a_sentence(arguments, sentence):
    _, err = finish(run_module(*DILATION, *arguments), code=1)
    assert err == f"error: {sentence}\n"


@plugin
def test_rows_of_a_card_that_is_not_here(tmp_path):
    """Plans one GPU, and two GPUs that share a clip."""
    for shards in (1, 2):
        path = tmp_path / f"{shards}.json"
        finish(run_module(*DILATION, "--plan_only", "--target=h100", f"--time_shards={shards}", f"--json={path}"))
        written = json.loads(path.read_text())
        (row,) = written["rows"]
        assert row["target"] == "h100" and row["status"] == "ok" and row["step_seconds"] is None
        assert row["temp_bytes"] > row["gradient_bytes"] > 0


@plugin
def test_a_plan_for_a_card_that_is_not_here(tones, tmp_path):
    path = tmp_path / "plan.json"
    arguments = (f"--config={ROOT}/tests/small_run.py:snn", f"--config.data.data_dir={tones}", f"--json={path}")
    finish(run_module("genre_jax.bench", "plan", *arguments, "--target=a100"))
    written = json.loads(path.read_text())
    assert written["target"] == "a100" and written["memory_bytes"] == int(0.75 * 85_100_068_864)
    (row,) = written["rows"]
    assert row["largest_batch"] > 1000 and 0.5 < row["predicted_bytes"] / written["memory_bytes"] <= 1


@plugin
def test_a_program_for_a_card_is_the_cards(absent, tones):
    limit = targets.use("h100")
    planner = memory.Planner(small_config(tones, devices=1, model__strides=[], model__decoder_sets=0), 4, limit)
    program = planner.program("none", 1)
    compiled = program.train_step.lower(*program.shapes()).compile()
    assert "__cublas$gemm" in compiled.as_text() or "__triton" in compiled.as_text() or "__cudnn" in compiled.as_text()
    assert 0 < planner.bytes("none", 1) < planner.bytes("none", 64) < limit
