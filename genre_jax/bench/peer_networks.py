"""The peers of `bench train_step`: the same networks and their training step in PyTorch. This file needs torch alone."""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

LEARNING_RATE = 1e-4


# ---------------------------------------------------------------- ByteNet, as document 000's code has it


class ByteNetBlock(nn.Module):
    """A residual block on (batch, 2 d, time): norm, ReLU, 1×1 to d; norm, ReLU, dilated convolution; norm, ReLU, 1×1 back."""

    def __init__(self, d: int, kernel: int, dilation: int, causal: bool):
        super().__init__()
        reach = dilation * (kernel - 1)
        # What the convolution can pad by itself costs no copy.
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
    """Encoder sets with a reduction each, causal decoder sets, the thesis's head; waveforms (batch, 1, `length`)."""

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


# ---------------------------------------------------------------- torchvision's networks behind the thesis's stem


def import_torchvision() -> Any:
    """torchvision, also one without its compiled operators (`pip install --no-deps`), two of which it declares at import."""
    try:
        import torchvision
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported
        import torchvision
    return torchvision


def behind_stem(net: nn.Module) -> nn.Module:
    """A network for colour images behind the thesis's 1×1 convolution, which is not trained; images (batch, 1, ·, ·)."""
    return nn.Sequential(nn.Conv2d(1, 3, 1).requires_grad_(False), nn.InstanceNorm2d(3), net)


# ---------------------------------------------------------------- how they are trained


class Peer(NamedTuple):
    """`make(classes, shape of an input as ours reads it, our model's options) -> network`."""

    make: Callable[[int, list[int], dict[str, Any]], nn.Module]
    channels_first: bool = True  # inputs (batch, …, channels) are turned


def _bytenet(classes: int, shape: list[int], options: dict[str, Any]) -> nn.Module:
    shared = ("width", "kernel", "max_dilation", "strides", "decoder_sets")
    return ByteNet(shape[0], classes, **{key: options[key] for key in shared}, recompute=options["recompute"])


PEERS = {
    "bytenet": Peer(_bytenet),
    "resnet34": Peer(lambda classes, shape, options: behind_stem(import_torchvision().models.resnet34(num_classes=classes))),
}


def versions() -> dict[str, str]:
    """Package → version, and the threads that torch uses."""
    return {"torch": torch.__version__, "torch_threads": str(torch.get_num_threads())}


def build(problem: dict[str, Any], path: str, dtype: str, recompute: bool, kinds: list[str]) -> dict[str, "Step"]:
    """Label → contestant, for a problem as `network_cases.Step.problem` describes it and wrote it to `path`."""
    problem["options"]["recompute"] = recompute
    return {kind: Step(problem, path, dtype, kind == "torch.compile") for kind in kinds}


class Step:
    """Forward pass, cross-entropy, backward pass and `Adam(amsgrad=True)`, on the GPU where there is one."""

    def __init__(self, problem: dict[str, Any], path: str, dtype: str, compiled: bool):
        peer = PEERS[problem["model"]]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.autocast = torch.autocast(self.device, torch.bfloat16, enabled=dtype == "bfloat16")
        with np.load(path) as file:
            arrays = {key: torch.from_numpy(file[key]) for key in file.files}
        inputs = arrays["inputs"].movedim(-1, 1).contiguous() if peer.channels_first else arrays["inputs"]
        layout = torch.channels_last if inputs.ndim == 4 else torch.contiguous_format
        self.inputs = inputs.to(self.device, memory_format=layout)
        self.labels = arrays["labels"].to(self.device)
        net = peer.make(problem["classes"], problem["shape"], problem["options"]).train()
        _load(net, {key.removeprefix("weights/"): value for key, value in arrays.items() if key.startswith("weights/")})
        net = net.to(self.device, memory_format=layout)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, amsgrad=True, fused=True)
        self.forward = torch.compile(net) if compiled else net

    def run(self, steps: int) -> tuple[float, float, float]:
        """Seconds of so many steps, by the clock and on all cores together, and the loss of the last."""
        started, on_cores = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            with self.autocast:
                loss = F.cross_entropy(self.forward(self.inputs), self.labels)
            loss.backward()
            self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started, time.process_time() - on_cores, loss.item()


def _load(net: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Put our weights into a network; every variable must get one, with as many numbers."""
    state = {key: value for key, value in net.state_dict().items() if value.is_floating_point()}
    if state.keys() != weights.keys():
        raise ValueError(f"only one of the networks has {sorted(state.keys() ^ weights.keys())}")
    net.load_state_dict({key: weights[key].reshape(value.shape) for key, value in state.items()}, strict=False)
