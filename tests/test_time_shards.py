"""Tests of clips that devices share along time: the results equal those of whole clips, and each device holds a part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config
from networks import largest_difference

from genre_jax import parallel
from genre_jax.console import UserError
from genre_jax.models.bytenet import block
from genre_jax.models.bytenet.block_set import BlockSet
from genre_jax.models.bytenet.network import ByteNet
from genre_jax.models.bytenet.time_shards import TimeShards
from genre_jax.run import Run

RNG = np.random.default_rng(0)


def sharded(function, count: int):
    """Return a function that sums `function(*arguments)` over `count` devices. All devices receive the same arguments."""

    def summed(arguments, _):
        return jax.lax.psum(function(*arguments), parallel.AXIS)

    run = jax.pmap(summed, parallel.AXIS, in_axes=(None, 0), out_axes=None, devices=jax.devices()[:count])
    return lambda *arguments: jax.device_get(run(arguments, np.zeros(count)))


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(("before", "after"), [(0, 3), (2, 1), (5, 0), (4, 9), (12, 12)])
def test_extended_shards_hold_their_neighbours_steps(count, before, after):
    """A halo of at most 5 steps (the shard length) uses halo exchange. A longer halo uses gathering."""
    x = RNG.normal(size=(2, 5 * count, 3))
    shards = TimeShards(parallel.AXIS, count)
    parts = np.stack(np.split(x, count, 1))
    run = jax.pmap(lambda x: shards.extend(x, before, after), parallel.AXIS, devices=jax.devices()[:count])
    padded = np.pad(x, ((0, 0), (before, after), (0, 0)))
    for i, part in enumerate(np.asarray(run(parts))):
        np.testing.assert_array_equal(part, padded[:, 5 * i : 5 * i + before + 5 + after].astype(part.dtype))


def test_two_groups_do_not_mix():
    """Four devices share two clips. Each pair of devices receives only the data of its clip."""
    x = RNG.normal(size=(2, 1, 6, 1)).astype(np.float32)
    shards = TimeShards(parallel.AXIS, 2)
    parts = x.reshape(2, 1, 2, 3, 1).swapaxes(1, 2).reshape(4, 1, 3, 1)

    def step(x):
        return shards.extend(x, 1, 1), shards.gather(x), shards.sum(x.sum()), shards.index

    extended, whole, total, index = jax.pmap(step, parallel.AXIS, devices=jax.devices()[:4])(parts)
    np.testing.assert_array_equal(index, [0, 1, 0, 1])
    for device in range(4):
        clip = x[device // 2]
        np.testing.assert_array_equal(whole[device], clip)
        np.testing.assert_allclose(total[device], clip.sum(), rtol=1e-5)
        start = 3 * (device % 2)
        np.testing.assert_array_equal(extended[device], np.pad(clip, ((0, 0), (1, 1), (0, 0)))[:, start : start + 5])


def distance(tree, reference):
    """Return the norm of the difference of two trees divided by the norm of the reference."""
    norms = [
        np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(each)))
        for each in (jax.tree.map(np.subtract, tree, reference), reference)
    ]
    return norms[0] / norms[1]


@pytest.mark.parametrize(
    ("count", "remat", "backend", "options"),
    [
        pytest.param(2, "none", "lax", {}, marks=pytest.mark.slow),  # `test_a_run_in_parts_is_the_run` is the quick one
        pytest.param(4, "lean", "shift", {"gated": True, "dropout": 0.3}, marks=pytest.mark.slow),
        pytest.param(8, "lean", "shift", {"norm": "layer"}, marks=pytest.mark.slow),
        pytest.param(4, "block", "phases", {}, marks=pytest.mark.slow),
        pytest.param(8, "offload", "shift", {}, marks=pytest.mark.slow),
    ],
)
def test_bytenet_in_parts_is_bytenet(count, remat, backend, options):
    """Loss, logits and gradients agree on 133 samples, with odd shard lengths and dilations below and above that length."""
    width = {"width": 3, "max_dilation": 64, "strides": (4,), "decoder_sets": 1, "head": "attention", "backend": backend}
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.normal(size=(1 if remat == "block" else 3, 133, 1)))
        keys = jax.random.split(jax.random.key(1), len(x))
        whole = ByteNet(num_classes=5, **width, **options, dtype=jnp.float64, param_dtype=jnp.float64)
        parts = whole.clone(time_shards=count, axis_name=parallel.AXIS, remat=remat)
        variables = jax.jit(whole.init)(jax.random.key(0), x)

        def gradient_of(net, share):
            def loss(variables, x):
                logits, intermediates = net.apply(variables, x, keys=keys)
                return share * jnp.square(logits).sum(), (share * logits, share * intermediates["encoded"])

            return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)

        expected = jax.device_get(jax.jit(gradient_of(whole, 1))(variables, x))
        got = sharded(gradient_of(parts, 1 / count), count)(variables, x)
    assert largest_difference(got[0], expected[0]) < 1e-10
    assert distance(got[1], expected[1]) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["block", "lean"])
def test_a_set_in_parts_is_the_set_in_float32(remat):
    """The gradient of a block set is accurate in float32.

    The gradient of the whole network is not: with or without shards it differs from float64 by more than 1e-4, because
    rounding changes the sign of inputs of ReLUs.
    """
    count, samples = 8, 136
    spec = block.BlockSpec(3, (1, 4, 16, 64), False, "instance", False, 0.0, jnp.dtype("float32"), "shift", 133, None)
    x = jnp.asarray(RNG.normal(size=(3, samples, 8)), jnp.float32)

    def gradient_of(shards):
        net = BlockSet(4, spec._replace(shards=shards), remat, jnp.dtype("float32"))

        def loss(params, x):
            if shards:
                x = jax.lax.dynamic_slice_in_dim(x, shards.index * samples // count, samples // count, 1)
            y = net.apply(params, x)
            return jnp.square(shards.gather(y)[:, :133] / count**0.5 if shards else y).sum()

        return jax.value_and_grad(loss, argnums=(0, 1))

    params = jax.jit(BlockSet(4, spec, remat, jnp.dtype("float32")).init)(jax.random.key(0), x)
    value, (d_params, d_x) = jax.device_get(jax.jit(gradient_of(None))(params, x[:, :133]))
    got = sharded(gradient_of(TimeShards(parallel.AXIS, count)), count)(params, x)
    assert got[0] == pytest.approx(value, rel=1e-5)
    assert distance(got[1], (d_params, np.pad(d_x, ((0, 0), (0, samples - 133), (0, 0))))) < 1e-5


@pytest.mark.slow  # on CPUs, sums over groups and over all devices may wait for each other in XLA, which then aborts
def test_a_run_in_parts_is_the_run(tones):
    """Training and evaluation steps on 2 groups of 4 devices agree with whole clips on one device."""
    results = []
    with jax.enable_x64(True):
        for devices, shards in ((1, 1), (8, 4)):
            config = small_config(tones, devices=devices, model__time_shards=shards, dtype="float64", augment__shift=0.5)
            run = Run(config)
            state, losses = run.initial_state(), []
            for step in range(3):
                state, metrics = run.program.train_step(state, run.constants, run.program.devices.shard(run.batches(step)))
                losses.append(jax.device_get(metrics))
            table = run.evaluate(state, "test")
            results.append((losses, jax.device_get(state.params), table["logits"], table["clip"]))
    for other in results[1:]:
        assert largest_difference(other, results[0]) < 1e-10


def test_a_shard_holds_a_part_of_the_activations():
    """With four shards, the gradient needs less than half of the temporary memory per device."""

    def temporary(count):
        shards = TimeShards(parallel.AXIS, count) if count > 1 else None
        spec = block.BlockSpec(3, (1, 2, 4), False, "instance", False, 0.0, jnp.dtype("float32"), "shift", 65_536, shards)
        net = BlockSet(4, spec, "block", jnp.dtype("float32"))
        x = jax.ShapeDtypeStruct((count, 1, 65_536 // count, 8), jnp.float32)
        single = BlockSet(4, spec._replace(shards=None), "block", jnp.dtype("float32"))
        params = jax.eval_shape(single.init, jax.random.key(0), jax.ShapeDtypeStruct(x.shape[1:], jnp.float32))
        step = jax.pmap(
            jax.grad(lambda p, x: net.apply(p, x).sum()), parallel.AXIS, in_axes=(None, 0), devices=jax.devices()[:count]
        )
        return step.lower(params, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(4) < temporary(1) / 2


def test_devices_that_do_not_divide_get_a_sentence(tones):
    with pytest.raises(UserError, match=r"^config key 'model.time_shards' must divide 8, a host's devices, and was given 3$"):
        Run(small_config(tones, model__time_shards=3))
    with pytest.raises(
        UserError, match=r"'train.batch_size' must be a multiple of 2 \(2 groups of 4 devices\), and was given 9$"
    ):
        Run(small_config(tones, model__time_shards=4, train__batch_size=9))
