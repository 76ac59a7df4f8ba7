"""Convert names and layouts of our networks' variables to PyTorch's."""

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
    """Return the peer's name of a ByteNet module; `{block}` stands for a block's number, because our blocks are stacked."""
    module = re.sub(r"(encoder|decoder)(\d+)\.", r"\1.\2.{block}.", module)
    return re.sub(r"reduce(\d+)", r"reduce.\1", module)


def behind_stem(rename: Rename) -> Rename:
    """Return the names for a network that is the third module of (stem, instance norm, network); `rename` converts its own."""
    return lambda module: "0" if module == "stem" else f"2.{rename(module)}"


def torch_name(path: tuple[str, ...], rename: Rename = str) -> str:
    """Return PyTorch's name of the variable at (collection, *modules, leaf); `rename` converts the dotted module name."""
    *modules, leaf = path[1:]
    return ".".join(filter(None, (rename(".".join(modules)), LEAVES.get(leaf, leaf))))


def torch_arrays(variables: Any, rename: Rename = str) -> dict[str, np.ndarray]:
    """Return PyTorch's name → array for all variables: kernels (…, in, out) → (out, in, …), and one entry per stacked block."""

    def transposed(value):
        return np.moveaxis(value, (-1, -2), (0, 1)) if value.ndim > 1 else value

    arrays: dict[str, np.ndarray] = {}
    for path, leaf in flax.traverse_util.flatten_dict(variables).items():
        name, value = torch_name(path, rename), np.asarray(leaf)
        if "{block}" in name:
            arrays |= {name.format(block=i): transposed(block) for i, block in enumerate(value)}
        else:
            arrays[name] = transposed(value)
    return arrays
