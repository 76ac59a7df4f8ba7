"""The three Keras networks of Burrows, Jackson & Zamora on FMA small (document 002), with their parameter counts.

The document gives the counts and some sizes. Kernels, pooling, the order of axes of the 1-D network and the dense layer of
the 2-D network follow from the counts (8 classes: `burrows_mlp` 88,584, `burrows_conv1d` 255,656, `burrows_conv2d`
2,796,648). ReLU in the convolutions, and no dropout after that dense layer, are choices. Initialisation and batch norm are
Keras's.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import parallel
from genre_jax.models.layers import BatchNorm, Conv, Dense, Dropout, glorot
from genre_jax.models.network import Call, Network
from genre_jax.models.pooling import max_pool


class ConvBlock(nn.Module):
    """Convolution without padding, ReLU, max pooling, Keras's batch norm, dropout; over `(batch, rows, columns, in)`.

    Attributes:
      filters, kernel: channels and size of the convolution.
      pool: window of the pooling.
      dropout: rate, 0 to 1.
      axis_name, dtype, param_dtype: as in `Network`.
    """

    filters: int
    kernel: tuple[int, int]
    pool: tuple[int, int]
    dropout: float
    axis_name: parallel.Axis
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, call: Call) -> jax.Array:
        conv = Conv(
            self.filters, self.kernel, padding="VALID", kernel_init=glorot, dtype=self.dtype, param_dtype=self.param_dtype,
            name="conv",
        )  # fmt: skip
        x = max_pool(nn.relu(conv(x)), self.pool)
        norm = BatchNorm(
            momentum=0.01, epsilon=1e-3, unbiased=False, axis_name=self.axis_name, param_dtype=self.param_dtype, name="bn"
        )
        return Dropout(self.dropout)(norm(x, train=call.train, mask=call.mask), call.keys)


class BurrowsMlp(Network):
    """Two ReLU layers with dropout and the classifier over time means of 80 MFCCs `(batch, 80)`. 88,584 parameters.

    Attributes:
      hidden: units of the layers.
      dropout: rate after each layer, 0 to 1.
    """

    hidden: tuple[int, ...] = (256, 256)
    dropout: float = 0.5

    input_shape = (80,)

    def forward(self, x, call):
        for number, units in enumerate(self.hidden):
            layer = Dense(units, kernel_init=glorot, name=f"dense{number + 1}", **self.types)
            embedding = nn.relu(layer(x))
            x = Dropout(self.dropout)(embedding, call.keys)
        fc = Dense(self.num_classes, kernel_init=glorot, name="fc", **self.types)
        return fc(x), {"embedding": embedding}


class BurrowsConv(Network):
    """Base of the two convolutional networks: blocks, dense layers, classifier.

    Attributes:
      filters: channels of the blocks.
      kernel: side of the square kernels; images of a single column have `kernel` × 1 kernels.
      hidden: units of the dense ReLU layer before the classifier; 0: no such layer.
      dropout: rate after each block, 0 to 1.
    """

    filters: tuple[int, ...] = (32, 64)
    kernel: int = 3
    hidden: int = 0
    dropout: float = 0.15

    def image(self, x: jax.Array) -> jax.Array:
        """Returns the input of the blocks, `(batch, rows, columns, channels)`."""
        return x

    def forward(self, x, call):
        x = self.image(x)
        flat = x.shape[2] == 1  # a single column is convolved and pooled along the rows alone
        kernel, pool = ((self.kernel, 1), (2, 1)) if flat else ((self.kernel, self.kernel), (2, 2))
        for number, filters in enumerate(self.filters):
            name = f"block{number + 1}"
            x = ConvBlock(filters, kernel, pool, self.dropout, self.axis_name, name=name, **self.types)(x, call)
        embedding = x.reshape(x.shape[0], -1)
        if self.hidden:
            embedding = nn.relu(Dense(self.hidden, kernel_init=glorot, name="hidden", **self.types)(embedding))
        logits = Dense(self.num_classes, kernel_init=glorot, name="fc", **self.types)(embedding)
        return logits, {"embedding": embedding}


class BurrowsConv1d(BurrowsConv):
    """Convolves 80 MFCCs of 2,500 frames `(batch, frames, 80)` along the coefficients; the frames are its channels."""

    input_shape = (2500, 80)

    def image(self, x):
        return jnp.swapaxes(x, 1, 2)[:, :, None]


class BurrowsConv2d(BurrowsConv):
    """Convolves mel spectrograms `(batch, 96, 1366, 1)`. Its dense layer holds 97 % of the parameters."""

    filters: tuple[int, ...] = (32, 64, 64, 32)
    hidden: int = 256

    input_shape = (96, 1366, 1)
