"""Golden values of the GRU, self-normalising and Schindler networks: `python tests/golden/make_small_networks.py`.

Needs PyTorch alone (the `peers` extra). The networks here are written from `torch.nn` and the sources, not from ours. Float64.
`tests/test_parity_small.py` reads the .npz beside this file, and where torch is installed makes it again.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from deterministic import parameter, tensor
from torch import nn
from torch.nn import functional as F

LABELS = torch.tensor([3, 1, 4])
STEPS, RATE, MOMENTUM = 5, 0.05, 0.9


class GruAttention(nn.Module):
    """Document 000: two GRUs over the same frames, Luong's "general" score, channel-major classifier."""

    def __init__(self, frames: int, bins: int, hidden: int, features: int, classes: int):
        super().__init__()
        self.encoder, self.decoder = (nn.GRU(bins, hidden, batch_first=True) for _ in range(2))
        self.score = nn.Linear(hidden, hidden, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden)
        self.reduce = nn.Conv1d(hidden, features, 1)
        self.fc = nn.Linear(features * frames, classes)

    def forward(self, x):
        encoded, state = self.encoder(x)
        decoded, _ = self.decoder(x, state)
        attention = torch.softmax(decoded @ self.score(encoded).mT, -1)
        x = torch.tanh(self.combine(torch.cat([decoded, attention @ encoded], -1)))
        return self.fc(F.leaky_relu(self.reduce(x.mT), 0.01).flatten(1))


class Snn(nn.Module):
    """60-512-256-64-classes on each frame, mean over the frames."""

    def __init__(self, bins: int, hidden: tuple[int, ...], classes: int):
        super().__init__()
        sizes = (bins, *hidden)
        self.count = len(hidden)
        for i in range(self.count):
            setattr(self, f"dense{i + 1}", nn.Linear(sizes[i], sizes[i + 1]))
        self.fc = nn.Linear(hidden[-1], classes)

    def forward(self, x):
        for i in range(self.count):
            x = F.selu(getattr(self, f"dense{i + 1}")(x))
        return self.fc(x).mean(1)


SHALLOW = [((10, 23), (21, 20), (1, 20))]
DEEP = [((10, 23), (21, 10), (2, 2)), ((5, 11), (10, 5), (2, 2)), ((3, 5), (5, 3), (2, 2)), ((2, 4), (4, 2), (1, 5))]


class Schindler(nn.Module):
    """Two pipelines; TensorFlow's "same" padding (the odd zero after) and its order of axes where images become vectors."""

    def __init__(self, layers, size: tuple[int, int], width: int, hidden: int, classes: int):
        super().__init__()
        self.layers, merged = layers, 0
        for name in ("frequency", "temporal"):
            (rows, columns), channels = size, 1
            for i, (frequency, temporal, pool) in enumerate(layers):
                kernel, window = (frequency, pool) if name == "frequency" else (temporal, pool[::-1])
                setattr(self, f"{name}{i + 1}", nn.Conv2d(channels, width * 2**i, kernel))
                rows, columns, channels = rows // window[0], columns // window[1], width * 2**i
            merged += rows * columns * channels
        self.hidden, self.fc = nn.Linear(merged, hidden), nn.Linear(hidden, classes)

    def pipeline(self, x, name):
        for i, (_, _, pool) in enumerate(self.layers):
            conv = getattr(self, f"{name}{i + 1}")
            down, across = (k - 1 for k in conv.kernel_size)
            x = conv(F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2)))
            x = F.max_pool2d(F.leaky_relu(x, 0.3), pool if name == "frequency" else pool[::-1])
        return x.movedim(1, -1).flatten(1)

    def forward(self, x):
        merged = torch.cat([self.pipeline(x, "frequency"), self.pipeline(x, "temporal")], 1)
        return self.fc(F.leaky_relu(self.hidden(merged), 0.3))


# Name → (small network, its input; full network, its input).
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Callable[[], nn.Module], tuple[int, ...]]] = {
    "gru_attention": (
        lambda: GruAttention(9, 5, hidden=6, features=4, classes=5), (3, 9, 5),
        lambda: GruAttention(161, 112, hidden=2500, features=250, classes=67), (2, 161, 112),
    ),
    "snn": (lambda: Snn(6, (12, 8), 5), (3, 7, 6), lambda: Snn(60, (512, 256, 64), 3), (2, 200, 60)),
    "schindler_shallow": (
        lambda: Schindler(SHALLOW, (41, 43), 2, 7, 5), (3, 1, 41, 43),
        lambda: Schindler(SHALLOW, (80, 80), 16, 200, 10), (2, 1, 80, 80),
    ),
    "schindler_deep": (
        lambda: Schindler(DEEP, (41, 43), 2, 7, 5), (3, 1, 41, 43),
        lambda: Schindler(DEEP, (80, 80), 16, 200, 10), (2, 1, 80, 80),
    ),
}  # fmt: skip


def deterministic(net: nn.Module) -> nn.Module:
    """The network in float64 with every parameter as its name has it."""
    net = net.double().eval()
    with torch.no_grad():
        for key, value in net.state_dict().items():
            value.copy_(torch.from_numpy(np.asarray(parameter(key, tuple(value.shape)))))
    return net


def trained(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs, gradients, then the losses of five steps of SGD with momentum, and the outputs after them."""
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
    """What the narrow networks give."""
    out = {}
    for name, (make, shape, _, _) in NETWORKS.items():
        values = trained(deterministic(make()), torch.from_numpy(tensor(f"{name} input", shape)))
        out |= {f"{name}/{key}": value.numpy() for key, value in values.items()}
    return out


def full_values() -> dict[str, np.ndarray]:
    """Logits of the networks of the published sizes."""
    with torch.no_grad():
        return {
            f"{name}/full": deterministic(make())(torch.from_numpy(tensor(f"{name} full input", shape))).numpy()
            for name, (_, _, make, shape) in NETWORKS.items()
        }


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("small_networks.npz"), **small_values(), **full_values())
