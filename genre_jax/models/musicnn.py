"""The taggers of the package musicnn (Pons & Serra 2019, arXiv 1909.06654): musically motivated filters, and a VGG.

Both read patches of 187 frames × 96 mels of the front end `musicnn_log_mel`, about 3 s, in which time is the first axis, as in
the package. Batch norms follow the ReLUs. `genre_jax.load("musicnn")` has the published weights (`weights/musicnn.py`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.layers import BatchNorm, Conv, Dense, Dropout, glorot
from genre_jax.models.network import Call, Network
from genre_jax.models.pooling import max_pool

TIMBRAL_BANDS = (0.4, 0.7)  # heights of the timbral filters, as shares of all mel bands
TIMBRAL_FRAMES = 7
TEMPORAL_FRAMES = (128, 64, 32)
HEADS = ("hidden", "pools")


class _Tagger(Network):
    """What both networks share: their norms, and convolution with ReLU and norm."""

    input_shape = (187, 96)

    def norm(self, x: jax.Array, call: Call, name: str) -> jax.Array:
        """TensorFlow's batch norm, with its defaults."""
        norm = BatchNorm(0.01, 1e-3, unbiased=False, axis_name=self.axis_name, param_dtype=self.param_dtype, name=name)
        return norm(x, train=call.train, mask=call.mask)

    def convolved(self, x: jax.Array, maps: int, kernel: tuple[int, ...], padding: str, call: Call, name: str) -> jax.Array:
        """Convolution, ReLU and norm over (batch, …, channels)."""
        conv = Conv(maps, kernel, padding=padding, kernel_init=glorot, name=name, **self.types)
        return self.norm(nn.relu(conv(x)), call, f"{name}_bn")


class Musicnn(_Tagger):
    """Timbral and temporal filters, three dense-connected layers along time, pooling, a dense layer: 787,159 parameters.

    The count includes no running statistics and is for 50 tags. Any number of frames is legal.

    Attributes:
      timbral: maps of each of the two sizes of timbral filters.
      temporal: maps of each of the three sizes of temporal filters.
      middle: maps of the layers along time.
      hidden: units of the dense layer.
      dropout: rate before and after the dense layer, 0 to 1.
      head: what the classifier reads: "hidden", the dense layer, as published; or "pools", the normalised pools, without the
        dense layer. Pools carry over to other music better (docs/weights.md).
    """

    timbral: int = 204
    temporal: int = 51
    middle: int = 64
    hidden: int = 200
    dropout: float = 0.5
    head: str = "hidden"

    choices = (("head", HEADS),)
    replaceable = ("hidden", "hidden_bn")

    def forward(self, x, call):
        """Over log-mels `(batch, frames, mels)`.

        "timbral" (batch, frames, 2 · timbral) and "temporal" (batch, frames, 3 · temporal) are the filters' largest outputs
        over the mel bands, "cnn1" to "cnn3" (batch, frames, middle) the layers along time, "max_pool" and "mean_pool" (batch,
        features) the pools over time, and "embedding" is what the classifier reads (the package's "penultimate").
        """
        x = self.norm(x[..., None].astype(self.dtype), call, "input_bn")
        padded = jnp.pad(x, ((0, 0), (TIMBRAL_FRAMES // 2,) * 2, (0, 0), (0, 0)))
        timbral, temporal = [], []
        for n, share in enumerate(TIMBRAL_BANDS, 1):
            kernel = (TIMBRAL_FRAMES, int(share * x.shape[2]))
            timbral.append(self.convolved(padded, self.timbral, kernel, "VALID", call, f"timbral{n}").max(2))
        for n, frames in enumerate(TEMPORAL_FRAMES, 1):
            temporal.append(self.convolved(x, self.temporal, (frames, 1), "SAME", call, f"temporal{n}").max(2))
        layers = [jnp.concatenate(timbral + temporal, -1)]
        for n in range(1, 4):
            y = self.convolved(layers[-1], self.middle, (TIMBRAL_FRAMES,), "SAME", call, f"middle{n}")
            layers.append(y + layers[-1] if n > 1 else y)
        stacked = jnp.concatenate(layers, -1)
        largest, mean = stacked.max(1), stacked.mean(1)
        # The two pools of each feature are neighbours, as in the package.
        embedding = self.norm(jnp.stack([largest, mean], -1).reshape(x.shape[0], -1), call, "pools_bn")
        if self.head == "hidden":
            hidden = Dense(self.hidden, kernel_init=glorot, name="hidden", **self.types)
            embedding = self.norm(nn.relu(hidden(Dropout(self.dropout)(embedding, call.keys))), call, "hidden_bn")
        fc = Dense(self.num_classes, kernel_init=glorot, name="fc", **self.types)
        logits = fc(Dropout(self.dropout)(embedding, call.keys))
        kept = {"timbral": jnp.concatenate(timbral, -1), "temporal": jnp.concatenate(temporal, -1)}
        kept |= {f"cnn{n}": layer for n, layer in enumerate(layers[1:], 1)}
        return logits, kept | {"max_pool": largest, "mean_pool": mean, "embedding": embedding}


class MusicnnVgg(_Tagger):
    """Five layers of 3 × 3 convolution, ReLU, norm and pooling: 605,748 parameters for 50 tags and 187 frames.

    Attributes:
      maps: of each layer.
      dropout: rate between the layers, 0 to 1.
      dropout_last: rate before the classifier, 0 to 1.
    """

    maps: int = 128
    dropout: float = 0.25
    dropout_last: float = 0.5

    def forward(self, x, call):
        """Over log-mels `(batch, frames, mels)`; "pool{n}" is layer n after its pooling, "embedding" the last layer, flat."""
        x = self.norm(x[..., None].astype(self.dtype), call, "input_bn")
        kept: dict[str, jax.Array] = {}
        for n, (window, strides) in enumerate([((4, 1), (2, 2)), *[((2, 2), (2, 2))] * 3, ((4, 4), (4, 4))], 1):
            x = max_pool(self.convolved(x, self.maps, (3, 3), "SAME", call, f"conv{n}"), window, strides)
            kept[f"pool{n}"] = x
            if n < 5:
                x = Dropout(self.dropout)(x, call.keys)
        embedding = x.reshape(x.shape[0], -1)
        fc = Dense(self.num_classes, kernel_init=glorot, name="fc", **self.types)
        return fc(Dropout(self.dropout_last)(embedding, call.keys)), kept | {"embedding": embedding}
