"""Tests of optimisers against PyTorch, step by step (golden/torch.npz), and of schedules against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT
from golden.deterministic import GRADIENT_SCALES, tensor

from genre_jax import optim
from genre_jax.console import UserError

OPTIONS = {
    "sgd": ("sgd", {}),
    "sgd_nesterov": ("sgd", {"nesterov": True, "weight_decay": 0.05}),
    "adam": ("adam", {}),
    "adam_decay": ("adam", {"weight_decay": 0.05}),
    "adamw": ("adamw", {"weight_decay": 0.05}),
    "amsgrad": ("amsgrad", {}),
}


def walk(name: str, gradient_clip: float = 0.0, **options) -> np.ndarray:
    """Return the parameters (steps, 7) after each golden gradient at learning rate 0.1, updated as in the train step."""
    with jax.enable_x64(True):
        optimizer = optim.build(name, gradient_clip, **options)
        p = jnp.asarray(tensor("p", (7,)))
        state, path = optimizer.init(p), []
        for step, scale in enumerate(GRADIENT_SCALES):
            direction, state = optimizer.update(jnp.asarray(tensor(f"gradient{step}", (7,), scale)), state, p)
            p = p - 0.1 * direction
            path.append(p)
        return np.stack(jax.device_get(path))


@pytest.mark.parametrize("case", OPTIONS)
def test_five_steps_equal_torch(case):
    name, options = OPTIONS[case]
    with np.load(ROOT / "tests/golden/torch.npz") as golden:
        assert {key.removeprefix("optimizer/") for key in golden if key.startswith("optimizer/")} == OPTIONS.keys()
        np.testing.assert_allclose(walk(name, **options), golden[f"optimizer/{case}"], rtol=0, atol=1e-12)


def test_l1_adds_signs_to_the_gradient():
    """The first step of Adam is the sign of its input: the sign of the penalty if the gradient is 0, for any parameter size."""
    params, gradients = jnp.array([200.0, -3.0, 0.0, 1.0]), jnp.array([-1.0, 0.0, 0.0, -1.0])
    for decay in (0.0, 1e-3):
        optimizer = optim.build("adam", 0.0, l1=0.01, weight_decay=decay)
        direction, _ = optimizer.update(gradients, optimizer.init(params), params)
        np.testing.assert_allclose(direction, [-1, -1, 0, -1], rtol=1e-4)


def test_kernel_l2_adds_its_gradient_to_kernels_alone():
    """Keras: `kernel_regularizer=l2(f)` adds f · sum(w²) to the loss of each kernel, whose gradient is 2 · f · w."""
    shapes = {
        "conv": {"kernel": (2, 3), "bias": (3,)},
        "norm": {"scale": (2, 2)},
        "fc": {"kernel": (3, 2)},
        "cell": {"kernel": (4,)},
    }
    params = {m: {leaf: jnp.full(shape, 3.0) for leaf, shape in part.items()} for m, part in shapes.items()}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for patterns, penalised in (((), {"conv", "fc"}), (("conv*",), {"conv"}), (("*", "!fc/*"), {"conv"})):
        optimizer = optim.build("sgd", 0.0, momentum=0.0, kernel_l2=0.01, kernel_l2_patterns=patterns)
        direction, _ = optimizer.update(zeros, optimizer.init(params), params)
        for module, part in direction.items():
            for leaf, values in part.items():
                expected = 2 * 0.01 * 3.0 if module in penalised and leaf == "kernel" else 0.0
                np.testing.assert_allclose(values, expected, rtol=1e-6, err_msg=f"{module}/{leaf} {patterns}")


def test_every_optimizer_is_compared():
    assert {name for name, _ in OPTIONS.values()} == optim.OPTIMIZERS.keys()


def test_gradients_are_clipped_by_their_global_norm():
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    for clip, expected in ((2.5, 0.5), (10.0, 1.0), (0.0, 1.0)):
        optimizer = optim.build("sgd", clip)
        direction, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
        assert optax.global_norm(direction) == pytest.approx(5 * expected)
        np.testing.assert_allclose(direction["a"], gradients["a"] * expected)


def rates(name: str, steps, total: int = 1000, **options) -> list[float]:
    """Return the learning rates at `steps`, under jit with a traced step as in the train step. An epoch has 100 steps."""

    def resolve(duration: str) -> int:
        number, unit = duration.split()
        return round(float(number) * (100 if unit == "epochs" else 1))

    schedule = jax.jit(optim.SCHEDULES[name](resolve, total, **options))
    return [float(schedule(jnp.int32(step))) for step in steps]


def test_constant():
    assert rates("constant", [0, 999], learning_rate=0.25) == [0.25, 0.25]


def test_cosine():
    steps = [0, 1, 250, 500, 750, 999, 1000, 2000]
    expected = [0.2 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * min(step, 1000) / 1000))) for step in steps]
    np.testing.assert_allclose(rates("cosine", steps, learning_rate=0.2, final=0.1), expected, rtol=1e-5)
    assert rates("cosine", [0, 500, 1000], learning_rate=0.2) == pytest.approx([0.2, 0.1, 0.0], abs=1e-8)


def test_cosine_starts_after_its_warmup():
    steps = [0, 49, 99, 100, 550, 1000]
    expected = [0.01, 0.5, 1.0, 1.0, 0.5, 0.0]
    assert rates("cosine", steps, learning_rate=1.0, warmup="1 epochs") == pytest.approx(expected, abs=1e-6)


def test_cosine_restarts():
    """Document 003: from 5e-4 to 1e-5, the first cycle takes one epoch (100 steps), and each is twice as long."""
    options = {"learning_rate": 5e-4, "final": 0.02}
    steps = [0, 50, 99, 100, 200, 299, 300, 500, 700, 999]
    shares = [0, 0.5, 0.99, 0, 0.5, 0.995, 0, 0.5, 0, 299 / 800]
    expected = [1e-5 + (5e-4 - 1e-5) * 0.5 * (1 + np.cos(np.pi * share)) for share in shares]
    np.testing.assert_allclose(rates("cosine_restarts", steps, **options), expected, rtol=1e-5)
    same = rates("cosine_restarts", range(250), learning_rate=1.0, growth=1)
    np.testing.assert_allclose(same[:50], same[200:], rtol=1e-6)
    np.testing.assert_allclose(
        rates("cosine_restarts", [2**20 - 1, 2**20], 2**20, period="1 steps", growth=1000), [1e-3] * 2, rtol=0.05
    )
    with pytest.raises(UserError, match=r"'schedule.growth' must be at least 1, and was given 0"):
        rates("cosine_restarts", [0], growth=0)


def test_multistep():
    steps = [0, 1999, 2000, 2999, 3000, 9999]
    expected = [1e-4, 1e-4, 4e-5, 4e-5, 1.6e-5, 1.6e-5]
    options = {"learning_rate": 1e-4, "boundaries": ("20 epochs", "30 epochs"), "gamma": 0.4}
    np.testing.assert_allclose(rates("multistep", steps, **options), expected, rtol=1e-6)


def test_exponential():
    """The schedule EXP of document 004, in steps: 5e-5 · 0.9^(step / 3000) is 3.59e-6 after 75,000 steps."""
    steps = [0, 1500, 3000, 75_000]
    expected = [5e-5, 5e-5 * 0.9**0.5, 4.5e-5, 3.59e-6]
    np.testing.assert_allclose(rates("exponential", steps, learning_rate=5e-5), expected, rtol=1e-3)


@pytest.mark.parametrize("name", ["constant", "cosine", "multistep"])
def test_warmup_is_linear_and_never_zero(name):
    warm, cold = (rates(name, range(12), learning_rate=0.3, warmup=warmup) for warmup in ("10 steps", "0 steps"))
    np.testing.assert_allclose(warm[:10], 0.3 * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(warm[10:], cold[10:], rtol=1e-3)
