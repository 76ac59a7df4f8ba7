"""Numbers that both sides of a comparison make for themselves, from a name and a shape."""

import zlib

import numpy as np

GRADIENT_SCALES = (1, 2, 0.01, 0.01, 0.5)  # of the optimisers' five steps


def tensor(name: str, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Normal numbers (float64) seeded by the name."""
    return scale * np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter or running statistic in PyTorch's name and layout, sized so that signals neither fade nor explode."""
    if name.endswith("running_var"):
        return np.exp(tensor(name, shape, 0.3))
    if len(shape) == 1:
        return tensor(name, shape, 0.3) + (1.0 if name.endswith("weight") else 0.0)
    return tensor(name, shape, np.prod(shape[1:]) ** -0.5)
