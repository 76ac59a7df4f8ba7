"""The networks: an explicit dict name → Module, and how one is built and counted.

Every Module has the call `(features, *, train, mask, keys) -> (logits, intermediates)`, with "embedding" `(batch, dim)`
among the intermediates, and takes `num_classes`, `dtype`, `param_dtype` and `axis_name` beside its own options.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import console
from genre_jax.models.bytenet import ByteNet
from genre_jax.models.resnet import ResNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "bytenet": ByteNet,
    "resnet18": functools.partial(ResNet, stages=(2, 2, 2, 2)),
    "resnet34": functools.partial(ResNet, stages=(3, 4, 6, 3)),
}


def build(name: str, *, num_classes: int, dtype: str = "float32", axis_name: str | None = None, **options: Any) -> nn.Module:
    """The network `name`. Parameters are float32, or float64 where `dtype` is; raises `UserError` for unknown names."""
    if name not in MODELS:
        raise console.unknown("model", name, MODELS)
    param_dtype = jnp.float64 if dtype == "float64" else jnp.float32
    return MODELS[name](
        num_classes=num_classes, dtype=jnp.dtype(dtype), param_dtype=param_dtype, axis_name=axis_name, **options
    )


def abstract_variables(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> Any:
    """Shapes of a network's variables for inputs `(1, *input_shape)`, without computing anything."""
    shape = (1, *(input_shape or model.input_shape))
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def count(params: Any) -> int:
    """Numbers in a tree of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def count_parameters(name: str, *, num_classes: int, **options: Any) -> int:
    """Trainable parameters of a network, from shapes alone (its frozen stem left out)."""
    model = build(name, num_classes=num_classes, **options)
    params = dict(abstract_variables(model)["params"])
    if "stem" in params and not model.train_stem:
        del params["stem"]
    return count(params)
