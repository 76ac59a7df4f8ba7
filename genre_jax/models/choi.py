"""The five-layer convolutional network of Choi, Fazekas & Sandler's auralisation (arXiv 1607.02444; document 003)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.layers import Conv, Dense, Dropout
from genre_jax.models.pooling import max_pool, switches

POOL = (2, 2)


class ChoiCnn(nn.Module):
    """Five times 3 × 3 convolution of 64 maps, ReLU, max pooling by 2, dropout; a dense layer with dropout, classifier.

    Over 257 × 173 magnitudes the maps shrink to 128 × 86, 64 × 43, 32 × 21, 16 × 10, 8 × 5. The trunk has 148,352 parameters;
    the width of the first of the "two fully connected layers" is not stated: `hidden` is a choice, and so is Keras's
    initialisation.

    Attributes:
      use_bias: False leaves the convolutions' biases out, which is the forward pass that the deconvolution inverts; variables
        of a network with biases serve, their biases are not read.
    """

    num_classes: int
    layers: int = 5
    maps: int = 64
    hidden: int = 256
    dropout: float = 0.5
    use_bias: bool = True
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    input_shape = (257, 173, 1)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits `(batch, num_classes)` of images `(batch, bins, frames, 1)`; `keys` (batch,) for dropout.

        Of layer n, "maps{n}" are what its ReLU gave, "pooled{n}" and "switches{n}" what pooling kept of it and from where
        (`models/pooling.py`).
        """
        del train, mask  # no batch statistics
        types = {"kernel_init": nn.initializers.glorot_uniform(), "dtype": self.dtype, "param_dtype": self.param_dtype}
        kept: dict[str, jax.Array] = {}
        for n in range(1, self.layers + 1):
            maps = nn.relu(Conv(self.maps, (3, 3), use_bias=self.use_bias, name=f"conv{n}", **types)(x))
            pooled = max_pool(maps, POOL)
            kept |= {f"maps{n}": maps, f"pooled{n}": pooled, f"switches{n}": switches(maps, POOL)}
            x = Dropout(self.dropout)(pooled, keys)
        embedding = nn.relu(Dense(self.hidden, name="hidden", **types)(x.reshape(len(x), -1)))
        logits = Dense(self.num_classes, name="fc", **types)(Dropout(self.dropout)(embedding, keys))
        return logits, kept | {"embedding": embedding}
