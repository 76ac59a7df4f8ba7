"""The networks in PyTorch, as peers for benchmarks and for golden values.

They are written with `torch.nn` from the publications, independently of our networks. Modules have our names, weights have
PyTorch's. Images are `(batch, channels, rows, columns)`. They are flattened in our order, channels last, except in document
000's networks, which flatten channels first. The networks have no dropout, because both sides run without it. This file needs
only torch.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Size = tuple[int, int]


def flat(x: torch.Tensor) -> torch.Tensor:
    """Flatten (batch, channels, …) to (batch, … · channels)."""
    return x.movedim(1, -1).flatten(1)


# ---------------------------------------------------------------- document 000: ByteNet, GRU with attention


class ByteNetBlock(nn.Module):
    """A residual block on (batch, 2 d, time): norm, ReLU, 1×1 to d; norm, ReLU, dilated convolution; norm, ReLU, 1×1 back."""

    def __init__(self, d: int, kernel: int, dilation: int, causal: bool):
        super().__init__()
        reach = dilation * (kernel - 1)
        # Symmetric padding is left to the convolution, because it then needs no copy.
        self.padding = (reach, 0) if causal else (0, reach % 2)
        self.norm1, self.norm2, self.norm3 = (nn.InstanceNorm1d(c, affine=True) for c in (2 * d, d, d))
        self.conv1 = nn.Conv1d(2 * d, d, 1, bias=False)
        self.conv2 = nn.Conv1d(d, d, kernel, dilation=dilation, padding=0 if causal else reach // 2, bias=False)
        self.conv3 = nn.Conv1d(d, 2 * d, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm2(self.conv1(F.relu(self.norm1(x)))))
        y = self.conv2(F.pad(y, self.padding) if any(self.padding) else y)
        return x + self.conv3(F.relu(self.norm3(y)))


class ByteNet(nn.Module):
    """Encoder sets followed by a reduction each, causal decoder sets, and the thesis's head, on (batch, 1, `length`)."""

    def __init__(
        self, length: int, classes: int, *, width: int, kernel: int, max_dilation: int, strides: tuple[int, ...],
        decoder_sets: int, recompute: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.recompute = recompute

        def blocks(causal: bool) -> nn.Sequential:
            dilations = (2**i for i in range(max_dilation.bit_length()))
            return nn.Sequential(*(ByteNetBlock(width, kernel, dilation, causal) for dilation in dilations))

        full = 2 * width
        self.encoder_in, self.encoder_out = nn.Conv1d(1, full, 1), nn.Conv1d(full, full, 1)
        self.encoder = nn.ModuleList(blocks(False) for _ in strides)
        self.reduce = nn.ModuleDict({str(s): nn.Conv1d(full, full, r, stride=r) for s, r in enumerate(strides) if r > 1})
        self.decoder = nn.ModuleList(blocks(True) for _ in range(decoder_sets))
        self.decoder_mid, self.decoder_out = nn.Conv1d(full, full, 1), nn.Conv1d(full, width, 1)
        for stride in strides:
            length = length // stride + 1 if stride > 1 else length
        self.fc = nn.Linear(width * length, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder_in(x)
        for s, blocks in enumerate(self.encoder):
            x = self._set(blocks, x)
            if str(s) in self.reduce:
                reduce = self.reduce[str(s)]
                x = reduce(F.pad(x, (0, reduce.stride[0])))
        x = F.relu(self.encoder_out(x))
        for blocks in self.decoder:
            x = self._set(blocks, x)
        x = self.decoder_out(F.relu(self.decoder_mid(F.relu(x))))
        return self.fc(x.flatten(1))

    def _set(self, blocks: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        return x


class GruAttention(nn.Module):
    """Two GRUs over the same frames (batch, frames, bins), Luong's "general" attention score, channel-major classifier."""

    def __init__(self, shape: Sequence[int], classes: int, *, hidden: int, features: int):
        super().__init__()
        frames, bins = shape
        self.encoder, self.decoder = (nn.GRU(bins, hidden, batch_first=True) for _ in range(2))
        self.score = nn.Linear(hidden, hidden, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden)
        self.reduce = nn.Conv1d(hidden, features, 1)
        self.fc = nn.Linear(features * frames, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        encoded, state = self.encoder(x)
        decoded, _ = self.decoder(x, state)
        attention = torch.softmax(decoded @ self.score(encoded).mT, -1)
        x = torch.tanh(self.combine(torch.cat([decoded, attention @ encoded], -1)))
        return self.fc(F.leaky_relu(self.reduce(x.mT), 0.01).flatten(1))


# ---------------------------------------------------------------- document 003: SwishNet, its SNN and MobileNet; Choi's network


def gated(x: torch.Tensor) -> torch.Tensor:
    """Return the tanh of the first half of the channels times the sigmoid of the second half."""
    first, second = x.chunk(2, 1)
    return torch.tanh(first) * torch.sigmoid(second)


class CausalConv(nn.Conv1d):
    """Gated causal convolution over (batch, in, time)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return gated(super().forward(F.pad(x, (self.dilation[0] * (self.kernel_size[0] - 1), 0))))


class SeparableConv(nn.Module):
    """Gated causal depthwise convolution without bias, followed by a 1×1 convolution."""

    def __init__(self, channels: int, features: int, kernel: int):
        super().__init__()
        self.depthwise = nn.Parameter(torch.empty(channels, 1, kernel))
        self.pointwise = nn.Conv1d(channels, features, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv1d(F.pad(x, (self.depthwise.shape[-1] - 1, 0)), self.depthwise, groups=len(self.depthwise))
        return gated(self.pointwise(x))


class SwishNet(nn.Module):
    """SwishNet on features (batch, bins, frames); the classifier reads the last frame."""

    def __init__(self, bins: int, classes: int, *, width: int):
        super().__init__()
        w = width
        for number, (channels, filters) in enumerate(((bins, 16 * w), (16 * w, 8 * w), (8 * w, 8 * w)), 1):
            setattr(self, f"conv{number}", CausalConv(channels, filters, 3))
            setattr(self, f"separable{number}", SeparableConv(channels, filters, 6))
        for number, (dilation, filters) in enumerate(((3, 16), (6, 16), (12, 16), (24, 16), (48, 32)), 4):
            setattr(self, f"conv{number}", CausalConv(8 * w, filters * w, 3, dilation=dilation))
        self.hidden, self.fc = nn.Linear(40 * w, 16 * w), nn.Linear(16 * w, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.conv1(x), self.separable1(x)], 1)
        x = torch.cat([self.conv2(x), self.separable2(x)], 1)
        x = torch.cat([self.conv3(x), self.separable3(x)], 1) + x
        x = self.conv4(x) + x
        a = self.conv5(x)
        x = a + x
        b = self.conv6(x)
        c = self.conv7(b + x)
        features = torch.cat([self.conv8(c), a, b, c], 1)[..., -1]
        return self.fc(F.relu(self.hidden(features)))


class Dense(nn.Module):
    """Dense layers "dense1", … with an activation after each, and a classifier, over the last axis."""

    def __init__(self, bins: int, hidden: Sequence[int], classes: int, activate: Callable = F.relu):
        super().__init__()
        self.count, self.activate = len(hidden), activate
        for i, (into, out) in enumerate(zip((bins, *hidden), hidden, strict=False), 1):
            setattr(self, f"dense{i}", nn.Linear(into, out))
        self.fc = nn.Linear(hidden[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(1, self.count + 1):
            x = self.activate(getattr(self, f"dense{i}")(x))
        return self.fc(x)


class Snn(Dense):
    """Dense layers 60-512-256-64-classes on each frame, and the mean over frames."""

    def __init__(self, bins: int, hidden: Sequence[int], classes: int):
        super().__init__(bins, hidden, classes, F.selu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).mean(1)


class MobileNet(nn.Module):
    """Keras's MobileNet v1 on colour images: strided depthwise convolutions padded at the end only, epsilon 1e-3."""

    def __init__(self, classes: int, *, stages: Sequence[int], alpha: float, hidden: int):
        super().__init__()
        self.convs, into = [("conv1", 2)], int(32 * alpha)
        self._add("conv1", 3, into, 3, 2, 1)
        for stage, blocks in enumerate(stages):
            for block in range(blocks):
                number, out, stride = len(self.convs) // 2 + 1, int(64 * 2**stage * alpha), 2 if stage and not block else 1
                self.convs += [(f"conv_dw_{number}", stride), (f"conv_pw_{number}", 1)]
                self._add(f"conv_dw_{number}", into, into, 3, stride, into)
                self._add(f"conv_pw_{number}", into, out, 1, 1, 1)
                into = out
        self.hidden, self.fc = nn.Linear(into, hidden), nn.Linear(hidden, classes)

    def _add(self, name: str, into: int, out: int, kernel: int, stride: int, groups: int) -> None:
        padding = kernel // 2 if stride == 1 else 0
        setattr(self, name, nn.Conv2d(into, out, kernel, stride, padding, groups=groups, bias=False))
        setattr(self, f"{name}_bn", nn.BatchNorm2d(out, 1e-3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, stride in self.convs:
            if stride == 2:  # TensorFlow's "same" pads an odd size at both ends, and an even size only at the end
                odd = [size % 2 if name == "conv1" else 0 for size in (x.shape[3], x.shape[2])]
                x = F.pad(x, (odd[0], 1, odd[1], 1))
            x = F.relu6(getattr(self, f"{name}_bn")(getattr(self, name)(x)))
        return self.fc(F.relu(self.hidden(x.mean((2, 3)))))


class ChoiCnn(nn.Module):
    """`layers` times convolution, ReLU and max pooling by 2; dense layer; classifier."""

    def __init__(self, shape: Sequence[int], classes: int, *, layers: int, maps: int, hidden: int):
        super().__init__()
        self.convs = [f"conv{n}" for n in range(1, layers + 1)]
        (rows, columns, channels) = shape
        for name in self.convs:
            setattr(self, name, nn.Conv2d(channels, maps, 3, padding=1))
            rows, columns, channels = rows // 2, columns // 2, maps
        self.hidden, self.fc = nn.Linear(rows * columns * maps, hidden), nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.convs:
            x = F.max_pool2d(F.relu(getattr(self, name)(x)), 2)
        return self.fc(F.relu(self.hidden(flat(x))))


# ---------------------------------------------------------------- document 004: Schindler's networks

SHALLOW = [((10, 23), (21, 20), (1, 20))]
DEEP = [((10, 23), (21, 10), (2, 2)), ((5, 11), (10, 5), (2, 2)), ((3, 5), (5, 3), (2, 2)), ((2, 4), (4, 2), (1, 5))]


class Schindler(nn.Module):
    """Two parallel pipelines of convolutions with TensorFlow's "same" padding (the odd zero at the end)."""

    def __init__(self, layers: Sequence[tuple[Size, Size, Size]], size: Size, *, width: int, hidden: int, classes: int):
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

    def pipeline(self, x: torch.Tensor, name: str) -> torch.Tensor:
        for i, (_, _, pool) in enumerate(self.layers):
            conv = getattr(self, f"{name}{i + 1}")
            down, across = (k - 1 for k in conv.kernel_size)
            x = conv(F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2)))
            x = F.max_pool2d(F.leaky_relu(x, 0.3), pool if name == "frequency" else pool[::-1])
        return flat(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        merged = torch.cat([self.pipeline(x, "frequency"), self.pipeline(x, "temporal")], 1)
        return self.fc(F.leaky_relu(self.hidden(merged), 0.3))


# ---------------------------------------------------------------- documents 001 and 002: Folmer & Lung's, Burrows's networks


class FolmerCnn(nn.Module):
    """Two stages of convolution, ReLU, batch norm and max pooling by 2; dense layer; classifier.

    With `dense_layers` > 0 each stage has that many convolutions, and each of them reads the outputs of all before it. With the
    `head` "pooled" the dense layer reads the mean of each map.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, *, filters: Sequence[int], hidden: int, dense_layers: int = 0, head: str
    ):
        super().__init__()
        (rows, columns, channels) = shape
        self.dense, self.pooled = dense_layers > 0, head == "pooled"
        self.stages = [[f"stage{n}_{layer}" for layer in range(max(1, dense_layers))] for n in range(1, len(filters) + 1)]
        for names, out in zip(self.stages, filters, strict=True):
            for name in names:
                setattr(self, name, nn.ModuleDict({"conv": nn.Conv2d(channels, out, 3, padding=1), "bn": nn.BatchNorm2d(out)}))
                channels = channels + out if self.dense else out
            rows, columns = rows // 2, columns // 2
        self.classifier = Dense(channels if self.pooled else rows * columns * channels, (hidden,), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for names in self.stages:
            for name in names:
                stage = getattr(self, name)
                y = stage["bn"](F.relu(stage["conv"](x)))
                x = torch.cat([x, y], 1) if self.dense else y
            x = F.max_pool2d(x, 2)
        return self.classifier(x.mean((2, 3)) if self.pooled else flat(x))


class FolmerMlp(nn.Module):
    """Dense layers on all pixels of an image."""

    def __init__(self, shape: Sequence[int], classes: int, *, hidden: Sequence[int]):
        super().__init__()
        self.classifier = Dense(shape[0] * shape[1], hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(flat(x))


class BurrowsConv(nn.Module):
    """Blocks of convolution, ReLU, max pooling by 2 and Keras's batch norm, on sequences or images of size `sizes`."""

    def __init__(self, channels: int, sizes: Sequence[int], classes: int, *, filters: Sequence[int], kernel: int, hidden: int):
        super().__init__()
        sequence = len(sizes) == 1
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if sequence else (nn.Conv2d, nn.BatchNorm2d)
        self.pool: Callable = F.max_pool1d if sequence else F.max_pool2d
        self.names, cells = [f"block{n}" for n in range(1, len(filters) + 1)], 1
        for name, into, out in zip(self.names, (channels, *filters), filters, strict=False):
            setattr(self, name, nn.ModuleDict({"conv": conv(into, out, kernel), "bn": norm(out, 1e-3)}))
            sizes = [(size - kernel + 1) // 2 for size in sizes]
        for size in sizes:
            cells *= size
        self.hidden = nn.Linear(cells * filters[-1], hidden) if hidden else None
        self.fc = nn.Linear(hidden or cells * filters[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.names:
            block = getattr(self, name)
            x = block["bn"](self.pool(F.relu(block["conv"](x)), 2))
        x = flat(x)
        return self.fc(F.relu(self.hidden(x)) if self.hidden else x)


# ---------------------------------------------------------------- torchvision's networks behind the thesis's stem


def import_torchvision() -> Any:
    """Import and return torchvision, even if its compiled operators are missing (`pip install --no-deps`).

    At import torchvision needs the declarations of two of them.
    """
    try:
        import torchvision
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # partly imported
        import torchvision
    return torchvision


def behind_stem(net: nn.Module, instance_norm: bool = True) -> nn.Module:
    """Put the thesis's frozen 1×1 convolution before a network for colour images; the result reads (batch, 1, ·, ·)."""
    stem = nn.Conv2d(1, 3, 1).requires_grad_(False)
    return nn.Sequential(stem, nn.InstanceNorm2d(3) if instance_norm else nn.Identity(), net)
