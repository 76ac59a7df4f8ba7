"""Memory and FLOPs of a training step against known values, and the planner's answers against direct compilation."""

import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT, finish, run_module, small_config

from genre_jax import config as configs
from genre_jax import run as runs
from genre_jax.console import UserError
from genre_jax.planning import memory
from genre_jax.planning.flops import flops
from genre_jax.run import Run

# A ByteNet without blocks: its step compiles in a second.
BARE = {"model__strides": [], "model__decoder_sets": 0, "model__dropout": 0.0, "devices": 1}
BARE_FLAGS = ("--config.model.strides=[]", "--config.model.decoder_sets=0")


# ---------------------------------------------------------------- FLOPs


def test_flops_count_loops_by_their_length():
    w, x = jnp.ones((8, 8)), jnp.ones((4, 8))
    product = 2 * 4 * 8 * 8

    def scanned(wrap, w, x):
        return jax.lax.scan(wrap(lambda c, _: (jnp.tanh(c @ w), None)), x, None, length=10)[0].sum()

    plain, remat = (functools.partial(scanned, wrap) for wrap in (lambda f: f, jax.checkpoint))
    assert flops(plain, w, x) == 10 * product
    assert flops(jax.grad(plain, (0, 1)), w, x) == 30 * product
    assert flops(jax.jit(jax.grad(remat, (0, 1))), w, x) == 40 * product  # the forward pass twice
    assert flops(lambda w, x: jax.lax.fori_loop(0, 7, lambda i, c: c @ w, x), w, x) == 7 * product
    assert flops(lambda w, x: jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w), w, x) == 2 * product


def test_flops_of_convolutions():
    x, kernel = jnp.ones((2, 100, 8)), jnp.ones((3, 8, 16))

    def strided(x, kernel):
        y = jax.lax.conv_general_dilated(x, kernel, (2,), [(1, 1)], dimension_numbers=("NWC", "WIO", "NWC"))
        return y.sum()

    forward = 2 * (2 * 50 * 16) * (3 * 8)
    assert flops(strided, x, kernel) == forward
    assert flops(jax.grad(strided, (0, 1)), x, kernel) == 3 * forward

    def depthwise(x):
        return jax.lax.conv_general_dilated(
            x, jnp.ones((3, 1, 8)), (1,), [(1, 1)], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=8
        )

    assert flops(depthwise, x) == 2 * (2 * 100 * 8) * 3


def test_recomputation_costs_flops(tones):
    """`none` computes nothing twice."""
    planner = memory.Planner(
        small_config(tones, devices=1, model__max_dilation=8, model__strides=[], model__dropout=0.0), 4, limit=1e9
    )
    cost = {policy: planner.flops(policy) for policy in ("none", "block", "tree")}
    assert cost["none"] < cost["block"] < cost["tree"] < 2 * cost["none"]


# ---------------------------------------------------------------- bytes


def test_predicted_bytes_are_temporaries_arguments_and_what_outputs_add():
    assert memory.Needs(100, 7, 50, 40, 30).predicted_bytes == 160
    step = jax.jit(lambda state, x: (state + 1, jnp.sort(x).sum()), donate_argnums=0)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1000,), (512, 256))]
    needs = memory.Needs.of(step.lower(*shapes).compile())
    assert needs.argument_bytes == 4 * (1000 + 512 * 256)
    assert needs.aliased_bytes == 4000  # the output overwrites the donated state
    assert 4004 <= needs.output_bytes <= 4100
    assert needs.temp_bytes >= 4 * 512 * 256
    assert needs.predicted_bytes == needs.temp_bytes + needs.argument_bytes + needs.output_bytes - 4000


@pytest.mark.parametrize("model", ["bytenet", pytest.param("resnet", marks=pytest.mark.slow)])
def test_shapes_are_those_of_the_run(tones, model):
    """`Run.shapes` has the shapes and types of the run's arrays."""
    run = Run(small_config(tones, model, ema=0.9, **(BARE if model == "bytenet" else {}) | {"devices": 2}))
    real = (run.initial_state(), run.constants, run.program.devices.shard(run.batches(0)))
    described = [jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree) for tree in (real, run.program.shapes())]
    assert described[0] == described[1]


@pytest.mark.parametrize(
    ("text", "size"), [("24GiB", 24 * 2**30), ("80 GB", 80e9), ("1.5GB", 1.5e9), ("512MiB", 2**29), ("40MB", 4e7)]
)
def test_sizes_are_read(text, size):
    assert memory.parse_bytes(text, "--memory") == size


