"""Golden values of the GRU, self-normalising and Schindler networks: `python tests/golden/make_small_networks.py`.

The script needs PyTorch (the `peers` extra), and overwrites small_networks.npz in this folder. The networks are those of the
benchmarks, `genre_jax/bench/torch_networks.py`, in float64. `tests/test_parity_small.py` reads the file. If torch is installed,
the test also computes the values again.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from deterministic import parameter, tensor
from torch import nn
from torch.nn import functional as F

from genre_jax.bench.torch_networks import DEEP, SHALLOW, GruAttention, Schindler, Snn

LABELS = torch.tensor([3, 1, 4])
STEPS, RATE, MOMENTUM = 5, 0.05, 0.9


# Name → (small network, its input; full network, its input).
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Callable[[], nn.Module], tuple[int, ...]]] = {
    "gru_attention": (
        lambda: GruAttention((9, 5), 5, hidden=6, features=4), (3, 9, 5),
        lambda: GruAttention((161, 112), 67, hidden=2500, features=250), (2, 161, 112),
    ),
    "snn": (lambda: Snn(6, (12, 8), 5), (3, 7, 6), lambda: Snn(60, (512, 256, 64), 3), (2, 200, 60)),
    "schindler_shallow": (
        lambda: Schindler(SHALLOW, (41, 43), width=2, hidden=7, classes=5), (3, 1, 41, 43),
        lambda: Schindler(SHALLOW, (80, 80), width=16, hidden=200, classes=10), (2, 1, 80, 80),
    ),
    "schindler_deep": (
        lambda: Schindler(DEEP, (41, 43), width=2, hidden=7, classes=5), (3, 1, 41, 43),
        lambda: Schindler(DEEP, (80, 80), width=16, hidden=200, classes=10), (2, 1, 80, 80),
    ),
}  # fmt: skip


def deterministic(net: nn.Module) -> nn.Module:
    """Return the network in float64 with deterministic parameters."""
    net = net.double().eval()
    with torch.no_grad():
        for key, value in net.state_dict().items():
            value.copy_(torch.from_numpy(np.asarray(parameter(key, tuple(value.shape)))))
    return net


def trained(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return outputs and gradients, then the losses of five steps of SGD with momentum, and the outputs after these steps."""
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    out, losses = {"evaluated": net(x).detach()}, []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), LABELS)
        loss.backward()
        losses.append(loss.detach())
        if step == 0:
            out |= {f"gradient/{key}": p.grad.clone() for key, p in net.named_parameters()}
        optimizer.step()
    return out | {"losses": torch.stack(losses), "after": net(x).detach()}


def small_values() -> dict[str, np.ndarray]:
    """Return the values of the small networks."""
    out = {}
    for name, (make, shape, _, _) in NETWORKS.items():
        values = trained(deterministic(make()), torch.from_numpy(tensor(f"{name} input", shape)))
        out |= {f"{name}/{key}": value.numpy() for key, value in values.items()}
    return out


def full_values() -> dict[str, np.ndarray]:
    """Return the logits of the networks of the published sizes."""
    with torch.no_grad():
        return {
            f"{name}/full": deterministic(make())(torch.from_numpy(tensor(f"{name} full input", shape))).numpy()
            for name, (_, _, make, shape) in NETWORKS.items()
        }


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("small_networks.npz"), **small_values(), **full_values())
