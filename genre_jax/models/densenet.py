"""DenseNets (Huang et al. 2017) in torchvision's layout: Folmer & Lung's second network (document 001)."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.console import UserError
from genre_jax.models.layers import BatchNorm, Conv, Dense, Dropout, ImageStem, he_fan_in, torch_kernel
from genre_jax.models.network import Network
from genre_jax.models.pooling import max_pool


class DenseLayer(nn.Module):
    """The channels that a layer adds: 1×1 convolution to `bn_size` · `growth_rate` channels, 3×3 to `growth_rate`.

    Attributes:
      growth_rate, bn_size, dropout: as in `DenseNet`.
      conv, norm: the network's convolution layer and batch norm.
    """

    growth_rate: int
    bn_size: int
    dropout: float
    conv: Callable[..., nn.Module]
    norm: Callable[[jax.Array, str], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        y = nn.relu(self.norm(x, "norm1"))
        y = self.conv(self.bn_size * self.growth_rate, (1, 1), name="conv1")(y)
        y = nn.relu(self.norm(y, "norm2"))
        y = self.conv(self.growth_rate, (3, 3), padding=1, name="conv2")(y)
        return Dropout(self.dropout, name="dropout")(y, keys)


class DenseNet(Network):
    """A DenseNet-BC over images `(batch, bins, frames, 1)` of at least 29 × 29 pixels with the four blocks of the paper.

    With 10 classes DenseNet-121 has 6,964,106 trainable parameters, as torchvision's, beside the 6 of the frozen stem.
    Document 001 does not state how its spectrograms became images of three channels: normalised copies are a choice.

    Attributes:
      stages: layers of each dense block. Between blocks channels are halved and images pooled 2 × 2.
      width: channels before the first block.
      growth_rate: channels that each layer adds.
      bn_size: inner channels of a layer as a multiple of `growth_rate`.
      dropout: rate after each layer, 0 to 1 (torchvision's `drop_rate`).
      remat: whether the backward pass computes each layer again. Memory is then linear in the layers of a block, otherwise
        quadratic. No number changes.
      instance_norm: whether the stem normalises the image.
      train_stem: whether the stem is trained.
    """

    stages: tuple[int, ...] = (6, 12, 24, 16)
    width: int = 64
    growth_rate: int = 32
    bn_size: int = 4
    dropout: float = 0.0
    remat: bool = False
    instance_norm: bool = True
    train_stem: bool = False

    input_shape = (224, 224, 1)

    def forward(self, x, call):
        conv: Any = functools.partial(Conv, use_bias=False, kernel_init=he_fan_in, **self.types)
        layer = nn.remat(DenseLayer) if self.remat else DenseLayer
        least = 2 ** (len(self.stages) + 1) - 3  # ceil(size / 4) must be halved between the blocks
        if min(x.shape[1:3]) < least:
            raise UserError(
                f"a DenseNet reads images of at least {least} × {least} pixels, and was given {x.shape[1]} × {x.shape[2]}"
            )

        def norm(x, name):
            return BatchNorm(axis_name=self.axis_name, param_dtype=self.param_dtype, name=name)(
                x, train=call.train, mask=call.mask
            )

        x = ImageStem(True, self.train_stem, self.instance_norm, name="stem", **self.types)(x)
        x = conv(self.width, (7, 7), 2, padding=3, name="conv0")(x)
        x = max_pool(nn.relu(norm(x, "norm0")), (3, 3), (2, 2), padding=1)
        for stage, layers in enumerate(self.stages, 1):
            if stage > 1:
                x = nn.avg_pool(x, (2, 2), (2, 2))  # before the 1×1 convolution, which has a quarter of the work then
                x = conv(x.shape[-1] // 2, (1, 1), name=f"transition{stage - 1}_conv")(x)
            for number in range(1, layers + 1):
                add = layer(
                    self.growth_rate, self.bn_size, self.dropout, conv, norm, name=f"denseblock{stage}_denselayer{number}"
                )
                # The barrier keeps XLA from fusing the concatenations of a block, which would take longer to compile.
                x = jax.lax.optimization_barrier(jnp.concatenate([x, add(x, call.keys)], -1))
            x = nn.relu(norm(x, f"transition{stage}_norm" if stage < len(self.stages) else "norm5"))
        embedding = x.mean((1, 2))
        fc = Dense(self.num_classes, kernel_init=torch_kernel, name="fc", **self.types)
        return fc(embedding), {"features": x, "embedding": embedding}
