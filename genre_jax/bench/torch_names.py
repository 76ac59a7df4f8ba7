"""What PyTorch calls our networks' variables, and how it lays them out."""

import re
from collections.abc import Callable
from typing import Any

import flax
import numpy as np

LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def bytenet(module: str) -> str:
    """Blocks are stacked in one array of ours; `{block}` stands for a block's number."""
    module = re.sub(r"(encoder|decoder)(\d+)\.", r"\1.\2.{block}.", module)
    return re.sub(r"reduce(\d+)", r"reduce.\1", module)


def resnet(module: str) -> str:
    """torchvision's ResNet as the third of (stem, instance norm, ResNet)."""
    if module == "stem":
        return "0"
    module = re.sub(r"layer(\d+)_(\d+)", r"layer\1.\2", module)
    return "2." + module.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")


def torch_name(path: tuple[str, ...], rename: Callable[[str], str] = str) -> str:
    """PyTorch's name of the variable at (collection, *modules, leaf); `rename` turns our dotted name of its module."""
    *modules, leaf = path[1:]
    return ".".join(filter(None, (rename(".".join(modules)), LEAVES.get(leaf, leaf))))


def torch_arrays(variables: Any, rename: Callable[[str], str] = str) -> dict[str, np.ndarray]:
    """PyTorch's name → array of a network's variables: kernels (…, in, out) → (out, in, …), stacked blocks one by one."""

    def turned(value, leaf):
        return np.moveaxis(value, (-1, -2), (0, 1)) if leaf == "kernel" else value

    found: dict[str, np.ndarray] = {}
    for path, leaf in flax.traverse_util.flatten_dict(variables).items():
        name, value = torch_name(path, rename), np.asarray(leaf)
        if "{block}" in name:
            found |= {name.format(block=i): turned(block, path[-1]) for i, block in enumerate(value)}
        else:
            found[name] = turned(value, path[-1])
    return found
