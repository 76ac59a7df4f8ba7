"""The five-layer convolutional network of Choi, Fazekas & Sandler's auralisation (arXiv 1607.02444; document 003)."""

import flax.linen as nn
import jax

from genre_jax.models.layers import Conv, Dense, Dropout, glorot
from genre_jax.models.network import Network
from genre_jax.models.pooling import max_pool, switches

POOL = (2, 2)


class ChoiCnn(Network):
    """Layers of a 3 × 3 convolution, ReLU, max pooling by 2 and dropout; a dense layer with dropout, the classifier.

    Images of 257 × 173 magnitudes shrink to 128 × 86, 64 × 43, 32 × 21, 16 × 10, 8 × 5. The five layers have 148,352
    parameters. The source does not state the width of the first of its "two fully connected layers", nor the initialisation:
    `hidden` and Keras's initialisation are choices.

    Attributes:
      layers: convolutional layers.
      maps: channels of each layer.
      hidden: units of the dense layer.
      dropout: rate after each layer, 0 to 1.
      use_bias: False leaves out the biases of the convolutions, for the forward pass that the deconvolution inverts. Variables
        of a network with biases are legal; their biases are not read.
    """

    layers: int = 5
    maps: int = 64
    hidden: int = 256
    dropout: float = 0.5
    use_bias: bool = True

    input_shape = (257, 173, 1)

    def forward(self, x, call):
        """Over images `(batch, bins, frames, 1)`.

        "maps{n}" are the ReLU's outputs of layer n, "pooled{n}" their maxima, and "switches{n}" the places of the maxima
        (`pooling.switches`).
        """
        kept: dict[str, jax.Array] = {}
        for n in range(1, self.layers + 1):
            conv = Conv(self.maps, (3, 3), use_bias=self.use_bias, kernel_init=glorot, name=f"conv{n}", **self.types)
            maps = nn.relu(conv(x))
            pooled = max_pool(maps, POOL)
            kept |= {f"maps{n}": maps, f"pooled{n}": pooled, f"switches{n}": switches(maps, POOL)}
            x = Dropout(self.dropout)(pooled, call.keys)
        embedding = nn.relu(Dense(self.hidden, kernel_init=glorot, name="hidden", **self.types)(x.reshape(x.shape[0], -1)))
        fc = Dense(self.num_classes, kernel_init=glorot, name="fc", **self.types)
        return fc(Dropout(self.dropout)(embedding, call.keys)), kept | {"embedding": embedding}
