"""Fifty steps of every optimiser with every schedule equal PyTorch's, on a problem whose gradient changes at every step."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.trajectories import CASES, FILE, KEPT, OPTIMIZERS, RATES, SCHEDULES, STEPS, problem, torch_walk

from genre_jax import optim

LEAVES = [(part, leaf) for part in ("hidden", "fc") for leaf in ("kernel", "bias")]
TOLERANCES = {"float64": 1e-9, "float32": 1e-6}


@functools.cache
def walks(optimizer_name: str, dtype: str) -> dict[str, np.ndarray]:
    """Return schedule → our parameters (steps, 26) after each step, updated as in the train step."""
    name, options, *_ = OPTIMIZERS[optimizer_name]
    numbers = jnp.arange(STEPS, dtype=jnp.int32)
    with jax.enable_x64(dtype == "float64"):
        arrays, x, y = jax.tree.map(lambda value: jnp.asarray(value, dtype), problem())
        start = {part: {leaf: arrays[f"{part}/{leaf}"] for leaf in ("kernel", "bias")} for part in ("hidden", "fc")}
        optimizer = optim.build(name, 0.0, **options)

        def loss(params):
            hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
            return ((hidden @ params["fc"]["kernel"] + params["fc"]["bias"] - y) ** 2).mean()

        def step(carry, rate):
            params, state = carry
            directions, state = optimizer.update(jax.grad(loss)(params), state, params)
            params = jax.tree.map(lambda p, d: p - rate.astype(p.dtype) * d, params, directions)
            return (params, state), params

        @jax.jit
        def path(rates):
            return jax.lax.scan(step, (start, optimizer.init(start)), rates)[1]

        found = {}
        for schedule, (kind, choices) in SCHEDULES.items():
            rate = optim.SCHEDULES[kind](lambda text: int(text.split()[0]), STEPS, learning_rate=RATES[dtype], **choices)
            values = path(jax.jit(jax.vmap(rate))(numbers))
            found[schedule] = np.concatenate([np.asarray(values[part][leaf]).reshape(STEPS, -1) for part, leaf in LEAVES], 1)
        return found


@pytest.mark.parametrize(
    ("optimizer", "dtype"),
    [
        pytest.param(optimizer, dtype, marks=[pytest.mark.slow] if dtype == "float32" and optimizer != "adam" else [])
        for optimizer in OPTIMIZERS
        for dtype in RATES
    ],
)
def test_fifty_steps_equal_torch(optimizer, dtype):
    with np.load(FILE) as golden:
        for schedule, path in walks(optimizer, dtype).items():
            kept = golden[f"{dtype}/{optimizer}/{schedule}"]
            np.testing.assert_allclose(path[np.array(KEPT) - 1], kept, rtol=0, atol=TOLERANCES[dtype], err_msg=schedule)


def test_the_file_has_all_cases_and_they_all_differ():
    assert {name for name, *_ in OPTIMIZERS.values()} == optim.OPTIMIZERS.keys()
    assert {name for name, _ in SCHEDULES.values()} == optim.SCHEDULES.keys()
    with np.load(FILE) as golden:
        assert sorted(golden) == sorted(f"{dtype}/{case}" for dtype in RATES for case in CASES)
        ends = np.stack([golden[f"float64/{case}"][-1] for case in CASES])
    distances = np.abs(ends[:, None] - ends[None]).max(-1) + np.eye(len(CASES))
    assert distances.min() > 1e-4


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("dtype", RATES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_step_equals_torch_that_is_installed(optimizer, dtype):
    for schedule, path in walks(optimizer, dtype).items():
        theirs = torch_walk(f"{optimizer}/{schedule}", RATES[dtype])
        np.testing.assert_allclose(path, theirs, rtol=0, atol=TOLERANCES[dtype], err_msg=schedule)
