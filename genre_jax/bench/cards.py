"""What accelerators can do at most, from their makers' data sheets: dense products, without sparsity."""

from typing import NamedTuple

import jax

HOPPER = {"bfloat16": 989e12, "tensorfloat32": 494e12, "float32": 67e12}


class Card(NamedTuple):
    """Bytes a second of its memory, and FLOP/s by type of number."""

    bytes_a_second: float
    flops_a_second: dict[str, float]


CARDS = {"NVIDIA H100 80GB HBM3": Card(3.35e12, HOPPER), "NVIDIA H200": Card(4.8e12, HOPPER)}


def card() -> Card | None:
    """That of the first device; None where it is not listed, as CPUs are not."""
    return CARDS.get(jax.devices()[0].device_kind)
