"""`bench train_step`: the computations of both sides, and the summary of their times. No time is asserted."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT, finish, run_module

from genre_jax import models
from genre_jax.bench import cards, contestants, network_cases, rounds, torch_names
from genre_jax.console import UserError

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


class Runner:
    """A contestant whose first step takes `first` seconds, and the next ones the `rest` in turn."""

    def __init__(self, rest, first=9.0, losses=(2.0, 1.9)):
        self.times, self.losses, self.requests = [first, *rest], list(losses), []

    def ask(self, method, steps):
        assert method == "run"
        self.requests.append(steps)
        seconds = self.times.pop(0) if len(self.times) > 1 else self.times[0]
        return seconds * steps, 2 * seconds * steps, self.losses.pop(0) if self.losses else 1.0


class Broken(Runner):
    def ask(self, method, steps):
        raise UserError("ModuleNotFoundError: No module named 'torch'")


def test_losses_must_agree_before_and_after_an_update():
    facts = rounds.start({"ours": Runner([1.0]), "peer": Runner([2.0], losses=(2.0001, 1.909))}, ["ours"], 1e-4)
    assert facts["ours"] == {"losses": [2.0, 1.9], "compile_s": 8.0, "step_s": 1.0}
    for losses in ((2.0, 1.912), (2.0, 1.88), (2.001, 1.9), (2.0, float("nan"))):
        with pytest.raises(UserError, match="peer computes other losses than ours from the same weights and inputs"):
            rounds.start({"ours": Runner([1.0]), "peer": Runner([2.0], losses=losses)}, ["ours"], 1e-4)


def test_only_the_first_loss_of_a_coarse_contestant_must_agree():
    field = {"ours": Runner([1.0]), "peer": Runner([2.0], losses=(2.0019, 1.7))}
    assert rounds.start(field, ["ours"], 1e-4, ["peer"])["peer"]["losses"] == [2.0019, 1.7]
    with pytest.raises(UserError, match="peer computes other losses"):
        rounds.start({"ours": Runner([1.0]), "peer": Runner([2.0], losses=(2.0021, 1.9))}, ["ours"], 1e-4, ["peer"])


def test_a_peer_that_cannot_run_is_skipped_with_a_message(capsys):
    field = {"ours": Runner([1.0]), "peer": Broken([])}
    assert list(rounds.start(field, ["ours"], 1e-4)) == list(field) == ["ours"]
    assert "peer is skipped: ModuleNotFoundError: No module named 'torch'" in capsys.readouterr().out
    with pytest.raises(UserError, match="No module named 'torch'"):
        rounds.start({"ours": Broken([])}, ["ours"], 1e-4)


def test_rounds_alternate_and_time_many_short_steps():
    long, short = Runner([1.0]), Runner([0.1])
    clock, cores = rounds.alternate({"long": long, "short": short}, {"long": {"step_s": 1.0}, "short": {"step_s": 0.1}}, 2)
    assert long.requests == [1, 1] * 2
    assert short.requests == [1, 3] * 2  # at least 0.3 s, after a step that is not timed
    assert clock["short"] == pytest.approx([0.1, 0.1])
    assert cores["short"] == pytest.approx([0.2, 0.2])


def test_ratios_are_computed_per_round_to_our_fastest():
    times = {"slow": [3.0, 3.0, 6.0], "fast": [1.0, 2.0, 4.0], "peer": [2.0, 2.0, 12.0]}
    rows = rounds.summary(times, times, ["slow", "fast"])
    assert rows["peer"]["core_s"] == rows["peer"]["core_times_ours"] == 2
    assert rows["fast"]["times_ours"] == 1
    assert rows["slow"]["times_ours"] == 1.5
    assert rows["peer"]["times_ours"] == 2  # the median of 2, 1, 3; the ratio of the medians is 1
    assert (rows["peer"]["times_ours_lower"], rows["peer"]["times_ours_upper"]) == (1.5, 2.5)
    assert rounds.summary({"ours": [2.0]}, {"ours": [2.0]}, ["ours"])["ours"]["upper_s"] == 2


SIDE = """
class Counter:
    def __init__(self, start):
        self.value = start
    def run(self, steps):
        print("output of a library")
        self.value += steps
        return self.value, 1 / steps
