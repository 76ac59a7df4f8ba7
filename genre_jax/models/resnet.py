"""ResNets (He et al. 2016) in torchvision's layout, with the thesis's one-to-three-channel stem (document 000)."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from genre_jax.models.layers import BatchNorm, Conv, Dense, ImageStem, he_fan_out, torch_init
from genre_jax.models.network import Network
from genre_jax.models.pooling import max_pool


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut. A 1×1 convolution projects the shortcut if the shape changes.

    Attributes:
      features: channels of the convolutions.
      stride: of the first convolution.
      conv, norm: the network's convolution layer and batch norm.
    """

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[[jax.Array, str], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.features, (3, 3), self.stride, padding=1, name="conv1")(x)
        y = nn.relu(self.norm(y, "bn1"))
        y = self.conv(self.features, (3, 3), padding=1, name="conv2")(y)
        y = self.norm(y, "bn2")
        return _join(self, x, y)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions, the last one to four times the channels, and a shortcut. The 3×3 has the stride."""

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[[jax.Array, str], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm(self.conv(self.features, (1, 1), name="conv1")(x), "bn1"))
        y = self.conv(self.features, (3, 3), self.stride, padding=1, name="conv2")(y)
        y = nn.relu(self.norm(y, "bn2"))
        y = self.norm(self.conv(4 * self.features, (1, 1), name="conv3")(y), "bn3")
        return _join(self, x, y)


def _join(block: BasicBlock | Bottleneck, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns a block's output from its input and the output of its branch."""
    if x.shape != y.shape:
        x = block.norm(block.conv(y.shape[-1], (1, 1), block.stride, name="downsample_conv")(x), "downsample_bn")
    return nn.relu(x + y)


class ResNet(Network):
    """A ResNet over images `(batch, bins, frames, 1)`.

    With 67 classes ResNet34 has 21,319,043 and ResNet101 42,637,443 trainable parameters, as torchvision's, beside the 6 of
    the frozen stem.

    Attributes:
      stages: blocks of each stage.
      width: channels of the first stage (64 in the paper); each later stage doubles them.
      instance_norm: whether the stem normalises the image. In the thesis's code ResNet34 does and ResNet101 does not.
      train_stem: whether the stem is trained.
      block: `BasicBlock` or `Bottleneck`.
    """

    stages: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    instance_norm: bool = True
    train_stem: bool = False
    block: type[BasicBlock] | type[Bottleneck] = BasicBlock

    input_shape = (224, 224, 1)

    def forward(self, x, call):
        conv: Any = functools.partial(Conv, use_bias=False, kernel_init=he_fan_out, **self.types)

        def norm(x, name):
            return BatchNorm(axis_name=self.axis_name, param_dtype=self.param_dtype, name=name)(
                x, train=call.train, mask=call.mask
            )

        x = ImageStem(False, self.train_stem, self.instance_norm, name="stem", **self.types)(x)
        x = conv(self.width, (7, 7), 2, padding=3, name="conv1")(x)
        x = max_pool(nn.relu(norm(x, "bn1")), (3, 3), (2, 2), padding=1)
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = self.block(self.width * 2**stage, stride, conv, norm, name=f"layer{stage + 1}_{block}")(x)
        features = x.mean((1, 2))
        fc = Dense(self.num_classes, name="fc", **torch_init(features.shape[-1]), **self.types)
        return fc(features), {"features": x, "embedding": features}
