"""The three Keras networks of Burrows, Jackson & Zamora on FMA small (document 002), to their parameter counts.

The document gives the counts and some sizes; kernels, pooling, the order of axes of the 1-D network and the 2-D network's
dense layer are what the counts leave (8 classes: `burrows_mlp` 88,584, `burrows_conv1d` 255,656, `burrows_conv2d` 2,796,648).
ReLU in the convolutions, and no dropout after that dense layer, are choices. Initialisation and batch norm are Keras's.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.layers import BatchNorm, Conv, Dense, Dropout
from genre_jax.models.pooling import max_pool

glorot = nn.initializers.glorot_uniform()


class ConvBlock(nn.Module):
    """Convolution without padding, ReLU, max pooling by 2, Keras's batch norm, dropout; over `(batch, rows, columns, in)`."""

    filters: int
    kernel: tuple[int, int]
    pool: tuple[int, int]
    dropout: float
    axis_name: str | None
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None, keys: jax.Array | None) -> jax.Array:
        conv = Conv(
            self.filters, self.kernel, padding="VALID", kernel_init=glorot, dtype=self.dtype,
            param_dtype=self.param_dtype, name="conv",
        )  # fmt: skip
        x = max_pool(nn.relu(conv(x)), self.pool)
        norm = BatchNorm(
            momentum=0.01, epsilon=1e-3, unbiased=False, axis_name=self.axis_name, param_dtype=self.param_dtype, name="bn"
        )
        return Dropout(self.dropout)(norm(x, train=train, mask=mask), keys)


class BurrowsMlp(nn.Module):
    """Time means of 80 MFCCs `(batch, 80)`: two ReLU layers with dropout, classifier. 88,584 parameters."""

    num_classes: int
    hidden: tuple[int, ...] = (256, 256)
    dropout: float = 0.5
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    input_shape = (80,)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits `(batch, num_classes)` of features `(batch, bins)`; `keys` (batch,) for dropout."""
        del train, mask  # no batch statistics
        types = {"kernel_init": glorot, "dtype": self.dtype, "param_dtype": self.param_dtype}
        for number, units in enumerate(self.hidden):
            embedding = nn.relu(Dense(units, name=f"dense{number + 1}", **types)(x))
            x = Dropout(self.dropout)(embedding, keys)
        return Dense(self.num_classes, name="fc", **types)(x), {"embedding": embedding}


class BurrowsConv(nn.Module):
    """What the two convolutional networks share: blocks of a `kernel`² or `kernel` × 1 convolution, dense layers, classifier.

    Attributes:
      filters: of the blocks.
      hidden: units of the dense ReLU layer before the classifier, 0: none.
      dropout: rate after each block.
    """

    num_classes: int
    filters: tuple[int, ...] = (32, 64)
    kernel: int = 3
    hidden: int = 0
    dropout: float = 0.15
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def image(self, x: jax.Array) -> jax.Array:
        """The input as what the blocks convolve, `(batch, rows, columns, channels)`."""
        return x

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits `(batch, num_classes)`; `mask` (batch,) leaves examples out of batch statistics, `keys` for dropout."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = self.image(x)
        flat = x.shape[2] == 1  # one column: convolved and pooled along the rows alone
        kernel, pool = ((self.kernel, 1), (2, 1)) if flat else ((self.kernel, self.kernel), (2, 2))
        for number, filters in enumerate(self.filters):
            block = ConvBlock(filters, kernel, pool, self.dropout, self.axis_name, name=f"block{number + 1}", **types)
            x = block(x, train=train, mask=mask, keys=keys)
        embedding = x.reshape(len(x), -1)
        if self.hidden:
            embedding = nn.relu(Dense(self.hidden, kernel_init=glorot, name="hidden", **types)(embedding))
        logits = Dense(self.num_classes, kernel_init=glorot, name="fc", **types)(embedding)
        return logits, {"embedding": embedding}


class BurrowsConv1d(BurrowsConv):
    """80 MFCCs of 2,500 frames `(batch, frames, 80)`; it slides over the coefficients, the frames are its channels."""

    input_shape = (2500, 80)

    def image(self, x):
        return jnp.swapaxes(x, 1, 2)[:, :, None]


class BurrowsConv2d(BurrowsConv):
    """Mel spectrograms `(batch, 96, 1366, 1)`: four blocks and the dense layer that holds 97 % of the parameters."""

    filters: tuple[int, ...] = (32, 64, 64, 32)
    hidden: int = 256

    input_shape = (96, 1366, 1)
