"""The shallow and the deep network of Schindler, Lidy & Rauber 2016: a frequency and a temporal pipeline side by side.

This module follows document 004 (Wyborn, Butt & Klas), its code, and re-implementations by others; the paper itself was not
available. They disagree in three points. The deep temporal pipeline starts with 21 × 10 (document 004's code and four
re-implementations; 21 × 20 in two). Dropout comes after the 200-unit layer (the paper's text; its figure has it on the
merge). LeakyReLU has slope 0.3 (document 004's code: ReLU).
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from genre_jax.models.layers import Conv, Dense, Dropout, glorot
from genre_jax.models.network import Network
from genre_jax.models.pooling import max_pool

ACTIVATIONS = {"leaky_relu": lambda x: nn.leaky_relu(x, 0.3), "relu": nn.relu}
DROPOUT_AT = ("hidden", "merge")

Size = tuple[int, int]  # mel bands × frames


class Layer(NamedTuple):
    """The kernels of a layer in the two pipelines.

    Attributes:
      frequency, temporal: sizes of the kernels.
      pool: window of the pooling in the frequency pipeline; the temporal pipeline has its transpose.
    """

    frequency: Size
    temporal: Size
    pool: Size


class Schindler(Network):
    """Base of both networks: two pipelines of convolution, activation and pooling; merge, dense layer, classifier.

    Weights start as Xavier's uniform ones, biases as 0.

    Attributes:
      width: channels of the first layer of each pipeline; each later layer doubles them.
      hidden: units of the layer between merge and classifier.
      activation: leaky_relu (slope 0.3) or relu.
      hidden_activation: whether the hidden layer has the activation (document 004's code: not in the shallow network).
      use_bias: whether the convolutions have biases (document 004's code: no).
      dropout: rate, 0 to 1.
      dropout_at: place of the dropout: "hidden", after the hidden layer, or "merge", before it.
    """

    width: int = 16
    hidden: int = 200
    activation: str = "leaky_relu"
    hidden_activation: bool = True
    use_bias: bool = True
    dropout: float = 0.1
    dropout_at: str = "hidden"

    choices = (("activation", ACTIVATIONS), ("dropout_at", DROPOUT_AT))
    input_shape = (80, 80, 1)

    def layers(self) -> tuple[Layer, ...]:
        """Returns the layers of the two pipelines."""
        raise NotImplementedError

    def forward(self, x, call):
        """Over images `(batch, bins, frames, 1)`; "frequency" and "temporal" are the last images of the pipelines."""
        activate = ACTIVATIONS[self.activation]

        def convolved(x, kernel, name, number):
            conv = Conv(
                self.width * 2**number, kernel, use_bias=self.use_bias, kernel_init=glorot, name=f"{name}{number + 1}",
                **self.types,
            )  # fmt: skip
            return activate(conv(x))

        frequency = temporal = x
        for number, layer in enumerate(self.layers()):
            frequency = max_pool(convolved(frequency, layer.frequency, "frequency", number), layer.pool)
            temporal = max_pool(convolved(temporal, layer.temporal, "temporal", number), layer.pool[::-1])
        merged = jnp.concatenate([frequency.reshape(x.shape[0], -1), temporal.reshape(x.shape[0], -1)], -1)
        drop = Dropout(self.dropout)
        if self.dropout_at == "merge":
            merged = drop(merged, call.keys)
        embedding = hidden = Dense(self.hidden, kernel_init=glorot, name="hidden", **self.types)(merged)
        if self.hidden_activation:
            embedding = hidden = activate(hidden)
        if self.dropout_at == "hidden":
            hidden = drop(hidden, call.keys)
        logits = Dense(self.num_classes, kernel_init=glorot, name="fc", **self.types)(hidden)
        return logits, {"frequency": frequency, "temporal": temporal, "embedding": embedding}


class SchindlerShallow(Schindler):
    """One layer a pipeline: 2,060,642 parameters with 80 × 80 inputs and 10 classes, 2,060,610 without biases."""

    def layers(self):
        return (Layer((10, 23), (21, 20), (1, 20)),)


class SchindlerDeep(Schindler):
    """Four layers a pipeline: 1,280,002 parameters with 80 × 80 inputs and 10 classes, 1,279,522 without biases.

    Attributes:
      first_frames: frames of the first temporal kernel, 21 × 10. Two re-implementations have 20.
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
