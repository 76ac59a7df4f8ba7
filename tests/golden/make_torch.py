"""Golden values from PyTorch and torchvision: `python tests/golden/make_torch.py` overwrites torch.npz in this folder.

The script needs the `peers` extra, and torchvision for the ResNet: `pip install torch==2.13.0` (a CPU build is sufficient),
then `pip install --no-deps torchvision==0.28.0` and pillow. All values are computed in float64. `tests/test_parity.py` reads
the file.
"""

from pathlib import Path

import numpy as np
import torch
from deterministic import GRADIENT_SCALES, parameter, tensor
from torch import nn
from torch.nn import functional as F

from genre_jax.bench.torch_networks import ByteNet, behind_stem, import_torchvision

torch.set_default_dtype(torch.float64)
torchvision = import_torchvision()

CLASSES = 5
LABELS = torch.tensor([3, 1, 4])


def bytenet() -> nn.Module:
    """Return a ByteNet for 99 samples: width 4, kernel 3, dilations 1, 2, 4; encoder strides 4 and 2; one decoder set."""
    return ByteNet(99, CLASSES, width=4, kernel=3, max_dilation=4, strides=(4, 2), decoder_sets=1)


def resnet34(width: int = 4) -> nn.Module:
    """Return torchvision's ResNet34 with `width` channels in the first stage, and with the stem of the thesis in front."""
    net = torchvision.models.resnet34(num_classes=CLASSES)
    net.inplanes = width
    net.conv1, net.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
    for stage, count in enumerate((3, 4, 6, 3)):
        layer = net._make_layer(torchvision.models.resnet.BasicBlock, width * 2**stage, count, stride=2 if stage else 1)
        setattr(net, f"layer{stage + 1}", layer)
    net.fc = nn.Linear(8 * width, CLASSES)
    return behind_stem(net)


def network(name: str, net: nn.Module, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return the evaluation outputs, then loss, outputs, gradient norms and running statistics of one training pass."""
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(np.asarray(parameter(key, tuple(value.shape)))))
    out = {"evaluated": net.eval()(torch.from_numpy(x))}
    out["trained"] = net.train()(torch.from_numpy(x))
    out["loss"] = F.cross_entropy(out["trained"], LABELS)
    out["loss"].backward()
    out |= {f"gradient/{key}": p.grad.norm() for key, p in net.named_parameters() if p.grad is not None}
    out |= {f"statistics/{key}": value for key, value in net.named_buffers() if "running" in key}
    return {f"{name}/{key}": value.detach().numpy() for key, value in out.items()}


# ---------------------------------------------------------------- losses, optimisers, resizing


def loss_values() -> dict[str, np.ndarray]:
    """Return the means and gradients of the two weighted losses."""
    weight = torch.from_numpy(np.abs(tensor("class weights", (CLASSES,))))
    multi = torch.from_numpy((tensor("multi labels", (3, CLASSES)) > 0).astype(float))
    out = {}
    for name, loss, labels in (
        ("softmax", nn.CrossEntropyLoss(weight=weight), LABELS),
        ("sigmoid", nn.BCEWithLogitsLoss(weight=weight), multi),
    ):
        logits = torch.from_numpy(tensor("logits", (3, CLASSES), 3.0)).requires_grad_()
        value = loss(logits, labels)
        value.backward()
        out |= {f"loss/{name}": value.detach().numpy(), f"loss/{name}/gradient": logits.grad.numpy()}
    return out


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adam_decay": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.05),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
}


def optimizer_steps() -> dict[str, np.ndarray]:
    """Return the parameters (steps, 7) after each of five steps. Small gradients in the middle test AMSGrad's maximum."""
    out = {}
    for name, make in OPTIMIZERS.items():
        p = torch.from_numpy(tensor("p", (7,))).requires_grad_()
        optimizer, path = make([p]), []
        for step, scale in enumerate(GRADIENT_SCALES):
            p.grad = torch.from_numpy(tensor(f"gradient{step}", (7,), scale))
            optimizer.step()
            path.append(p.detach().numpy().copy())
        out[f"optimizer/{name}"] = np.stack(path)
    return out


def resized() -> dict[str, np.ndarray]:
    """Return an image after bilinear interpolation to a larger, a smaller and a mixed size."""
    image = torch.from_numpy(tensor("image", (1, 1, 7, 5)))
    return {
        f"resize/{height}x{width}/{aligned}": F.interpolate(
            image, (height, width), mode="bilinear", align_corners=aligned
        ).numpy()[0, 0]
        for height, width in ((13, 11), (3, 2), (4, 9))
        for aligned in (True, False)
    }


if __name__ == "__main__":
    np.savez_compressed(
        Path(__file__).with_name("torch.npz"),
        **network("bytenet", bytenet(), tensor("waveform", (3, 1, 99))),
        **network("resnet34", resnet34(), tensor("image", (3, 1, 70, 45))),
        **loss_values(),
        **optimizer_steps(),
        **resized(),
    )