def build(start):
    return {"counter": Counter(start)}
def versions():
    return {"counter": "1"}
"""


@pytest.fixture
def side(tmp_path, monkeypatch):
    """A `Side` whose module is in a folder of the shell's PYTHONPATH."""
    (tmp_path / "counting.py").write_text(SIDE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with contestants.Side("counting", sys.executable) as side:
        yield side


def test_the_other_side_keeps_its_contestants_and_reports_its_errors(side):
    counter = side.build(5)["counter"]
    assert [counter.ask("run", 2), counter.ask("run", 1)] == [[7, 0.5], [8, 1.0]]
    assert side.versions() == {"counter": "1"}
    with pytest.raises(UserError, match=r"ZeroDivisionError: division by zero \(counting.py:8\)"):
        counter.ask("run", 0)
    assert counter.ask("run", 1) == [9, 1.0]
    side.process.kill()
    with pytest.raises(UserError, match="the other interpreter ended during 'run'"):
        counter.ask("run", 1)


def test_error_for_a_module_that_cannot_be_imported():
    with contestants.Side("no_such_side", sys.executable) as side, pytest.raises(UserError, match="No module named 'no_such"):
        side.build()


@pytest.mark.parametrize(
    ("model", "shape", "options"),
    [
        ("bytenet", (99, 1), {"width": 4, "max_dilation": 4, "strides": (4, 2), "decoder_sets": 1}),
        ("resnet34", (70, 45, 1), {"width": 4}),
    ],
)
def test_every_variable_has_torchs_name_and_shape(model, shape, options):
    """golden/torch.npz has PyTorch's names of all variables except those of the frozen stem."""
    net = models.build(model, num_classes=5, **options)
    variables = jax.tree.map(lambda like: np.zeros(like.shape), models.abstract_variables(net, shape))
    arrays = torch_names.torch_arrays(variables, network_cases.CASES[model].rename)
    with np.load(ROOT / "tests/golden/torch.npz") as golden:
        keys = [key.removeprefix(f"{model}/").partition("/") for key in golden if key.startswith(f"{model}/")]
        statistics = {name: golden[f"{model}/statistics/{name}"].shape for kind, _, name in keys if kind == "statistics"}
    assert arrays.keys() - {"0.weight", "0.bias"} == {name for kind, _, name in keys if kind in ("gradient", "statistics")}
    assert {name: arrays[name].shape for name in statistics} == statistics


def test_kernels_are_transposed_and_blocks_unstacked():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    blocks = torch_names.torch_arrays({"params": {"decoder0": {"conv2": {"kernel": kernel}}}}, torch_names.bytenet)
    np.testing.assert_array_equal(blocks["decoder.0.1.conv2.weight"], kernel[1].transpose(2, 1, 0))
    image = torch_names.torch_arrays({"params": {"conv1": {"kernel": kernel}}}, torch_names.behind_stem(str))
    np.testing.assert_array_equal(image["2.conv1.weight"], kernel.transpose(3, 2, 0, 1))


def test_a_dry_run_of_our_side_alone(tmp_path):
    """The step is a run's step, AMSGrad on the loss of the whole batch, and the peer's problem is complete."""
    (step,) = network_cases.build("bytenet", [{}], "float32", True, {"batch": 3}).values()
    problem = step.problem(str(tmp_path / "problem.npz"))
    losses = [step.run(1)[-1] for _ in range(3)]
    assert losses == sorted(losses, reverse=True)
    assert problem["batch"] == 3 and problem["options"]["width"] == 4
    with np.load(tmp_path / "problem.npz") as file:
        assert file["inputs"].shape == (3, *problem["shape"]) and file["inputs"].dtype == np.float32
        assert sum(file[key].size for key in file if key.startswith("weights/")) == step.work()["parameters"]


def test_work_counts_products_and_knows_the_card(monkeypatch):
    (step,) = network_cases.build("burrows_mlp", [{}], "bfloat16", True, {}).values()
    first, second, last = 80 * 256, 256 * 256, 256 * 8  # the first layer needs no gradient by its input
    # The loss also multiplies the labels by the class weights, twice.
    work = {"parameters": 88_584, "flops": 2 * 4 * (2 * first + 3 * second + 3 * last + 2 * 8), "card_flops_a_second": None}
    assert step.work() == work
    monkeypatch.setitem(cards.CARDS, jax.devices()[0].device_kind, cards.CARDS["NVIDIA H200"])
    assert step.work() == work | {"card_flops_a_second": 989e12}


@needs_torch
def test_both_sides_compute_the_same_bytenet(tmp_path):
    from genre_jax.bench import peer_networks

    assert_same_losses("bytenet", tmp_path, peer_networks)


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in network_cases.CASES if name != "bytenet"])
def test_both_sides_compute_the_same(tmp_path, name):
    from genre_jax.bench import peer_networks

    assert_same_losses(name, tmp_path, peer_networks)


