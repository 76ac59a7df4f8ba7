"""The shallow and the deep network of Schindler, Lidy & Rauber 2016: a frequency and a temporal pipeline side by side.

The paper is known here through document 004 (Wyborn, Butt & Klas), its code, and sibling re-implementations. Where they
disagree: the deep temporal pipeline starts with 21 × 10 (document 004's code and four others; 21 × 20 in two), dropout comes
after the 200-unit layer (the paper's text; its figure has it on the merge), LeakyReLU 0.3 (document 004's code: ReLU).
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import console
from genre_jax.models.layers import Conv, Dense, Dropout
from genre_jax.models.pooling import max_pool

ACTIVATIONS = {"leaky_relu": lambda x: nn.leaky_relu(x, 0.3), "relu": nn.relu}
DROPOUT_AT = ("hidden", "merge")

Size = tuple[int, int]  # mel bands × frames


class Layer(NamedTuple):
    """A convolution's kernels in the two pipelines, and the frequency one's pooling, whose transpose is the temporal one's."""

    frequency: Size
    temporal: Size
    pool: Size


class Schindler(nn.Module):
    """What both networks share: convolution, activation, pooling in two pipelines; merge, 200 units, classifier.

    Weights start as Xavier et al. have them, uniform, biases at 0.

    Attributes:
      width: filters of the first layer of each pipeline, doubled by each later one.
      hidden: units of the layer between merge and classifier.
      activation: leaky_relu (slope 0.3) or relu.
      hidden_activation: whether the hidden layer has it too (the shallow network's has none in document 004's code).
      use_bias: whether the convolutions have biases (document 004's code: none).
      dropout: rate, and `dropout_at` its place: "hidden", after that layer, or "merge", before it.
    """

    num_classes: int
    width: int = 16
    hidden: int = 200
    activation: str = "leaky_relu"
    hidden_activation: bool = True
    use_bias: bool = True
    dropout: float = 0.1
    dropout_at: str = "hidden"
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    input_shape = (80, 80, 1)

    def __post_init__(self):
        for key, legal in {"activation": ACTIVATIONS, "dropout_at": DROPOUT_AT}.items():
            if getattr(self, key) not in legal:
                raise console.unknown(f"model.{key}", getattr(self, key), legal)
        super().__post_init__()

    def layers(self) -> tuple[Layer, ...]:
        """The layers of the two pipelines."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits `(batch, num_classes)` of images `(batch, bins, frames, 1)`; `keys` (batch,) for dropout."""
        del train, mask  # no batch statistics
        types = {"kernel_init": nn.initializers.glorot_uniform(), "dtype": self.dtype, "param_dtype": self.param_dtype}
        activate = ACTIVATIONS[self.activation]
        frequency = temporal = x
        for number, layer in enumerate(self.layers()):
            filters = self.width * 2**number

            def conv(kernel, name, number=number, filters=filters):
                return Conv(filters, kernel, use_bias=self.use_bias, name=f"{name}{number + 1}", **types)

            frequency = max_pool(activate(conv(layer.frequency, "frequency")(frequency)), layer.pool)
            temporal = max_pool(activate(conv(layer.temporal, "temporal")(temporal)), layer.pool[::-1])
        merged = jnp.concatenate([frequency.reshape(len(x), -1), temporal.reshape(len(x), -1)], -1)
        drop = Dropout(self.dropout)
        if self.dropout_at == "merge":
            merged = drop(merged, keys)
        embedding = hidden = Dense(self.hidden, name="hidden", **types)(merged)
        if self.hidden_activation:
            embedding = hidden = activate(hidden)
        if self.dropout_at == "hidden":
            hidden = drop(hidden, keys)
        logits = Dense(self.num_classes, name="fc", **types)(hidden)
        return logits, {"frequency": frequency, "temporal": temporal, "embedding": embedding}


class SchindlerShallow(Schindler):
    """One layer a pipeline: 2,060,642 parameters with 80 × 80 inputs and 10 classes, 2,060,610 without biases."""

    def layers(self):
        return (Layer((10, 23), (21, 20), (1, 20)),)


class SchindlerDeep(Schindler):
    """Four layers a pipeline: 1,280,002 parameters with 80 × 80 inputs and 10 classes, 1,279,522 without biases.

    Attributes:
      first_frames: frames of the first temporal kernel, 21 × 10; 20 is the reading of two sibling re-implementations.
    """

    dropout: float = 0.25
    first_frames: int = 10

    def layers(self):
        return (
            Layer((10, 23), (21, self.first_frames), (2, 2)),
            Layer((5, 11), (10, 5), (2, 2)),
            Layer((3, 5), (5, 3), (2, 2)),
            Layer((2, 4), (4, 2), (1, 5)),
        )
