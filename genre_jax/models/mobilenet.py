"""MobileNet v1 (Howard et al. 2017) as Keras or timm has it, with the head of SwishNet's teacher (arXiv 1812.00149)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from genre_jax.console import UserError
from genre_jax.models.layers import BatchNorm, Conv, Dense, Dropout, ImageStem, glorot
from genre_jax.models.network import Network


class Library(NamedTuple):
    """The padding of a library's strided convolutions, and its batch norm.

    Attributes:
      stem: padding of the first convolution.
      strided: padding of the strided depthwise convolutions.
      momentum, epsilon, unbiased: as in `BatchNorm`.
    """

    stem: Any
    strided: tuple[tuple[int, int], ...]
    momentum: float
    epsilon: float
    unbiased: bool


LIBRARIES = {
    "keras": Library("SAME", ((0, 1), (0, 1)), 0.01, 1e-3, False),
    "timm": Library(((1, 1), (1, 1)), ((1, 1), (1, 1)), 0.1, 1e-5, True),
}


class MobileNet(Network):
    """Depthwise-separable convolutions over images `(batch, bins, frames, 1)`, then a dense layer, then the classes.

    With `alpha` 0.25 and 3 classes the network has the teacher's 217,235 trainable parameters, beside the 6 of the frozen
    stem, which copies the image to three channels.

    Attributes:
      stages: depthwise-separable blocks at each size of the image, with 64, 128, 256, 512 and 1024 channels at `alpha` 1.
      alpha: factor of the channels of each layer, rounded down; published weights have 0.25, 0.5, 0.75 and 1.
      hidden: units of the dense layer before the classes.
      library: the library whose published weights give the same outputs here. "keras" (the teacher's): strided depthwise
        convolutions are padded at the end only, batch norms have momentum 0.01 (Keras's 0.99), epsilon 1e-3 and the biased
        variance. "timm": padding at both ends, 0.1, 1e-5, the unbiased variance, as PyTorch.
      dropout: rate before the dense layer, 0 to 1; 0.1 in the earlier code of SwishNet's first author, not stated in the
        paper.
      instance_norm: whether the stem normalises the image.
      train_stem: whether the stem is trained.
    """

    stages: tuple[int, ...] = (1, 2, 2, 6, 2)
    alpha: float = 0.25
    hidden: int = 16
    library: str = "keras"
    dropout: float = 0.1
    instance_norm: bool = True
    train_stem: bool = False

    choices = (("library", LIBRARIES),)
    input_shape = (64, 200, 1)

    def __post_init__(self):
        if self.alpha < 1 / 32:
            raise UserError(f"'model.alpha' must be at least 1/32, and was given {self.alpha}")
        super().__post_init__()

    def forward(self, x, call):
        library = LIBRARIES[self.library]
        least = 2 ** len(self.stages) - 1  # ceil(size / 2) must be halved between the stages
        if min(x.shape[1:3]) < least:
            raise UserError(
                f"a MobileNet reads images of at least {least} × {least} pixels, and was given {x.shape[1]} × {x.shape[2]}"
            )

        def conv(x, name, features, kernel=1, stride=1, padding: Any = "SAME", groups=1):
            x = Conv(
                features, (kernel, kernel), stride, padding=padding, use_bias=False, kernel_init=glorot,
                feature_group_count=groups, name=name, **self.types,
            )(x)  # fmt: skip
            norm = BatchNorm(
                library.momentum, library.epsilon, library.unbiased, self.axis_name, self.param_dtype, name=f"{name}_bn"
            )
            return jax.nn.relu6(norm(x, train=call.train, mask=call.mask))

        x = ImageStem(True, self.train_stem, self.instance_norm, name="stem", **self.types)(x)
        x = conv(x, "conv1", int(32 * self.alpha), 3, 2, library.stem)
        number = 0
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                number, channels = number + 1, x.shape[-1]
                stride, padding = (2, library.strided) if stage > 0 and block == 0 else (1, ((1, 1), (1, 1)))
                x = conv(x, f"conv_dw_{number}", channels, 3, stride, padding, channels)
                x = conv(x, f"conv_pw_{number}", int(64 * 2**stage * self.alpha))
        embedding = x.mean((1, 2))
        y = Dropout(self.dropout, name="dropout")(embedding, call.keys)
        y = nn.relu(Dense(self.hidden, kernel_init=glorot, name="hidden", **self.types)(y))
        return Dense(self.num_classes, kernel_init=glorot, name="fc", **self.types)(y), {"features": x, "embedding": embedding}
