"""The self-normalising network that SwishNet's paper compares with (arXiv 1812.00149; Klambauer et al. 2017)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.layers import Dense, layer_keys

SELU_SCALE = 1.0507009873554805
SATURATION = -SELU_SCALE * 1.6732632423543772  # of SELU, far below 0

# Weights of variance 1 / fan in, with which SELU keeps mean 0 and variance 1.
lecun_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class AlphaDropout(nn.Module):
    """Dropout to SELU's saturation value, then an affine map, so that inputs of mean 0 and variance 1 keep both.

    The mask depends on the example's own key alone.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """`x` (batch, …) and `keys` (batch,); without keys (evaluation) the identity."""
        if keys is None or self.rate == 0:
            return x
        kept = 1 - self.rate
        scale = (kept + SATURATION**2 * kept * self.rate) ** -0.5

        def mask(key):
            return jax.random.bernoulli(key, kept, x.shape[1:])

        dropped = jnp.where(jax.vmap(mask)(layer_keys(keys, self.path)), x, SATURATION)
        return scale * (dropped - SATURATION * self.rate)


class Snn(nn.Module):
    """Frame by frame: 60 features (20 MFCCs, delta, delta-delta), three SELU layers, classifier.

    With 60 features and 3 classes 179,203 parameters, the paper's count, which no other sizes in powers of two give. A clip's
    logits are the mean over its frames, so that a loss on clips trains every frame; the paper lets the frames vote, each for
    its best class: "votes" (batch, num_classes), shares that sum to 1.

    Attributes:
      hidden: units of the layers.
      dropout: rate of the alpha dropout after each of them. The paper does not state its rate; this is a choice.
    """

    num_classes: int
    hidden: tuple[int, ...] = (512, 256, 64)
    dropout: float = 0.1
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    input_shape = (200, 60)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits `(batch, num_classes)` of features `(batch, frames, bins)`; `keys` (batch,) for dropout."""
        del train, mask  # no batch statistics
        types = {"kernel_init": lecun_normal, "dtype": self.dtype, "param_dtype": self.param_dtype}
        for number, units in enumerate(self.hidden):
            x = AlphaDropout(self.dropout)(nn.selu(Dense(units, name=f"dense{number + 1}", **types)(x)), keys)
        logits = Dense(self.num_classes, name="fc", **types)(x)
        votes = jax.nn.one_hot(logits.argmax(-1), self.num_classes).mean(1)
        return logits.mean(1), {"embedding": x.mean(1), "frame_logits": logits, "votes": votes}
