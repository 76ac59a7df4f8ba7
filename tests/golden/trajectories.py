"""Trajectories of training, by cases that our code and PyTorch both compute (tests/test_trajectories.py).

The problem is a network tanh(x A + a) B + b with the mean squared error: its gradient changes at every step. A case is an
optimiser and a learning-rate schedule. `python tests/golden/trajectories.py` computes all cases with PyTorch and overwrites
trajectories.npz; it needs torch 2.13.0 of the `peers` extra.
"""

import itertools
from pathlib import Path

import numpy as np

try:
    from golden.deterministic import tensor
except ImportError:  # the command
    from deterministic import tensor

STEPS = 50
# The learning rate by the type of our computation; PyTorch always computes in float64, because its AdamW in float32 differs from
# that by 5e-6. In float32, optax computes Adam's 1 - b2^t with a relative error of 1e-5 in the first steps: at the rate 0.05 the
# parameters would differ by 1e-5.
RATES = {"float64": 0.05, "float32": 0.001}
KEPT = (1, 2, 5, 10, 20, 30, 40, 50)  # steps whose parameters are in the file
SHAPES = {"hidden/kernel": (3, 4), "hidden/bias": (4,), "fc/kernel": (4, 2), "fc/bias": (2,)}
FILE = Path(__file__).with_name("trajectories.npz")

# Name → (name and options of genre_jax.optim, class and options of torch.optim, penalties of the loss).
OPTIMIZERS: dict[str, tuple[str, dict, str, dict, dict]] = {
    "sgd": ("sgd", {"momentum": 0.0}, "SGD", {}, {}),
    "sgd_momentum": ("sgd", {"momentum": 0.9}, "SGD", {"momentum": 0.9}, {}),
    "sgd_nesterov": ("sgd", {"nesterov": True}, "SGD", {"momentum": 0.9, "nesterov": True}, {}),
    "sgd_weight_decay": ("sgd", {"weight_decay": 0.02}, "SGD", {"momentum": 0.9, "weight_decay": 0.02}, {}),
    "sgd_kernel_l2": ("sgd", {"kernel_l2": 0.03}, "SGD", {"momentum": 0.9}, {"kernel_l2": 0.03}),
    "adam": ("adam", {}, "Adam", {}, {}),
    "adam_l1": ("adam", {"l1": 0.01}, "Adam", {}, {"l1": 0.01}),
    "adam_weight_decay": ("adam", {"weight_decay": 0.02}, "Adam", {"weight_decay": 0.02}, {}),
    "adam_kernel_l2": ("adam", {"kernel_l2": 0.03}, "Adam", {}, {"kernel_l2": 0.03}),
    "adamw": ("adamw", {"weight_decay": 0.1}, "AdamW", {"weight_decay": 0.1}, {}),
    "amsgrad": ("amsgrad", {}, "Adam", {"amsgrad": True}, {}),
}
# Name → name and options of genre_jax.optim; `torch_schedule` builds PyTorch's.
SCHEDULES: dict[str, tuple[str, dict]] = {
    "constant": ("constant", {}),
    "multistep": ("multistep", {"boundaries": ("17 steps", "31 steps"), "gamma": 0.4}),
    "exponential": ("exponential", {"decay": 0.9, "every": "7 steps"}),
    "cosine": ("cosine", {"final": 0.1}),
    "cosine_restarts": ("cosine_restarts", {"final": 0.02, "period": "3 steps", "growth": 2}),
    "warmup": ("constant", {"warmup": "10 steps"}),
    "warmup_cosine": ("cosine", {"warmup": "10 steps"}),
}
CASES = [f"{optimizer}/{schedule}" for optimizer, schedule in itertools.product(OPTIMIZERS, SCHEDULES)]


def problem() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return the first parameters by name, the inputs (7, 3) and the targets (7, 2), float64."""
    params = {name: tensor(name, shape, 0.3) for name, shape in SHAPES.items()}
    return params, tensor("inputs", (7, 3)), tensor("targets", (7, 2))


def torch_schedule(name: str, optimizer, rate: float):
    """Return PyTorch's schedule of a name of `SCHEDULES`, for a base learning rate."""
    from torch.optim import lr_scheduler

    def warmup():
        return lr_scheduler.LinearLR(optimizer, 1 / 10, 1.0, total_iters=9)

    def after_warmup():
        falling = lr_scheduler.CosineAnnealingLR(optimizer, STEPS - 10)
        return lr_scheduler.SequentialLR(optimizer, [warmup(), falling], milestones=[10])

    return {
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, 1.0),
        "multistep": lambda: lr_scheduler.MultiStepLR(optimizer, [17, 31], 0.4),
        "exponential": lambda: lr_scheduler.ExponentialLR(optimizer, 0.9 ** (1 / 7)),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, STEPS, 0.1 * rate),
        "cosine_restarts": lambda: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3, 2, 0.02 * rate),
        "warmup": warmup,
        "warmup_cosine": after_warmup,
    }[name]()


def torch_walk(case: str, learning_rate: float) -> np.ndarray:
    """Return PyTorch's parameters (steps, 26), float64, after each step of a case, in the order of `SHAPES`."""
    import warnings

    import torch

    optimizer_name, schedule_name = case.split("/")
    _, _, kind, options, penalties = OPTIMIZERS[optimizer_name]
    params, x, y = problem()
    params = {name: torch.from_numpy(value).requires_grad_() for name, value in params.items()}
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    optimizer = getattr(torch.optim, kind)(params.values(), lr=learning_rate, **options)
    path = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR uses a deprecated argument of its parts
        schedule = torch_schedule(schedule_name, optimizer, learning_rate)
        for _ in range(STEPS):
            hidden = torch.tanh(x @ params["hidden/kernel"] + params["hidden/bias"])
            loss = ((hidden @ params["fc/kernel"] + params["fc/bias"] - y) ** 2).mean()
            loss = loss + penalties.get("l1", 0.0) * sum(p.abs().sum() for p in params.values())
            kernels = (p for name, p in params.items() if name.endswith("kernel"))
            loss = loss + penalties.get("kernel_l2", 0.0) * sum((p**2).sum() for p in kernels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            path.append(np.concatenate([p.detach().numpy().ravel() for p in params.values()]))
    return np.stack(path)


if __name__ == "__main__":
    kept = np.array(KEPT) - 1
    np.savez_compressed(
        FILE, **{f"{dtype}/{case}": torch_walk(case, rate)[kept] for dtype, rate in RATES.items() for case in CASES}
    )
