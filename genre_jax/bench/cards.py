"""Peak rates of accelerators from their data sheets, for dense products (without sparsity)."""

from typing import NamedTuple

import jax

HOPPER = {"bfloat16": 989e12, "tensorfloat32": 494e12, "float32": 67e12}


class Card(NamedTuple):
    """Memory bandwidth in bytes per second, and peak FLOP/s per number type."""

    bytes_a_second: float
    flops_a_second: dict[str, float]


CARDS = {"NVIDIA H100 80GB HBM3": Card(3.35e12, HOPPER), "NVIDIA H200": Card(4.8e12, HOPPER)}


def card() -> Card | None:
    """Return the card of the first device, or None if it is not listed (a CPU, for example)."""
    return CARDS.get(jax.devices()[0].device_kind)
