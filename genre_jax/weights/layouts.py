"""Names and array layouts of ResNet, DenseNet and MobileNet v1 in torchvision, timm and Keras.

A variable of genre_jax is a path (collection, *modules, leaf), such as ("params", "layer1_0", "conv1", "kernel").
MobileNet pads and normalises differently in timm and in Keras. Its weights therefore give the library's outputs only if
`model.library` names their library; otherwise they still serve to initialise a run. No library has the stem of genre_jax.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import numpy as np

from genre_jax import models
from genre_jax.console import UserError

Path = tuple[str, ...]

TORCH_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
KERAS_LEAVES = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
TIMM_STAGES = (1, 2, 2, 6, 2)  # blocks of MobileNet per stage, 13 in total


def resnet(module: str) -> str:
    """Return the dotted name of a module of `models.ResNet` in torchvision and timm."""
    module = re.sub(r"(layer\d+)_(\d+)", r"\1.\2", module)
    return module.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")


def densenet(module: str) -> str:
    """Return the dotted name of a module of `models.DenseNet` in torchvision and timm."""
    return "classifier" if module == "fc" else "features." + re.sub(r"(block|transition)(\d+)_", r"\1\2.", module)


def mobilenet(module: str) -> str:
    """Return the dotted name of a module of `models.MobileNet` in timm."""
    match = re.fullmatch(r"conv_(dw|pw)_(\d+)(_bn)?", module)
    if not match:
        return {"conv1": "conv_stem", "conv1_bn": "bn1"}[module]
    block, stage = int(match[2]) - 1, 0
    while block >= TIMM_STAGES[stage]:
        block, stage = block - TIMM_STAGES[stage], stage + 1
    norm = "bn1" if match[1] == "dw" else "bn2"
    return f"blocks.{stage}.{block}.{norm if match[3] else f'conv_{match[1]}'}"


def torch_name(path: Path, module: Callable[[str], str]) -> str:
    """Return PyTorch's name of a variable; `module` converts the dotted name of its module."""
    return f"{module('.'.join(path[1:-1]))}.{TORCH_LEAVES.get(path[-1], path[-1])}"


def _torch_array(path: Path, array: np.ndarray) -> np.ndarray:
    """Transpose kernels from (out, in, …) to (…, in, out)."""
    return np.moveaxis(array, (0, 1), (-1, -2)) if path[-1] == "kernel" and array.ndim > 1 else array


