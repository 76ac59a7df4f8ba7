"""The deconvolution of Choi's auralisation, step by step as the authors' code has it (arXiv 1607.02444, document 003).

The forward pass has no biases. `reverse.reverse` gives the same numbers for this network; a test compares both with NumPy.
"""

from typing import Any

import jax
import jax.numpy as jnp

from genre_jax.models.choi import POOL, ChoiCnn
from genre_jax.models.pooling import unpool


def deconvolve(model: ChoiCnn, variables: Any, image: jax.Array, layer: int, channels: jax.Array) -> jax.Array:
    """Bring single channels of a layer back to the input: unpool, ReLU, convolve with the flipped kernel, layer by layer.

    Args:
      model: the network, with `use_bias` False.
      variables: its {"params"}; biases of convolutions in it are not read.
      image: magnitudes (1, bins, frames, 1).
      layer: number of the layer, from 1.
      channels: int (channels,), numbers of the channels; all others of the layer are set to zero.

    Returns masks (channels, bins, frames, 1). They are not rectified, as in the authors' code.
    """
    _, kept = model.apply(variables, image)

    def one(channel):
        pooled = kept[f"pooled{layer}"]
        x = pooled * (jnp.arange(pooled.shape[-1]) == channel)
        for number in range(layer, 0, -1):
            x = unpool(x, kept[f"switches{number}"], POOL, kept[f"maps{number}"].shape[1:3])
            kernel = variables["params"][f"conv{number}"]["kernel"]
            back = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
            x = jax.lax.conv_general_dilated(
                jax.nn.relu(x), back, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=jax.lax.Precision.HIGHEST,
            )  # fmt: skip
        return x[0]

    return jax.lax.map(one, channels)
