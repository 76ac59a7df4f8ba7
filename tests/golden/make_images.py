"""Golden values of the image networks: `python tests/golden/make_images.py [FILE]` overwrites images.npz in this folder.

The script needs the `peers` extra, torchvision and Keras: `pip install torch==2.13.0 keras==3.15.1` (a CPU build of torch is
sufficient), then `pip install --no-deps torchvision==0.28.0` and pillow. All values are computed in float64.
`tests/test_parity_images.py` reads the file.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
from deterministic import parameter, tensor
from keras.src.backend.common.dtypes import BIT64_TO_BIT32_DTYPE
from torch import nn
from torch.nn import functional as F

# Without its compiled operators, torchvision needs these two declarations at import.
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import torchvision  # noqa: E402
from torchvision.models.resnet import Bottleneck  # noqa: E402

CLASSES = 5
LABELS = torch.tensor([3, 1, 4])

torch.set_default_dtype(torch.float64)
keras.config.set_floatx("float64")
keras.config.set_dtype_policy("float64")
BIT64_TO_BIT32_DTYPE.pop("float64")  # otherwise Keras's batch norms compute in float32 under any policy


def narrow_resnet(stages: tuple[int, ...], width: int) -> nn.Module:
    """Return torchvision's ResNet of bottleneck blocks with `width` channels in the first stage."""
    net = torchvision.models.ResNet(Bottleneck, [1, 1, 1, 1], num_classes=CLASSES)
    net.inplanes = width
    net.conv1, net.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
    for stage in range(4):
        layer = nn.Identity()
        if stage < len(stages):
            layer = net._make_layer(Bottleneck, width * 2**stage, stages[stage], stride=2 if stage else 1)
        setattr(net, f"layer{stage + 1}", layer)
    net.fc = nn.Linear(net.inplanes, CLASSES)
    return net


def narrow_densenet(stages: tuple[int, ...]) -> nn.Module:
    """Return torchvision's DenseNet with 6 channels at the start and a growth rate of 3."""
    return torchvision.models.DenseNet(3, stages, 6, 2, num_classes=CLASSES)


def behind_stem(net: nn.Module, instance_norm: bool = True) -> nn.Module:
    """Return a network for colour images with the stem of the thesis in front. The stem is not trained."""
    stem = nn.Conv2d(1, 3, 1).requires_grad_(False)
    return nn.Sequential(stem, nn.InstanceNorm2d(3) if instance_norm else nn.Identity(), net)


class KerasMobileNet(nn.Module):
    """Keras's MobileNet with the stem, and with the head of SwishNet's teacher network. Its variables have PyTorch's names."""

    def __init__(self, alpha: float):
        super().__init__()
        self.stem = behind_stem(nn.Identity())
        trunk = keras.applications.MobileNet(
            alpha=alpha, weights=None, include_top=False, input_shape=(70, 45, 3), pooling="avg"
        )
        hidden = keras.layers.Dense(16, "relu", name="hidden")(trunk.output)
        self.net = keras.Model(trunk.input, keras.layers.Dense(CLASSES, name="fc")(hidden))

    def forward(self, x):
        return self.net(self.stem(x).movedim(1, -1), training=self.training)

    def named_arrays(self):
        leaves = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
        for variable in self.net.variables:
            layer, leaf = variable.path.split("/")
            value = variable.value.data
            if leaf == "kernel":  # Keras layout: (…, in, out); depthwise: (…, out, 1)
                value = torch.movedim(value, (-2, -1), (0, 1) if "_dw_" in layer else (1, 0))
            yield f"{layer}.{leaves.get(leaf, leaf.replace('moving', 'running').replace('variance', 'var'))}", value
        for key, value in self.stem.named_parameters():
            yield f"stem.{key.removeprefix('0.')}", value.data


def named_arrays(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return name → view of each parameter and running statistic."""
    if isinstance(net, KerasMobileNet):
        return dict(net.named_arrays())
    return {key: value for key, value in net.state_dict().items() if value.is_floating_point()}


def network(make: Callable[[], nn.Module], shape: tuple[int, ...], rate: float = 1e-4) -> dict[str, np.ndarray]:
    """Return the evaluation logits, the losses of five steps of gradient descent, then logits and running statistics.

    At `rate` 0, return only the evaluation logits.
    """
    net, x = make(), torch.from_numpy(tensor("image", shape))
    arrays = named_arrays(net)
    for key, value in arrays.items():
        value.copy_(torch.from_numpy(np.asarray(parameter(key, tuple(value.shape)))))
    with torch.no_grad():
        out = {"evaluated": net.eval()(x).numpy()}
    if not rate:
        return out
    optimizer, path = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], rate), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.cross_entropy(net.train()(x), LABELS)
        loss.backward()
        optimizer.step()
        path.append(loss.item())
    arrays = named_arrays(net)
    statistics = [arrays[key].numpy().ravel() for key in sorted(arrays) if "running" in key]
    with torch.no_grad():
        trained = net.eval()(x).numpy()
    statistics = np.concatenate(statistics).astype(np.float32)
    return out | {"rate": np.array(rate), "losses": np.array(path), "trained": trained, "statistics": statistics}


SMALL, FULL = (3, 1, 70, 45), (2, 1, 64, 64)
CASES: dict[str, tuple] = {
    "short resnet50": (lambda: behind_stem(narrow_resnet((1, 2), 4)), SMALL),
    "short densenet121": (lambda: behind_stem(narrow_densenet((2, 2))), SMALL),
    "mobilenet_v1": (lambda: KerasMobileNet(1 / 8), SMALL),
    "resnet50": (lambda: behind_stem(narrow_resnet((3, 4, 6, 3), 4)), SMALL),
    "resnet101": (lambda: behind_stem(narrow_resnet((3, 4, 23, 3), 4), instance_norm=False), SMALL, 1e-6),
    "densenet121": (lambda: behind_stem(narrow_densenet((6, 12, 24, 16))), SMALL),
    "full resnet101": (lambda: behind_stem(torchvision.models.resnet101(), instance_norm=False), FULL, 0),
    "full densenet121": (lambda: behind_stem(torchvision.models.densenet121()), FULL, 0),
}


def golden() -> dict[str, np.ndarray]:
    """Return the content of images.npz."""
    return {f"{name}/{key}": value for name, case in CASES.items() for key, value in network(*case).items()}


if __name__ == "__main__":
    np.savez_compressed(sys.argv[1] if sys.argv[1:] else Path(__file__).with_name("images.npz"), **golden())
