"""Tests of freezing: parameters, optionally with their statistics, do not change until release, in one compiled step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config

from genre_jax import freezing, models, optim, train
from genre_jax.console import UserError
from genre_jax.run import Run

TRUNK = ["*", "!fc/*"]
GRADIENTS = [{"a": jnp.array([1.0, -2.0]), "b": jnp.array([scale])} for scale in (3.0, -1.0, 0.5, 2.0)]
PARAMS = {"a": jnp.array([1.0, 1.0]), "b": jnp.array([1.0])}


def names_of(tree):
    return {freezing.name_of(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def moved(before, after) -> set[str]:
    before, after = names_of(before), names_of(after)
    return {name for name in before if not np.array_equal(before[name], after[name])}


def walk(config, steps: int):
    """Run `steps` steps. Returns the states on the host (the initial state first) and the metrics of each step."""
    run = Run(config)
    state = run.initial_state()
    states, metrics = [jax.device_get(state)], []
    for step in range(steps):
        state, values = run.program.train_step(state, run.constants, run.program.devices.shard(run.batches(step)))
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(values))
    return states, metrics


def frozen_config(tones, **changes):
    """Return the config of a run with a frozen trunk. An epoch has three steps."""
    return small_config(tones, "resnet", model__stages=[1], devices=1, freeze__patterns=TRUNK, **changes)


@pytest.mark.parametrize("batch_stats", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_frozen_leaves_stay_bit_for_bit_and_move_from_the_stated_epoch_on(tones, monkeypatch, batch_stats):
    traces = []
    original = train.TrainStep.update
    monkeypatch.setattr(train.TrainStep, "update", lambda *args: traces.append(1) or original(*args))
    options = {"freeze__until": "1 epochs", "freeze__batch_stats": batch_stats, "ema": 0.9}
    states, _ = walk(frozen_config(tones, **options), 5)
    statistics = set(names_of(states[0].batch_stats))
    trunk = {name for name in names_of(states[0].params) if not name.startswith(("fc/", "stem/"))}
    assert len(trunk) == 9 and len(statistics) == 6
    for step, (before, after) in enumerate(itertools.pairwise(states)):
        released = step >= 3
        assert moved(before.params, after.params) == {"fc/kernel", "fc/bias"} | (trunk if released else set()), step
        rounded = {"stem/kernel", "stem/bias"} if released else set()  # float32 rounding of an average of equal numbers
        assert moved(before.ema, after.ema) - rounded == {"fc/kernel", "fc/bias"} | (trunk if released else set()), step
        assert moved(before.batch_stats, after.batch_stats) == (statistics if released or not batch_stats else set()), step
    assert len(traces) == 1


def test_frozen_statistics_normalise_as_in_evaluation(tones):
    """Until release, the training loss equals the evaluation loss, also with micro-batches. After release it differs."""
    config = frozen_config(tones, freeze__batch_stats=True, freeze__until="2 steps", schedule__learning_rate=0.0)
    _, metrics = walk(config, 3)
    run = Run(config)
    state = run.initial_state()
    scores = [
        run.program.eval_step(state.variables(), run.constants, run.program.devices.shard(run.batches(step)))
        for step in range(3)
    ]
    expected = [float(np.mean(each["loss"])) for each in scores]
    assert [float(m["loss"]) for m in metrics[:2]] == pytest.approx(expected[:2], abs=1e-5)
    assert abs(metrics[2]["loss"] - expected[2]) > 1e-3
    config.train.accumulate = 2
    _, split = walk(config, 2)
    assert [float(m["loss"]) for m in split] == pytest.approx(expected[:2], abs=1e-5)


@pytest.mark.parametrize("until", [5, pytest.param(None, marks=pytest.mark.slow)])
def test_statistics_inside_remat_are_frozen_by_pattern(until):
    net = models.build("densenet121", num_classes=3, stages=(1, 1), width=4, growth_rate=2, bn_size=2, remat=True)
    x = jax.random.normal(jax.random.key(1), (2, 16, 16, 1))
    variables = jax.jit(net.init)(jax.random.key(0), x)
    freeze = freezing.Freeze(("denseblock1_*", "norm0/*"), until, batch_stats=True)

    @jax.jit
    def statistics(step):
        with freeze.statistics(step):
            (logits, _), updated = net.apply(variables, x, train=True, mutable=["batch_stats"])
        return logits, updated["batch_stats"]

    _, updated = statistics(jnp.int32(4))
    everything = set(names_of(variables["batch_stats"]))
    frozen = {name for name in everything if name.startswith(("denseblock1_", "norm0/"))}
    assert len(frozen) == 6
    assert moved(variables["batch_stats"], updated) == everything - frozen
    logits, updated = statistics(jnp.int32(5))
    assert moved(variables["batch_stats"], updated) == (everything - frozen if until is None else everything)
    if until:
        (usual, _), _ = jax.jit(lambda v: net.apply(v, x, train=True, mutable=["batch_stats"]))(variables)
        np.testing.assert_allclose(logits, usual, atol=1e-5)


def path_of(optimizer, first: int = 0, params=None):
    """Apply GRADIENTS[first:]. Returns the parameters after each step, and the last state of the optimiser."""
    params = params or PARAMS
    state, path = optimizer.init(params), []
    for step, gradients in enumerate(GRADIENTS[first:], first):
        directions, state = optimizer.update(gradients, state, params, step=jnp.int32(step))
        params = jax.tree.map(lambda p, d: p - 0.1 * d, params, directions)
        path.append(params)
    return path, state


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"weight_decay": 0.1, "gradient_clip": 1.0}])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "amsgrad"])
def test_the_optimiser_of_frozen_leaves_starts_at_release(name, options):
    """Parameter b is frozen for two steps, and then moves as with a new optimiser.

    Until release, the gradient norm for clipping includes only parameter a.
    """
    options = {"gradient_clip": 0.0} | options
    path, _ = path_of(optim.build(name, freeze=freezing.Freeze(("b",), 2), **options))
    assert [float(params["b"][0]) for params in path[:2]] == [1.0, 1.0]
    alone = optim.build(name, freeze=freezing.Freeze(("b",), None), **options)
    state, params = alone.init(PARAMS), PARAMS
    for step in range(2):
        directions, state = alone.update(GRADIENTS[step], state, params, step=jnp.int32(step))
        params = jax.tree.map(lambda p, d: p - 0.1 * d, params, directions)
        np.testing.assert_allclose(path[step]["a"], params["a"], rtol=1e-6)
    if not options["gradient_clip"]:  # clipping would use the norm of both leaves
        fresh, _ = path_of(optim.build(name, **options), 2)
        np.testing.assert_allclose([p["b"] for p in path[2:]], [p["b"] for p in fresh], rtol=1e-6)
        whole, _ = path_of(optim.build(name, **options))
        np.testing.assert_allclose([p["a"] for p in path], [p["a"] for p in whole], rtol=1e-6)


def test_the_optimiser_of_frozen_leaves_may_start_with_the_run():
    """As in the code of document 000, the moments accumulate while the learning rate is 0."""
    path, state = path_of(optim.build("adam", 0.0, freezing.Freeze(("b",), 2, optimizer_from="start")))
    _, usual = path_of(optim.build("adam", 0.0))
    assert [float(params["b"][0]) for params in path[:2]] == [1.0, 1.0]
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(usual), strict=True):
        np.testing.assert_array_equal(leaf, expected)
    released, _ = path_of(optim.build("adam", 0.0, freezing.Freeze(("b",), 2)))
    assert abs(path[2]["b"] - released[2]["b"]) > 1e-2


def test_leaves_that_are_never_released_have_no_optimiser_state():
    state = optim.build("adam", 0.0, freezing.Freeze(("b",), None)).init(PARAMS)
    assert sorted(leaf.shape for leaf in jax.tree.leaves(state)) == [(), (2,), (2,)]


def test_layers_have_learning_rates_of_their_own():
    rates = freezing.parse_rates(["*=0.5", "b=0.1"])
    path, _ = path_of(optim.build("sgd", 0.0, learning_rates=rates, momentum=0.0))
    np.testing.assert_allclose(path[0]["a"], PARAMS["a"] - 0.1 * 0.5 * GRADIENTS[0]["a"], rtol=1e-6)
    np.testing.assert_allclose(path[0]["b"], PARAMS["b"] - 0.1 * 0.1 * GRADIENTS[0]["b"], rtol=1e-6)


def test_the_run_scales_layers_by_pattern(tones):
    rates = ["*=0", "fc/*=2.0"]
    config = small_config(tones, "resnet", model__stages=[1], devices=1, learning_rates=rates, optimizer__name="sgd")
    (before, after), (metrics,) = walk(config, 1)
    assert moved(before.params, after.params) == {"fc/kernel", "fc/bias"}
    assert metrics["gradient_norm"] > 0


@pytest.mark.parametrize("train_stem", [False, True])
def test_decay_moves_no_stem_that_is_not_trained(tones, train_stem):
    """The gradient of the stem is 0, but weight decay would change the stem without a gradient."""
    config = small_config(tones, "resnet", model__stages=[1], devices=1, optimizer__weight_decay=0.1, optimizer__l1=0.1)
    config.model.train_stem = train_stem
    config.learning_rates = ["stem/*=2", "*=1"]
    (before, after), _ = walk(config, 1)
    stem = {"stem/kernel", "stem/bias"}
    assert moved(before.params, after.params) >= {"conv1/kernel", "fc/bias"}
    assert moved(before.params, after.params) & stem == (stem if train_stem else set())


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        (["*", "!fc/*"], {"conv1/kernel", "layer1_0/bn1/scale"}),
        (["layer1*", "fc/kernel"], {"layer1_0/bn1/scale", "fc/kernel"}),
        (["!conv1/*", "conv1/kernel"], {"conv1/kernel"}),
        (["*/kernel", "!*", "fc/*"], {"fc/kernel", "fc/bias"}),
        ([], set()),
    ],
)
def test_the_last_pattern_that_matches_decides(patterns, frozen):
    names = ("conv1/kernel", "layer1_0/bn1/scale", "fc/kernel", "fc/bias")
    assert {name for name in names if freezing.matches(patterns, name)} == frozen


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"freeze__patterns": ["layr1*"]}, "config key 'freeze.patterns': 'layr1.*' matches no parameter of the network, whose modules are bn1, conv1, fc, layer1_0"),
        ({"freeze__patterns": ["*", "!fd/*"]}, "'!fd/.*' matches no parameter"),
        ({"learning_rates": ["nothing=2"]}, "config key 'learning_rates': 'nothing' matches no parameter"),
        ({"optimizer__name": "sgd", "optimizer__kernel_l2_patterns": ["cnv*"]}, "config key 'optimizer.kernel_l2_patterns': 'cnv.*' matches no parameter"),
        ({"learning_rates": ["fc/*"]}, r"'learning_rates' holds pattern=factor, as in 'layer1\*=0.1', and was given 'fc/\*'"),
        ({"learning_rates": ["fc/*=-1"]}, r"and was given 'fc/\*=-1'"),
        ({"freeze__until": "soon"}, "'freeze.until' must be a number and one of steps, epochs, examples"),
        ({"freeze__optimizer_from": "zero"}, "unknown freeze.optimizer_from 'zero': choose one of release, start"),
    ],
)  # fmt: skip
def test_freezing_that_cannot_be_meant(tones, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        small_config(tones, "resnet", **changes)
