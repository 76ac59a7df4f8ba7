"""Tests of the runners of a step: jit equals pmap, also with a divided optimiser state, and groups of batch norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config
from networks import largest_difference

from genre_jax import parallel
from genre_jax.console import UserError
from genre_jax.models.layers import BatchNorm
from genre_jax.run import Run, devices_of

STEPS = 3


@pytest.fixture(autouse=True)
def wide():
    """Allow float64, as a float64 run does."""
    with jax.enable_x64(True):
        yield


def walk(config, steps: int = STEPS):
    """Take steps, and return the state on the devices, the losses, and the predictions for the test split."""
    run, losses = Run(config), []
    state = run.initial_state()
    for number in range(steps):
        state, metrics = run.program.train_step(state, run.constants, run.program.devices.shard(run.batches(number)))
        losses.append(float(metrics["loss"]))
    return state, losses, run.evaluate(state, "test")


@pytest.fixture(scope="module")
def expected(tones):
    """What the runner "pmap" computes on four devices."""
    with jax.enable_x64(True):
        return walk(small_config(tones, "resnet", dtype="float64", devices=4, optimizer__name="amsgrad", ema=0.5))


@pytest.mark.parametrize("sharded", [False, True])
def test_jit_equals_pmap(tones, expected, sharded):
    config = small_config(
        tones, "resnet", dtype="float64", devices=4, optimizer__name="amsgrad", ema=0.5, runner="jit", shard_optimizer=sharded
    )
    state, losses, table = walk(config)
    np.testing.assert_allclose(losses, expected[1], atol=1e-10)
    assert largest_difference(jax.device_get(state), jax.device_get(expected[0])) < 1e-10
    for key in table:
        np.testing.assert_allclose(table[key], expected[2][key], atol=1e-10)


def test_each_device_holds_its_part_of_the_optimiser_state(tones):
    config = small_config(tones, "resnet", devices=4, optimizer__name="amsgrad", runner="jit", shard_optimizer=True)
    run = Run(config)
    for state in (run.initial_state(), walk(config)[0]):
        for leaf in jax.tree.leaves(state.opt_state):
            share = 4 if any(size and size % 4 == 0 for size in leaf.shape) else 1
            assert {shard.data.size for shard in leaf.addressable_shards} == {leaf.size // share}
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params))
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.opt_state))
    assert held < 0.3 * sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))


def test_the_optimiser_state_is_divided_along_the_first_axis_that_fits():
    devices = parallel.Devices(4, runner="jit", shard_optimizer=True)
    specs = {shape: devices._divided(np.zeros(shape)).spec for shape in [(), (3,), (8,), (3, 4), (4, 4), (0, 8)]}
    assert specs == {
        (): parallel.PartitionSpec(), (3,): parallel.PartitionSpec(), (8,): parallel.PartitionSpec("devices"),
        (3, 4): parallel.PartitionSpec(None, "devices"), (4, 4): parallel.PartitionSpec("devices"),
        (0, 8): parallel.PartitionSpec(None, "devices"),
    }  # fmt: skip


def test_clips_shared_along_time_run_under_jit(tones):
    results = [
        walk(small_config(tones, dtype="float64", devices=2, model__time_shards=2, runner=runner)) for runner in ("pmap", "jit")
    ]
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-10)


@pytest.mark.parametrize("runner", parallel.RUNNERS)
def test_groups_of_batch_norm_normalise_their_own_clips(tones, runner):
    """With two groups of two devices each half of the batch is normalised alone; the running statistics are the mean."""
    x = np.random.default_rng(0).normal(size=(4, 3, 5, 2))  # (devices, batch, steps, channels)
    grouped = BatchNorm(axis_name=parallel.Group(parallel.AXIS, 2), param_dtype=jnp.float64)
    variables = BatchNorm(param_dtype=jnp.float64).init(jax.random.key(0), x[0], train=False)

    def normalise(x):
        return grouped.apply(variables, x, train=True, mutable=["batch_stats"])

    y, statistics = jax.pmap(normalise, parallel.AXIS, devices=jax.devices()[:4])(x)
    for half in (slice(0, 2), slice(2, 4)):
        part = x[half]
        mean, var = part.mean((0, 1, 2)), part.var((0, 1, 2))
        np.testing.assert_allclose(y[half], (part - mean) / np.sqrt(var + 1e-5), atol=1e-12)
        np.testing.assert_allclose(statistics["batch_stats"]["mean"][half], np.tile(0.1 * mean, (2, 1)), atol=1e-12)

    def statistics_of(**changes):
        config = small_config(tones, "resnet", dtype="float64", devices=4, runner=runner, **changes)
        return jax.device_get(walk(config, 1)[0].batch_stats)

    whole, groups = statistics_of(), statistics_of(batch_norm_devices=2)
    assert largest_difference(statistics_of(batch_norm_devices=4), whole) < 1e-12
    np.testing.assert_allclose(groups["bn1"]["mean"], whole["bn1"]["mean"], atol=1e-12)
    assert np.abs(groups["bn1"]["var"] - whole["bn1"]["var"]).max() > 1e-6


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shard_optimizer": True}, "config key 'shard_optimizer' needs runner 'jit', and runner is 'pmap'"),
        ({"runner": "vmap"}, "unknown runner 'vmap'"),
        ({"batch_norm_devices": -1}, "config key 'batch_norm_devices' must be at least 0, and was given -1"),
        ({"batch_norm_devices": 3, "devices": 4}, "config key 'batch_norm_devices' must divide 4, the number of devices, and was"),
        ({"batch_norm_devices": 2, "model__time_shards": 2}, "config key 'batch_norm_devices' must be 0 with model.time_shards"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(tones, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        devices_of(small_config(tones, **changes))
