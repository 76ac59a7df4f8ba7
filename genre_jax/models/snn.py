"""The self-normalising network that SwishNet's paper compares with (arXiv 1812.00149; Klambauer et al. 2017)."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.layers import Dense, layer_keys
from genre_jax.models.network import Network
from genre_jax.models.pooling import FRAME_VOTES, frame_vote

SELU_SCALE = 1.0507009873554805
SATURATION = -SELU_SCALE * 1.6732632423543772  # SELU of numbers far below 0

# Weights of variance 1 / fan in, with which SELU keeps mean 0 and variance 1.
lecun_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class AlphaDropout(nn.Module):
    """Dropout to SELU's saturation value, then an affine map. Inputs of mean 0 and variance 1 keep both.

    The mask of an example depends on the example's own key alone.

    Attributes:
      rate: share of the numbers that are dropped, 0 to 1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Drop numbers of `x` (batch, …) by `keys` (batch,). Without keys (evaluation) this is the identity."""
        if keys is None or self.rate == 0:
            return x
        kept = 1 - self.rate
        scale = (kept + SATURATION**2 * kept * self.rate) ** -0.5

        def mask(key):
            return jax.random.bernoulli(key, kept, x.shape[1:])

        dropped = jnp.where(jax.vmap(mask)(layer_keys(keys, self.path)), x, SATURATION)
        return scale * (dropped - SATURATION * self.rate)


class Snn(Network):
    """Three SELU layers and a classifier over each frame of 60 features (20 MFCCs, delta, delta-delta).

    With 60 features and 3 classes the network has 179,203 parameters, the paper's count. No other sizes in powers of two give
    this count. In training the logits of a clip are the mean over its frames; therefore a loss on clips trains every frame. In
    evaluation each frame votes for its best class, as in the paper.

    Attributes:
      hidden: units of the layers.
      dropout: rate of the alpha dropout after each of them, 0 to 1. The paper does not state the rate.
      vote: how the frames of a clip decide in evaluation, as in `frame_vote`.
    """

    hidden: tuple[int, ...] = (512, 256, 64)
    dropout: float = 0.1
    vote: str = "majority"

    choices = (("vote", FRAME_VOTES),)
    input_shape = (200, 60)
    left_context: ClassVar[int] = 0  # each frame is classified by itself

    def forward(self, x, call):
        """Over `x` (batch, frames, bins); "frame_logits" are (batch, frames, num_classes)."""
        for number, units in enumerate(self.hidden):
            layer = Dense(units, kernel_init=lecun_normal, name=f"dense{number + 1}", **self.types)
            x = AlphaDropout(self.dropout)(nn.selu(layer(x)), call.keys)
        logits = Dense(self.num_classes, kernel_init=lecun_normal, name="fc", **self.types)(x)
        clip_logits = frame_vote(logits, "mean" if call.train else self.vote)
        return clip_logits, {"embedding": x.mean(1), "frame_logits": logits}