class Here:
    """A contestant in this process with the interface of a remote one."""

    def __init__(self, step):
        self.step = step

    def ask(self, method, *arguments):
        return getattr(self.step, method)(*arguments)


def assert_same_losses(name, tmp_path, peer_networks):
    """The losses agree by the benchmark's rule, with and without recomputation in the peer."""
    (ours,) = network_cases.build(name, [{}], "float32", True, {}).values()
    path = str(tmp_path / "problem.npz")
    problem = ours.problem(path)
    field = {"genre_jax": Here(ours)}
    for recompute in (False, True):
        (peer,) = peer_networks.build(problem, path, "float32", recompute, ["PyTorch"]).values()
        field[f"PyTorch {recompute}"] = Here(peer)
    assert len(rounds.start(field, ["genre_jax"], 1e-4)) == 3


@pytest.mark.slow
def test_dry_run_writes_rows_of_both_sides(tmp_path):
    path = tmp_path / "rows.json"
    out, _ = finish(
        run_module("genre_jax.bench", "train_step", "--networks=bytenet", "--dry_run", "--nocompiled", f"--json={path}")
    )
    record = json.loads(path.read_text())
    rows = {row["library"]: row for row in record["rows"]}
    assert record["dry_run"] and record["variables"]["peer"]["MALLOC_ARENA_MAX"] == "1" and "jax" in record["environment"]
    assert "--dry_run" in record["environment"]["command"]
    if importlib.util.find_spec("torch"):
        assert rows["PyTorch"]["losses"] == pytest.approx(rows["genre_jax"]["losses"], rel=1e-4)
        assert rows.keys() == {"genre_jax", "PyTorch"} and "torch" in record["environment"]
    else:
        assert rows.keys() == {"genre_jax"}
        assert "bytenet: no peer, ModuleNotFoundError: No module named 'torch'" in out
    for row in rows.values():
        assert row["upper_s"] >= row["median_s"] >= row["lower_s"] > 0 and len(row["seconds"]) == 2
        assert (row["network"], row["batch"]) == ("bytenet", 2)
        assert row["flops_a_second"] == row["flops"] / row["median_s"]


WRONG = {
    "--networks=bitenet": "unknown network 'bitenet' (did you mean 'bytenet'?): choose one of burrows_conv1d, burrows_conv2d, "
    "burrows_mlp, bytenet, bytenet_512, choi_cnn, dense_cnn, densenet121, folmer_cnn, mobilenet_v1, and 9 more",
    "--dtype=float16": "unknown dtype 'float16' (did you mean 'bfloat16'?): choose one of bfloat16, float32",
    "--malloc=us": "unknown --malloc 'us' (did you mean 'ours'?): choose one of both, neither, ours",
    "--shape=100": "--shape needs exactly one network in --networks, not 2",
    "--ours=remat": "--ours must be KEY=VALUE,… as in 'remat=block,backend=lax', not 'remat'",
    "--rounds=0": "--rounds must be at least 1 and --batch at least 0, not 0 and 0",
}
CHECK = """
import sys
from absl import flags
from genre_jax.bench import train_step
from genre_jax.console import UserError
for flag in sys.argv[1:]:
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["", "--networks=bytenet,resnet34", "--dtype=float32", "--rounds=1", "--shape=", "--ours=", flag])
    try:
        train_step.check_flags()
    except UserError as error:
        print(error)
"""


def test_errors_for_illegal_flags():
    command = [sys.executable, "-c", CHECK, *WRONG, "--rounds=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    out, _ = finish(subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    assert out.splitlines() == list(WRONG.values())