def _torch_clean(name: str) -> str:
    """Remove the prefix of DataParallel, and rename "norm.1" of torchvision's published DenseNets to "norm1" as in its code."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name.removeprefix("module."))


def _keras_name(path: Path) -> str:
    return f"{path[-2]}/{KERAS_LEAVES.get(path[-1], path[-1])}"


def _keras_array(path: Path, array: np.ndarray) -> np.ndarray:
    """Transpose depthwise kernels from (…, in, 1) to (…, 1, in)."""
    return array.swapaxes(-1, -2) if "_dw_" in path[-2] and path[-1] == "kernel" and array.ndim > 1 else array


def _keras_clean(name: str) -> str:
    """Return layer/variable. Older files name layers and variables; Keras 3 numbers the layers of each class."""
    if name.startswith("optimizer"):  # the optimiser's moments have the names of the weights
        return f"optimizer/{name}"
    match = re.search(r"layers/(conv2d|depthwise_conv2d|batch_normalization)(?:_(\d+))?/vars/(\d)$", name)
    if not match:
        return "/".join(name.removesuffix(":0").replace("depthwise_kernel", "kernel").split("/")[-2:])
    number, variable = int(match[2] or 0), int(match[3])
    if match[1] == "batch_normalization":
        block, pointwise = divmod(number + 1, 2)
        layer = f"conv_{'pw' if pointwise else 'dw'}_{block}_bn" if number else "conv1_bn"
        return f"{layer}/{[*KERAS_LEAVES.values()][variable]}"
    if match[1] == "depthwise_conv2d":
        layer = f"conv_dw_{number + 1}"
    else:
        layer = {0: "conv1", 14: "conv_preds"}.get(number, f"conv_pw_{number}")
    return f"{layer}/{('kernel', 'bias')[variable > 0]}"


class Layout(NamedTuple):
    """The names and array layouts of a network in another library.

    Attributes:
      library: name of the library for messages.
      name: path in genre_jax → name in the library.
      array: (path in genre_jax, array of the library) → array in the layout of genre_jax.
      clean: name in a file → name as `name` returns it.
      head: regular expression for the names of the classifier and of entries that are not weights; they may be unused.
      absent: modules of genre_jax that the library lacks, besides the stem and the front end.
    """

    library: str
    name: Callable[[Path], str]
    array: Callable[[Path, np.ndarray], np.ndarray]
    clean: Callable[[str], str]
    head: str
    absent: tuple[str, ...] = ()


def _torch_layout(library: str, module: Callable[[str], str], head: str, absent: tuple[str, ...] = ()) -> Layout:
    return Layout(library, lambda path: torch_name(path, module), _torch_array, _torch_clean, head, absent)


LAYOUTS: dict[type[nn.Module], tuple[Layout, ...]] = {
    models.ResNet: (_torch_layout("torchvision and timm", resnet, r"fc\."),),
    models.DenseNet: (_torch_layout("torchvision and timm", densenet, r"classifier\."),),
    models.MobileNet: (
        _torch_layout("timm", mobilenet, r"classifier\.", ("hidden", "fc")),
        Layout(
            "Keras", _keras_name, _keras_array, _keras_clean, "conv_preds|dense|predictions|vars|optimizer", ("hidden", "fc")
        ),
    ),
}


class Donor(NamedTuple):
    """The weights from which a run starts. Names of genre_jax are "params/conv1/kernel".

    Attributes:
      arrays: name in genre_jax → array in the layout of genre_jax, for the weights in the file or run.
      names: name in genre_jax → name in the file, for all weights that the file should contain.
      unknown: names in the file that the network does not have.
      heads: names of the classifier in the file and of entries that are not weights, which the network does not have either.
      origin: description for messages.
      labels: classes of the classifier, None if they are unknown.
    """

    arrays: dict[str, np.ndarray]
    names: dict[str, str]
    unknown: list[str]
    heads: list[str]
    origin: str
    labels: tuple[str, ...] | None = None


def convert(model: nn.Module, arrays: dict[str, np.ndarray], ours: list[str]) -> Donor:
    """Convert the arrays of another library's file to the names and layouts of genre_jax.

    Args:
      model: the network that the weights are for.
      arrays: name in the file → array.
      ours: the names of all variables of `model`, as "params/conv1/kernel".

    Returns the donor of the library whose names fit best; its `origin` is the name of the library. Raises `UserError` if no
    layout is known for the network, or if the file contains none of its variables.
    """
    kind = type(model).__name__
    if type(model) not in LAYOUTS:
        known = ", ".join(each.__name__ for each in LAYOUTS)
        raise UserError(f"files of other libraries can initialise {known}; {kind} can start only from a run of genre_jax")
    fits = []
    for layout in LAYOUTS[type(model)]:
        paths = {name: tuple(name.split("/")) for name in ours}
        names = {
            name: layout.name(path)
            for name, path in paths.items()
            if path[0] != "frontend" and path[1] not in ("stem", *layout.absent)
        }
        cleaned = {layout.clean(name): array for name, array in arrays.items()}
        converted = {name: layout.array(paths[name], cleaned[theirs]) for name, theirs in names.items() if theirs in cleaned}
        unknown = cleaned.keys() - set(names.values())
        heads = sorted(name for name in unknown if re.match(layout.head, name))
        fits.append(Donor(converted, names, sorted(unknown - set(heads)), heads, layout.library))
    best = max(fits, key=lambda fit: len(fit.arrays))
    if not best.arrays:
        libraries = " or ".join(layout.library for layout in LAYOUTS[type(model)])
        held = ", ".join([*arrays][:3]) or "nothing"
        raise UserError(f"it contains no variable of a {kind} under the names of {libraries}, and begins with {held}")
    return best
