"""Render functions that fail like bad decoders. They are in a separate module because worker processes import it."""

import ctypes
import os
import time

import numpy as np

from genre_jax.datasets import Item, Render, Source
from genre_jax.prepare.audio import Audio, Format

GOOD = ("a", "b", "c")
BAD = {
    "exits": r"the decoder crashed \(exit code 3\)",
    "segfault": r"the decoder crashed \(exit code -11\)",
    "hangs": "time limit: the file was not decoded within 4 s",
    "memory": "memory limit: decoding needs more than 1 GiB",
    "raises": r"the decoder failed with an unexpected error \(ZeroDivisionError\)",
}


def render(item: Item, sample_rate: int) -> Render:
    match item.name.split("/")[1]:
        case "exits":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "hangs":
            time.sleep(1000)
        case "memory":
            np.ones(2**28)  # 2 GiB
        case "raises":
            _ = 1 / 0
    rng = np.random.default_rng(list(item.name.encode()))
    samples = rng.uniform(-0.5, 0.5, sample_rate).astype(np.float32)
    return Render(Audio(samples, sample_rate, Format("noise", sample_rate, 1)))


def source(*bad: str) -> Source:
    """A source of good clips, with these bad clips among them."""
    names = [name for pair in zip(GOOD, [*bad, *GOOD], strict=False) for name in pair] + list(bad)
    names = list(dict.fromkeys([*names, *GOOD]))
    items = [Item(f"{label}/{name}", f"{label}/{name}", (label,)) for label in ("x", "y") for name in names]
    return Source("hostile", ("x", "y"), tuple(items), render)
