"""The small networks of Folmer & Lung on GTZAN (document 001), and the network that they propose as future work.

The document states: two convolutions and two dense layers, ReLU after each, batch norm before pooling, dropout 0.2. Its MLP
came first. Future work are dense blocks (Huang et al. 2017) in the small network. The document states no size: filters,
kernels, units, the place of the dropout (after the first dense layer) and PyTorch's initialisation are choices.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import parallel
from genre_jax.models.layers import BatchNorm, Conv, Dense, Dropout, torch_init
from genre_jax.models.network import Call, Network
from genre_jax.models.pooling import max_pool

HEADS = ("fixed", "pooled")


class Stage(nn.Module):
    """3 × 3 convolution to `filters` channels, ReLU, batch norm. The other arguments are those of `Network`."""

    filters: int
    axis_name: parallel.Axis
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, call: Call) -> jax.Array:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.relu(Conv(self.filters, (3, 3), name="conv", **torch_init(9 * x.shape[-1]), **types)(x))
        norm = BatchNorm(axis_name=self.axis_name, param_dtype=self.param_dtype, name="bn")
        return norm(x, train=call.train, mask=call.mask)


class Classifier(nn.Module):
    """Dense ReLU layers of `hidden` units with `dropout` after each, and the classifier."""

    num_classes: int
    hidden: tuple[int, ...]
    dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Returns the logits of `x` (batch, features), and the output of the last hidden layer."""

        def dense(units, x, name):
            types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            return Dense(units, name=name, **torch_init(x.shape[-1]), **types)(x)

        embedding = x
        for number, units in enumerate(self.hidden):
            embedding = nn.relu(dense(units, x, f"dense{number + 1}"))
            x = Dropout(self.dropout)(embedding, keys)
        return dense(self.num_classes, x, "fc"), embedding


class FolmerCnn(Network):
    """Stages of convolutions over images `(batch, rows, columns, 1)`, a dense layer, the classifier.

    Max pooling halves the image after each stage.

    Attributes:
      filters: channels of the convolutions of each stage.
      dense_layers: 0: a stage is a single convolution. n > 0: a stage is a dense block of n convolutions, each of which reads
        the input of the stage and the outputs of the convolutions before it.
      head: "fixed": the dense layer reads the whole last image. "pooled": it reads the mean of each channel.
      hidden: units of the dense layer.
      dropout: rate after the dense layer, 0 to 1.
    """

    filters: tuple[int, ...] = (16, 32)
    dense_layers: int = 0
    head: str = "fixed"
    hidden: int = 128
    dropout: float = 0.2

    choices = (("head", HEADS),)
    input_shape = (224, 224, 1)

    def forward(self, x, call):
        """The output of the last stage is "features"."""
        for number, filters in enumerate(self.filters):
            for layer in range(max(1, self.dense_layers)):
                y = Stage(filters, self.axis_name, name=f"stage{number + 1}_{layer}", **self.types)(x, call)
                x = jnp.concatenate([x.astype(y.dtype), y], -1) if self.dense_layers else y
            x = max_pool(x, (2, 2))
        features = x.mean((1, 2)) if self.head == "pooled" else x.reshape(x.shape[0], -1)
        classifier = Classifier(self.num_classes, (self.hidden,), self.dropout, name="classifier", **self.types)
        logits, embedding = classifier(features, call.keys)
        return logits, {"features": x, "embedding": embedding}


class FolmerMlp(Network):
    """Dense ReLU layers with dropout and the classifier over all numbers of an example of any shape.

    Attributes:
      hidden: units of the layers.
      dropout: rate after each layer, 0 to 1.
    """

    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.2

    input_shape = (224, 224, 1)

    def forward(self, x, call):
        classifier = Classifier(self.num_classes, self.hidden, self.dropout, name="classifier", **self.types)
        logits, embedding = classifier(x.reshape(x.shape[0], -1), call.keys)
        return logits, {"embedding": embedding}
