"""ResNets (He et al. 2016) in torchvision's layout, with the thesis's one-to-three-channel stem (document 000)."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.layers import BatchNorm, Conv, Dense, ImageStem, he_fan_out, torch_bias, torch_kernel
from genre_jax.models.pooling import max_pool


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, projected where the shape changes."""

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
    """1×1, 3×3 and 1×1 convolutions, the last to four times the channels, and a shortcut; the stride is the 3×3's."""

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


class ResNet(nn.Module):
    """A ResNet over images `(batch, frames, bins, 1)`.

    `width` is the channels of the first stage (64 in the paper), doubled by each later one. With 67 classes ResNet34 has
    21,319,043 and ResNet101 42,637,443 trainable parameters, as torchvision's, beside the 6 of the frozen stem. In the
    thesis's code ResNet34 has the instance norm and ResNet101 has none.
    """

    num_classes: int
    stages: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    instance_norm: bool = True
    train_stem: bool = False
    block: type[BasicBlock] | type[Bottleneck] = BasicBlock
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
        """Logits `(batch, num_classes)` and intermediates; `mask` (batch,) leaves examples out of batch statistics."""
        del keys  # no dropout
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv: Any = functools.partial(Conv, use_bias=False, kernel_init=he_fan_out, **types)

        def norm(x, name):
            return BatchNorm(axis_name=self.axis_name, param_dtype=self.param_dtype, name=name)(x, train=train, mask=mask)

        x = ImageStem(False, self.train_stem, self.instance_norm, name="stem", **types)(x)
        x = conv(self.width, (7, 7), 2, padding=3, name="conv1")(x)
        x = max_pool(nn.relu(norm(x, "bn1")), (3, 3), (2, 2), padding=1)
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = self.block(self.width * 2**stage, stride, conv, norm, name=f"layer{stage + 1}_{block}")(x)
        features = x.mean((1, 2))
        fan_in = features.shape[-1]
        fc = Dense(self.num_classes, kernel_init=torch_kernel, bias_init=torch_bias(fan_in), name="fc", **types)
        return fc(features), {"features": x, "embedding": features}