@pytest.mark.parametrize("text", ["24", "GB", "24 gigabytes", "-1GB", "0GB", "1.2.3GB"])
def test_errors_for_illegal_sizes(text):
    with pytest.raises(UserError) as error:
        memory.parse_bytes(text, "--memory")
    assert (
        str(error.value) == f"--memory must be a number above 0 with a unit (MB, MiB, GB, GiB), such as '24GiB', not {text!r}"
    )


def test_what_counts_as_running_out():
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        jnp.ones((2**20, 2**20)).block_until_ready()
    assert memory.ran_out(error.value)
    assert memory.ran_out(MemoryError())
    assert not memory.ran_out(jax.errors.JaxRuntimeError("INTERNAL: Out of luck"))
    assert not memory.ran_out(RuntimeError("RESOURCE_EXHAUSTED"))


def test_a_cpu_device_has_its_share_of_the_physical_memory():
    whole = memory.device_memory() * jax.local_device_count()
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")).split()[1]
    assert whole == pytest.approx(1024 * int(total), rel=0.05)


# ---------------------------------------------------------------- classes


def test_classes_come_from_the_passport_or_are_known(tones):
    config = small_config(tones)
    assert memory.count_classes(config) == 4
    config.data.data_dir = "nowhere"
    with pytest.raises(
        UserError, match=r"^data set 'tones' is not in 'nowhere': give its number of classes, as in --classes=10$"
    ):
        memory.count_classes(config)
    from genre_jax.datasets import DATASETS, audioset, gtzan, synthetic

    assert memory.CLASSES.keys() == DATASETS.keys() - {"folder"}
    for name, classes in {
        "audioset_music": audioset.music_labels(),
        "gtzan": gtzan.GENRES,
        "synthetic": synthetic.GENRES,
        "synthetic_hard": synthetic.GENRES,
        "synthetic_multilabel": synthetic.GENRES,
        "synthetic_musan": synthetic.MUSAN_CLASSES,
    }.items():
        assert memory.CLASSES[name] == len(classes)
    config.data.name = "audioset_music"
    assert memory.count_classes(config) == 67


# ---------------------------------------------------------------- what fits


