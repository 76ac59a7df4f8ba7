"""What PyTorch calls our networks' variables, and how it lays them out."""

import re
from collections.abc import Callable
from typing import Any

import flax
import numpy as np

from genre_jax.weights import layouts

Rename = Callable[[str], str]
GRU = {"input_kernel": "weight_ih_l0", "hidden_kernel": "weight_hh_l0", "input_bias": "bias_ih_l0", "hidden_bias": "bias_hh_l0"}
LEAVES = layouts.TORCH_LEAVES | GRU


def bytenet(module: str) -> str:
    """Blocks are stacked in one array of ours; `{block}` stands for a block's number."""
    module = re.sub(r"(encoder|decoder)(\d+)\.", r"\1.\2.{block}.", module)
    return re.sub(r"reduce(\d+)", r"reduce.\1", module)


def behind_stem(rename: Rename) -> Rename:
    """A network as the third of (stem, instance norm, network), its own modules as `rename` has them."""
    return lambda module: "0" if module == "stem" else f"2.{rename(module)}"


def torch_name(path: tuple[str, ...], rename: Rename = str) -> str:
    """PyTorch's name of the variable at (collection, *modules, leaf); `rename` turns our dotted name of its module."""
    *modules, leaf = path[1:]
    return ".".join(filter(None, (rename(".".join(modules)), LEAVES.get(leaf, leaf))))


def torch_arrays(variables: Any, rename: Rename = str) -> dict[str, np.ndarray]:
    """PyTorch's name → array of a network's variables: kernels (…, in, out) → (out, in, …), stacked blocks one by one."""

    def turned(value):
        return np.moveaxis(value, (-1, -2), (0, 1)) if value.ndim > 1 else value

    found: dict[str, np.ndarray] = {}
    for path, leaf in flax.traverse_util.flatten_dict(variables).items():
        name, value = torch_name(path, rename), np.asarray(leaf)
        if "{block}" in name:
            found |= {name.format(block=i): turned(block) for i, block in enumerate(value)}
        else:
            found[name] = turned(value)
    return found
