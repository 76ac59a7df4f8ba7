"""ResNets (He et al. 2016) in torchvision's layout, with the thesis's one-to-three-channel stem (document 000)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax.models.layers import BatchNorm, InstanceNorm, he_fan_out, torch_bias, torch_kernel


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, projected where the shape changes."""

    features: int
    stride: int
    axis_name: str | None
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        def conv(features, kernel, stride, name):
            return nn.Conv(
                features, (kernel, kernel), stride, padding=(kernel - 1) // 2, use_bias=False, kernel_init=he_fan_out,
                dtype=self.dtype, param_dtype=self.param_dtype, name=name,
            )  # fmt: skip

        def norm(y, name):
            return BatchNorm(axis_name=self.axis_name, param_dtype=self.param_dtype, name=name)(y, train=train, mask=mask)

        y = nn.relu(norm(conv(self.features, 3, self.stride, "conv1")(x), "bn1"))
        y = norm(conv(self.features, 3, 1, "conv2")(y), "bn2")
        if x.shape != y.shape:
            x = norm(conv(self.features, 1, self.stride, "downsample_conv")(x), "downsample_bn")
        return nn.relu(x + y)


class ThesisStem(nn.Module):
    """One channel to three by a 1×1 convolution that is never trained unless asked (document 000's code).

    Channel 0 starts with weight 1, the rest with U(-1, 1); followed by an instance norm it is ± the z-score of the image.
    """

    trainable: bool
    instance_norm: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def kernel(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -1, 1).at[..., 0].set(1)

        w = self.param("kernel", kernel, (1, 3), self.param_dtype)
        b = self.param("bias", torch_bias(1), (3,), self.param_dtype)
        if not self.trainable:
            w, b = jax.lax.stop_gradient((w, b))
        x = x.astype(jnp.promote_types(x.dtype, self.dtype)) * w[0] + b
        return (InstanceNorm(affine=False)(x) if self.instance_norm else x).astype(self.dtype)


class ResNet(nn.Module):
    """A ResNet of basic blocks over images `(batch, height, width, 1)`.

    `width` is the channels of the first stage (64 in the paper), doubled by each later one. With 67 classes ResNet34 has
    21,319,043 trainable parameters, as torchvision's, beside the 6 of the frozen stem.
    """

    num_classes: int
    stages: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    instance_norm: bool = True
    train_stem: bool = False
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
        x = ThesisStem(self.train_stem, self.instance_norm, name="stem", **types)(x)
        x = nn.Conv(self.width, (7, 7), 2, padding=3, use_bias=False, kernel_init=he_fan_out, name="conv1", **types)(x)
        x = BatchNorm(axis_name=self.axis_name, param_dtype=self.param_dtype, name="bn1")(x, train=train, mask=mask)
        x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                x = BasicBlock(
                    self.width * 2**stage, 2 if stage > 0 and block == 0 else 1, self.axis_name,
                    name=f"layer{stage + 1}_{block}", **types,
                )(x, train=train, mask=mask)  # fmt: skip
        features = x.mean((1, 2))
        fan_in = features.shape[-1]
        fc = nn.Dense(self.num_classes, kernel_init=torch_kernel, bias_init=torch_bias(fan_in), name="fc", **types)
        return fc(features), {"features": x, "embedding": features}
