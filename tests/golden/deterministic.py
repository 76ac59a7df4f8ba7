"""Deterministic numbers from a name and a shape. Both sides of a comparison compute the same numbers."""

import zlib

import numpy as np

GRADIENT_SCALES = (1, 2, 0.01, 0.01, 0.5)  # of the five steps of each optimiser


def tensor(name: str, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Return normally distributed float64 numbers. The name is the seed."""
    return scale * np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a parameter or running statistic in PyTorch's layout. Its scale keeps the size of signals through the layers."""
    if name.endswith("running_var"):
        return np.exp(tensor(name, shape, 0.3))
    if len(shape) == 1:
        return tensor(name, shape, 0.3) + (1.0 if name.endswith("weight") else 0.0)
    return tensor(name, shape, np.prod(shape[1:]) ** -0.5)
