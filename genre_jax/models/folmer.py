"""The small networks of Folmer & Lung on GTZAN (document 001), and the one that they wished for.

The document states: two convolutions and two dense layers, ReLU after each, batch norm before pooling, dropout 0.2; of the
MLP, that it came first; of the wish, dense blocks (Huang et al. 2017) in the small network. No size is stated: filters,
kernels, units, the place of the dropout (after the first dense layer) and PyTorch's initialisation are choices.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import console
from genre_jax.models.layers import BatchNorm, Conv, Dense, Dropout, torch_bias, torch_kernel
from genre_jax.models.pooling import max_pool

HEADS = ("fixed", "pooled")


class Stage(nn.Module):
    """3 × 3 convolution, ReLU, batch norm."""

    filters: int
    axis_name: str | None
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        conv = Conv(
            self.filters, (3, 3), kernel_init=torch_kernel, bias_init=torch_bias(9 * x.shape[-1]), dtype=self.dtype,
            param_dtype=self.param_dtype, name="conv",
        )  # fmt: skip
        norm = BatchNorm(axis_name=self.axis_name, param_dtype=self.param_dtype, name="bn")
        return norm(nn.relu(conv(x)), train=train, mask=mask)


class Classifier(nn.Module):
    """Dense ReLU layers with dropout after each, and the classifier: `(batch, features)` → logits, the last layer before."""

    num_classes: int
    hidden: tuple[int, ...]
    dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        def dense(units, x, name):
            return Dense(
                units, kernel_init=torch_kernel, bias_init=torch_bias(x.shape[-1]), dtype=self.dtype,
                param_dtype=self.param_dtype, name=name,
            )(x)  # fmt: skip

        embedding = x
        for number, units in enumerate(self.hidden):
            embedding = nn.relu(dense(units, x, f"dense{number + 1}"))
            x = Dropout(self.dropout)(embedding, keys)
        return dense(self.num_classes, x, "fc"), embedding


class FolmerCnn(nn.Module):
    """Stages of convolutions over images `(batch, rows, columns, 1)`, each halved by max pooling; dense layer, classifier.

    Attributes:
      filters: of the stages' convolutions.
      dense_layers: 0: a stage is one convolution; n: it is a dense block of n convolutions, each of which reads the stage's
        input and all that those before it gave.
      head: what the dense layer reads: "fixed", all of the last stage's image, or "pooled", the mean of each channel.
      hidden: units of the dense layer; `dropout` is the rate after it.
    """

    num_classes: int
    filters: tuple[int, ...] = (16, 32)
    dense_layers: int = 0
    head: str = "fixed"
    hidden: int = 128
    dropout: float = 0.2
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    input_shape = (224, 224, 1)

    def __post_init__(self):
        if self.head not in HEADS:
            raise console.unknown("model.head", self.head, HEADS)
        super().__post_init__()

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
        for number, filters in enumerate(self.filters):
            for layer in range(max(1, self.dense_layers)):
                stage = Stage(filters, self.axis_name, name=f"stage{number + 1}_{layer}", **types)
                y = stage(x, train=train, mask=mask)
                x = jnp.concatenate([x.astype(y.dtype), y], -1) if self.dense_layers else y
            x = max_pool(x, (2, 2))
        features = x.mean((1, 2)) if self.head == "pooled" else x.reshape(len(x), -1)
        logits, embedding = Classifier(self.num_classes, (self.hidden,), self.dropout, name="classifier", **types)(
            features, keys
        )
        return logits, {"features": x, "embedding": embedding}


class FolmerMlp(nn.Module):
    """All of an image's numbers through dense ReLU layers with dropout to the classifier; any input shape."""

    num_classes: int
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.2
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    input_shape = (224, 224, 1)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits `(batch, num_classes)` of images `(batch, rows, columns, 1)`; `keys` (batch,) for dropout."""
        del train, mask  # no batch statistics
        classifier = Classifier(self.num_classes, self.hidden, self.dropout, self.dtype, self.param_dtype, name="classifier")
        logits, embedding = classifier(x.reshape(len(x), -1), keys)
        return logits, {"embedding": embedding}
