"""The networks: a dict name → Module, and functions that build a network and count its parameters.

`network.Network` is the base of all networks. It describes their call.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genre_jax import console, parallel
from genre_jax.gmm import Gmm
from genre_jax.models.burrows import BurrowsConv1d, BurrowsConv2d, BurrowsMlp
from genre_jax.models.bytenet.network import ByteNet
from genre_jax.models.choi import ChoiCnn
from genre_jax.models.densenet import DenseNet
from genre_jax.models.folmer import FolmerCnn, FolmerMlp
from genre_jax.models.gru import GruAttention
from genre_jax.models.mobilenet import MobileNet
from genre_jax.models.musicnn import Musicnn, MusicnnVgg
from genre_jax.models.network import Network
from genre_jax.models.network import count as count
from genre_jax.models.resnet import Bottleneck, ResNet
from genre_jax.models.schindler import SchindlerDeep, SchindlerShallow
from genre_jax.models.snn import Snn
from genre_jax.models.swishnet import SwishNet

MODELS: dict[str, Callable[..., Network]] = {
    "burrows_conv1d": BurrowsConv1d,
    "burrows_conv2d": BurrowsConv2d,
    "burrows_mlp": BurrowsMlp,
    "bytenet": ByteNet,
    "choi_cnn": ChoiCnn,
    "dense_cnn": functools.partial(FolmerCnn, dense_layers=3, head="pooled"),
    "densenet121": functools.partial(DenseNet, stages=(6, 12, 24, 16)),
    "densenet169": functools.partial(DenseNet, stages=(6, 12, 32, 32)),
    "densenet201": functools.partial(DenseNet, stages=(6, 12, 48, 32)),
    "folmer_cnn": FolmerCnn,
    "folmer_mlp": FolmerMlp,
    "gmm": Gmm,
    "gru_attention": GruAttention,
    "mobilenet_v1": MobileNet,
    "musicnn": Musicnn,
    "musicnn_vgg": MusicnnVgg,
    "resnet18": functools.partial(ResNet, stages=(2, 2, 2, 2)),
    "resnet34": functools.partial(ResNet, stages=(3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, stages=(3, 4, 6, 3), block=Bottleneck),
    "resnet101": functools.partial(ResNet, stages=(3, 4, 23, 3), block=Bottleneck, instance_norm=False),
    "resnet152": functools.partial(ResNet, stages=(3, 8, 36, 3), block=Bottleneck),
    "schindler_deep": SchindlerDeep,
    "schindler_shallow": SchindlerShallow,
    "snn": Snn,
    "swishnet_slim": SwishNet,
    "swishnet_wide": functools.partial(SwishNet, width=2),
}


def build(name: str, *, num_classes: int, dtype: str = "float32", axis_name: parallel.Axis = None, **options: Any) -> Network:
    """Returns the network `name`; raises `UserError` for unknown names.

    Parameters are float64 if `dtype` is, otherwise float32.
    """
    param_dtype = jnp.float64 if dtype == "float64" else jnp.float32
    return console.pick("model", name, MODELS)(
        num_classes=num_classes, dtype=jnp.dtype(dtype), param_dtype=param_dtype, axis_name=axis_name, **options
    )


def abstract_variables(model: Network, input_shape: tuple[int, ...] | None = None) -> Any:
    """Returns the shapes of a network's variables for inputs `(1, *input_shape)`. Computes nothing."""
    shape = (1, *(input_shape or model.input_shape))
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def count_parameters(name: str, *, num_classes: int, **options: Any) -> int:
    """Returns how many parameters a network has as its source counts them. Uses shapes alone."""
    model = build(name, num_classes=num_classes, **options)
    return model.count_as_published(abstract_variables(model)["params"])
