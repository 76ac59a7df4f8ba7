"""The peers of `bench train_step`: the same networks and their training step in PyTorch. This file needs only torch."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from genre_jax.bench import torch_networks as nets

LEARNING_RATE = 1e-4


class Peer(NamedTuple):
    """How to build a peer.

    Attributes:
      make: function of (classes, shape of an input of our network, options of our network) that returns the peer.
      channels_first: whether the inputs are transposed from (batch, …, channels) to (batch, channels, …).
    """

    make: Callable[[int, list[int], dict[str, Any]], nn.Module]
    channels_first: bool = True


def _bytenet(classes: int, shape: list[int], options: dict[str, Any]) -> nn.Module:
    shared = ("width", "kernel", "max_dilation", "strides", "decoder_sets", "recompute")
    return nets.ByteNet(shape[0], classes, **_only(options, *shared))


def _only(options: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: options[key] for key in keys}


def _folmer(classes: int, shape: list[int], options: dict[str, Any]) -> nn.Module:
    return nets.FolmerCnn(shape, classes, **_only(options, "filters", "hidden", "dense_layers", "head"))


def _torchvision(name: str, instance_norm: bool = True) -> Peer:
    def make(classes, shape, options):
        return nets.behind_stem(getattr(nets.import_torchvision().models, name)(num_classes=classes), instance_norm)

    return Peer(make)


def _schindler(layers: Any) -> Peer:
    return Peer(lambda n, shape, o: nets.Schindler(layers, (shape[0], shape[1]), classes=n, **_only(o, "width", "hidden")))


BURROWS = ("filters", "kernel", "hidden")
PEERS = {
    "burrows_conv1d": Peer(lambda n, shape, o: nets.BurrowsConv(shape[0], shape[1:], n, **_only(o, *BURROWS)), False),
    "burrows_conv2d": Peer(lambda n, shape, o: nets.BurrowsConv(1, shape[:2], n, **_only(o, *BURROWS))),
    "burrows_mlp": Peer(lambda n, shape, o: nets.Dense(shape[0], o["hidden"], n), False),
    "bytenet": Peer(_bytenet),
    "choi_cnn": Peer(lambda n, shape, o: nets.ChoiCnn(shape, n, **_only(o, "layers", "maps", "hidden"))),
    "densenet121": _torchvision("densenet121"),
    "dense_cnn": Peer(_folmer),
    "folmer_cnn": Peer(_folmer),
    "folmer_mlp": Peer(lambda n, shape, o: nets.FolmerMlp(shape, n, hidden=o["hidden"])),
    "gru_attention": Peer(lambda n, shape, o: nets.GruAttention(shape, n, **_only(o, "hidden", "features")), False),
    "mobilenet_v1": Peer(lambda n, shape, o: nets.behind_stem(nets.MobileNet(n, **_only(o, "stages", "alpha", "hidden")))),
    "resnet34": _torchvision("resnet34"),
    "resnet101": _torchvision("resnet101", instance_norm=False),
    "schindler_deep": _schindler(nets.DEEP),
    "schindler_shallow": _schindler(nets.SHALLOW),
    "snn": Peer(lambda n, shape, o: nets.Snn(shape[1], o["hidden"], n), False),
    "swishnet_slim": Peer(lambda n, shape, o: nets.SwishNet(shape[1], n, width=o["width"])),
    "swishnet_wide": Peer(lambda n, shape, o: nets.SwishNet(shape[1], n, width=o["width"])),
}


def versions() -> dict[str, str]:
    """Return package → version, and the number of threads that torch uses."""
    return {"torch": torch.__version__, "torch_threads": str(torch.get_num_threads())}


def build(problem: dict[str, Any], path: str, dtype: str, recompute: bool, kinds: list[str]) -> dict[str, "Step"]:
    """Return label → contestant for the problem that `network_cases.Step.problem` returned and wrote to `path`."""
    problem["options"]["recompute"] = recompute
    return {kind: Step(problem, path, dtype, "channels last" in kind, kind.startswith("torch.compile")) for kind in kinds}


class Step:
    """Forward pass, cross-entropy, backward pass and `Adam(amsgrad=True)`, on the GPU if there is one.

    On a GPU, cuDNN times its algorithms first, and float32 products use TensorFloat-32. XLA does the same.
    """

    def __init__(self, problem: dict[str, Any], path: str, dtype: str, channels_last: bool, compiled: bool):
        peer = PEERS[problem["model"]]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        self.autocast = torch.autocast(self.device, torch.bfloat16, enabled=dtype == "bfloat16")
        with np.load(path) as file:
            arrays = {key: torch.from_numpy(file[key]) for key in file.files}
        inputs = arrays["inputs"].movedim(-1, 1).contiguous() if peer.channels_first else arrays["inputs"]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.inputs = inputs.to(self.device, memory_format=layout)
        self.labels = arrays["labels"].to(self.device)
        net = peer.make(problem["classes"], problem["shape"], problem["options"]).train()
        _load(net, {key.removeprefix("weights/"): value for key, value in arrays.items() if key.startswith("weights/")})
        net = net.to(self.device, memory_format=layout)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, amsgrad=True, fused=True)
        self.forward = torch.compile(net) if compiled else net

    def run(self, steps: int) -> tuple[float, float, float]:
        """Run `steps` steps; return the clock seconds, the CPU seconds of all threads, and the loss of the last step."""
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
    """Copy our weights into a network; the names must be equal, and the sizes of each array."""
    state = {key: value for key, value in net.state_dict().items() if value.is_floating_point()}
    if state.keys() != weights.keys():
        raise ValueError(f"only one of the two networks has the variables {sorted(state.keys() ^ weights.keys())}")
    net.load_state_dict({key: weights[key].reshape(value.shape) for key, value in state.items()}, strict=False)