@pytest.mark.parametrize(
    ("size", "limit", "start"),
    [
        (lambda n: 100 + 7 * n, 1000, 16),
        (lambda n: 100 + 7 * n, 1000, 1),
        (lambda n: 100 + 7 * n + 5 * (n % 3), 1000, 4),  # padding of buffers
        (lambda n: 100 + n**1.3, 1000, 8),
        (lambda n: 100 + 900 * (n // 8), 5000, 3),  # flat, then a step
        (lambda n: math.inf if n > 37 else 5 * n, 1e6, 64),  # the compiler fails below the limit
        (lambda n: 7 * n, 1e9, 2),
    ],
)
def test_largest_fits_and_the_next_does_not(size, limit, start):
    evaluated = []
    n = memory.largest(lambda n: evaluated.append(n) or size(n), limit, start)
    assert size(n) <= limit < size(n + 1)
    assert {n, n + 1} <= set(evaluated) and len(evaluated) == len(set(evaluated)) <= 25


@pytest.mark.parametrize(
    ("size", "limit", "start"),
    [
        (lambda n: n / 2000 + 30 * (n > 72_345), 64, 128),  # a jump that no secant predicts, as SwishNet has
        (lambda n: n / 2000 + 30 * (n > 127_000), 64, 128),
        (lambda n: 100 + n**1.3, 1e6, 8),
    ],
)
def test_largest_of_thousands_is_exact_to_one_percent(size, limit, start):
    evaluated = []
    n = memory.largest(lambda n: evaluated.append(n) or size(n), limit, start)
    beyond = min(m for m in evaluated if m > n)
    assert size(n) <= limit < size(beyond) and beyond <= n * 1.01
    assert n in evaluated and len(evaluated) == len(set(evaluated)) <= 17


def test_largest_of_a_linear_size_needs_four_evaluations():
    evaluated = []
    assert memory.largest(lambda n: evaluated.append(n) or 100 + 7 * n, 1000, 16) == 128
    assert evaluated == [1, 16, 128, 129]
    assert memory.largest(lambda n: 2000 + n, 1000, 16) == 0


def test_the_largest_batch_fits_and_one_more_does_not(tones):
    """The planner's answer agrees with direct compilation."""
    config = small_config(tones, **BARE)
    planner = memory.Planner(config, 4, limit=20e6)
    batch = planner.largest("none")
    assert batch > 8

    def compiled(clips):
        changed = configs.from_json(configs.to_json(config))
        changed.train.batch_size = clips
        program = runs.Program(changed, runs.devices_of(changed), 4, clips=24)
        return memory.Needs.of(program.train_step.lower(*program.shapes()).compile()).predicted_bytes

    assert planner.bytes("none", batch) == compiled(batch) <= 20e6 < compiled(batch + 1)


# Policy → MB, MB per clip of a micro-batch, FLOPs.
MADE_UP = {"none": (100, 100, 3), "block": (100, 40, 4), "tree": (100, 30, 6), "lean": (100, 20, 5), None: (50, 80, 3)}


class Linear(memory.Planner):
    """A planner with made-up needs; gradient accumulation adds 10 MB."""

    def bytes(self, policy, batch, accumulate=1):
        base, slope, _ = MADE_UP[policy]
        return 1e6 * (base + slope * (batch // accumulate) + (10 if accumulate > 1 else 0))

    def flops(self, policy):
        if policy not in MADE_UP:
            raise UserError("not on this device")
        self._flops[policy] = MADE_UP[policy][2]
        return self._flops[policy]


REMAT = "--config.model.remat="


@pytest.mark.parametrize(
    ("megabytes", "flags", "sentence"),
    [
        (2000, (f"{REMAT}none",), f"use {REMAT}none: 16 clips per device take 1,700 MB of 2,000 MB with remat=none"),
        (800, (), "keep the config as it is: 16 clips per device take 740 MB of 800 MB with remat=block"),
        # tree would also fit, but lean is cheaper
        (600, (f"{REMAT}lean",), f"use {REMAT}lean: 16 clips per device take 420 MB of 600 MB with remat=lean"),
        (400, (f"{REMAT}none", "--config.train.accumulate=8"),
         f"use {REMAT}none --config.train.accumulate=8: 16 clips per device in micro-batches of 2 take 310 MB of 400 MB with "
         "remat=none"),
        (155, ("--config.train.accumulate=16",),
         "use --config.train.accumulate=16: 16 clips per device in micro-batches of 1 take 150 MB of 155 MB with remat=block"),
        # one clip fits, but not with the accumulated gradients
        (125, (f"{REMAT}lean", "--config.train.batch_size=1"),
         f"use {REMAT}lean --config.train.batch_size=1: 1 clips per device take 120 MB of 125 MB with remat=lean"),
        (90, None, "no settings fit 90 MB: one clip takes 120 MB with remat=lean; reduce data.samples or the size of the model"),
    ],
)  # fmt: skip
def test_advice(tones, megabytes, flags, sentence):
    config = small_config(tones, devices=1, train__batch_size=16, model__remat="block")
    assert Linear(config, 4, megabytes * 1e6).advise() == (flags, sentence)


def test_advice_counts_every_device_and_the_micro_batches_of_the_config(tones):
    config = small_config(tones, devices=4, train__batch_size=32, train__accumulate=2, model__remat="none")
    assert Linear(config, 4, 520e6).advise().flags == ()
    flags = (f"{REMAT}lean", "--config.train.accumulate=1", "--config.train.batch_size=4")
    assert Linear(config, 4, 120e6).advise().flags == flags


def test_a_model_without_policies_gets_micro_batches(tones):
    config = small_config(tones, "resnet", devices=1, train__batch_size=16)
    assert memory.Planner(config, 4, limit=1e9).policies == [None]
    sentence = "use --config.train.accumulate=4: 16 clips per device in micro-batches of 4 take 380 MB of 400 MB"
    assert Linear(config, 4, 400e6).advise() == (("--config.train.accumulate=4",), sentence)


def test_an_unsupported_policy_is_skipped(tones, capsys, monkeypatch):
    monkeypatch.setattr(memory, "REMAT", ("tree", "none", "elsewhere"))
    assert Linear(small_config(tones, devices=1), 4, 1e9).policies == ["none", "tree"]
    assert "remat=elsewhere is skipped: not on this device" in capsys.readouterr().out
    monkeypatch.setattr(memory, "REMAT", ("elsewhere",))
    with pytest.raises(UserError, match=r"^not on this device$"):
        Linear(small_config(tones, devices=1), 4, 1e9).advise()


# ---------------------------------------------------------------- commands


def run_script(script: str, *arguments: str) -> subprocess.Popen:
    """Run `script`, which patches a command and starts it, with `arguments` in sys.argv."""
    script = f"import sys; sys.argv = {['command', *arguments]!r}\n{script}"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


HIDE = "sys.modules.update(dict.fromkeys(['librosa', 'tensorflow', 'matplotlib', 'sklearn', 'soundfile']))\n"


def check_plan(tones, path, process, policies):
    out, _ = finish(process)
    written = json.loads(path.read_text())
    assert [row["remat"] for row in written["rows"]] == policies
    for row in written["rows"]:
        assert row["largest_batch"] > 8 and row["predicted_bytes"] <= 20e6 and row["flops_a_clip"] > 0
        assert f"{row['largest_batch']:,}" in out
    assert written["memory_bytes"] == 20_000_000 and "jax" in written["environment"]
    assert written["advice"]["flags"] == [] and out.strip().endswith(written["advice"]["sentence"])


def test_plan_prints_rows_and_advice(tones, tmp_path):
    """One policy, to compile less. The optional libraries cannot be imported."""
    path = tmp_path / "plan.json"
    script = f"""{HIDE}
from genre_jax import console
from genre_jax.planning import memory
from genre_jax.bench import plan
memory.REMAT = ("none",)
console.run(plan.main, plan.parse_flags)
"""
    arguments = (f"--config={ROOT}/tests/small_run.py:bytenet", f"--config.data.data_dir={tones}", *BARE_FLAGS)
    check_plan(tones, path, run_script(script, *arguments, "--memory=20MB", f"--json={path}"), ["none"])


@pytest.mark.slow
def test_plan_of_a_model_without_policies(tones, tmp_path):
    path = tmp_path / "plan.json"
    arguments = [
        f"--config={ROOT}/tests/small_run.py:resnet",
        f"--config.data.data_dir={tones}",
        "--memory=20MB",
        f"--json={path}",
    ]
    check_plan(tones, path, run_module("genre_jax.bench", "plan", *arguments), [None])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "error: --config is missing: give a config file, such as --config=bytenet\n"),
        (["--config=configs/bytenet.py", "--memory=24"], "error: --memory must be a number above 0 with a unit "
         "(MB, MiB, GB, GiB), such as '24GiB', not '24'\n"),
    ],
)  # fmt: skip
def test_plan_errors_are_one_sentence(arguments, sentence):
    _, err = finish(run_module("genre_jax.bench", "plan", *arguments), code=1)
    assert err == sentence


MAIN_OUT_OF_MEMORY = """
import jax.numpy as jnp
from genre_jax import console, loop, main
from genre_jax.planning import memory
loop.train_and_evaluate = lambda *_: jnp.ones((2**20, 2**20)).block_until_ready()
"""
RUN_MAIN = "console.run(main.main, console.parse_flags)"


def test_main_advises_when_memory_runs_out(tones):
    """The error is XLA's own. The needs of the settings are made up, therefore nothing is compiled."""
    needs = "memory.Planner.bytes = lambda self, policy, batch, parts=1: 1e6 * (9 if policy == 'none' else 5) * batch / parts\n"
    arguments = (f"--config={ROOT}/tests/small_run.py:bytenet", f"--config.data.data_dir={tones}")
    _, err = finish(run_script(MAIN_OUT_OF_MEMORY + needs + RUN_MAIN, *arguments), code=1)
    assert err == (
        "error: out of memory (Out of memory allocating 4398046511104 bytes.): use --config.model.remat=block: "
        "8 clips per device take 40 MB of 72 MB with remat=block\n"
    )


@pytest.mark.slow
def test_main_advises_what_fits(tones):
    """The same with the real planner: the advice needs less memory than the run that failed."""
    arguments = (f"--config={ROOT}/tests/small_run.py:bytenet", f"--config.data.data_dir={tones}", *BARE_FLAGS)
    out, err = finish(run_script(MAIN_OUT_OF_MEMORY + RUN_MAIN, *arguments), code=1)
    assert "use --config.train.accumulate=2: 8 clips per device in micro-batches of 4 take" in err
    assert "compiled remat=none batch 8" in out


def test_dry_run_reports_dead_blocks(tones, capsys):
    from genre_jax import dry_run

    config = small_config(
        tones, devices=1, model__max_dilation=512, model__strides=[], train__duration="1 steps", data__samples=300
    )
    run = Run(config)
    reach, seconds = run.program.reach()
    assert (reach.dead_blocks, reach.blocks) == (1, 10) and seconds == 1 / 8000
    dry_run._reach(run)
    out = capsys.readouterr().out
    assert f"{reach.receptive_field:,} steps ({reach.receptive_field / 8000:.3g} s) in all" in out
    assert f"{reach.effective_field:,} steps ({reach.effective_field / 8000:.3g} s) within a cut" in out
    assert "1 of 10 (model.cap_dilation=true caps their dilation)" in out
