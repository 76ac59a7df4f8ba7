"""Table I of document 003, the "effective sizes" of its convolutional kernels, beside the receptive fields of the network.

This module imports JAX only to compute receptive fields: the report reads the sizes from configs alone.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

PRINTED = {1: (93.0, 86.0), 2: (162.0, 151.0), 3: (302.0, 280.0), 4: (580.0, 538.0), 5: (1137.0, 270.0)}  # layer → ms, Hz
KERNEL, POOL = 3, 2  # of each layer of the network


def effective_cells(layer: int) -> int:
    """Return the size of a kernel in frames or bins by the rule that the printed table follows: 3 · 2^(layer - 1) + 1.

    This is the kernel at the spacing of the layer's input, and one cell more, because a window is two hops long. It is not the
    receptive field.
    """
    return KERNEL * POOL ** (layer - 1) + 1


def effective_size(config: Mapping[str, Any], path: tuple[str, ...]) -> float:
    """Return the size at a path ("kernel", "layer3", "width" or "height") of a run, in ms or Hz.

    Args:
      config: the config of the run, a JSON object.
      path: layer and direction.

    Returns NaN if the path names no layer, or the network of the run is not Choi's with that many layers on an STFT.
    """
    try:
        layer, side = int(path[1].removeprefix("layer")), path[2]
        front, rate = config["frontend"], float(config["data"]["sample_rate"])
        if config["model"]["name"] != "choi_cnn" or not 1 <= layer <= config["model"]["layers"]:
            return math.nan
        cell = {"width": 1000 * front["hop_length"] / rate, "height": rate / front["n_fft"]}[side]
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return math.nan
    return effective_cells(layer) * cell


def receptive_fields(layers: int) -> list[int]:
    """Return how many frames, or bins, of the input a unit of each convolution of Choi's network sees.

    The numbers are measured on the network: a row of NaN in its input reaches the units that see the row.
    """
    import jax

    from genre_jax import models

    side = 5 * POOL**layers
    model = models.build("choi_cnn", num_classes=1, layers=layers, maps=1, hidden=1, dropout=0.0)
    images = np.where(np.eye(side)[:, :, None, None] > 0, np.nan, np.ones((1, 1, side, 1))).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    _, kept = jax.jit(model.apply)(variables, images)
    found = []
    for number in range(1, layers + 1):
        maps = np.isnan(kept[f"maps{number}"])
        found.append(int(maps[:, maps.shape[1] // 2, maps.shape[2] // 2].sum()))
    return found


class Kernel(NamedTuple):
    """A row of the table.

    Attributes:
      layer: number of the layer.
      printed: width in ms and height in Hz as printed; None for a layer or front end that the document does not have.
      rule: the same by `effective_cells`.
      field: the receptive field in ms and Hz: cells, the last of them with the length or width of a cell.
      cells: the receptive field in frames and bins.
    """

    layer: int
    printed: tuple[float, float] | None
    rule: tuple[float, float]
    field: tuple[float, float]
    cells: int

    @property
    def slips(self) -> tuple[bool, bool]:
        """Whether the printed width and height do not follow the rule to a unit."""
        if self.printed is None:
            return False, False
        width, height = (abs(a - b) > 1 for a, b in zip(self.printed, self.rule, strict=True))
        return width, height


def table(config: Mapping[str, Any]) -> list[Kernel]:
    """Return the row of each layer of a run of Choi's network.

    A receptive field of n frames lasts n - 1 hops and a window; n bins are n + 1 distances of bins high, because the window
    spreads each of them.
    """
    front, rate, layers = config["frontend"], config["data"]["sample_rate"], config["model"]["layers"]
    hop, bin_width = 1000 * front["hop_length"] / rate, rate / front["n_fft"]
    window = 1000 * (front["win_length"] or front["n_fft"]) / rate
    same = (rate, front["n_fft"], front["hop_length"]) == (11_025, 512, 256)
    rows = []
    for layer, cells in enumerate(receptive_fields(layers), 1):
        rule = (
            effective_size(config, ("kernel", f"layer{layer}", "width")),
            effective_size(config, ("", f"layer{layer}", "height")),
        )
        span = (cells - 1) * hop + window, (cells + 1) * bin_width
        rows.append(Kernel(layer, PRINTED.get(layer) if same else None, rule, span, cells))
    return rows
