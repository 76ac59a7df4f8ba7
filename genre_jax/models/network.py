"""What all networks share: their fields, their call, and the count of their parameters."""

import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre_jax import console, parallel


class Call(NamedTuple):
    """How a network is called.

    Attributes:
      train: whether batch norms take the statistics of the batch and update the running ones. Otherwise they take the running
        ones.
      mask: float (batch,), 0 for examples that do not count in the statistics of the batch; None counts all.
      keys: one random key an example, (batch,), for dropout; None turns dropout off.
    """

    train: bool
    mask: jax.Array | None
    keys: jax.Array | None


class Network(nn.Module):
    """Base of all networks. Subclasses implement `forward`.

    Attributes:
      num_classes: classes, ≥ 1.
      axis_name: name of the axis of devices over which batch statistics are summed, or a group of devices of such an axis; None
        for a single device.
      dtype: type of the computations.
      param_dtype: type of the parameters and of the batch statistics.
      choices: pairs of an option and its legal values.
      input_shape: shape of an example for which the network is described.
      replaceable: modules near the classifier that the weights of another run may have and this network may lack.
    """

    num_classes: int
    axis_name: parallel.Axis = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    choices: ClassVar[tuple[tuple[str, Collection[str]], ...]] = ()
    input_shape: ClassVar[tuple[int, ...]]
    replaceable: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        for key, legal in self.choices:
            if getattr(self, key) not in legal:
                raise console.unknown(f"model.{key}", getattr(self, key), legal)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None, keys: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Compute logits and intermediates.

        Args:
          x: features (batch, *input_shape).
          train, mask, keys: as in `Call`.

        Returns:
          Logits (batch, num_classes), and a dict of arrays (batch, …). Its "embedding" is (batch, dim). Raises `UserError`
          if an image is too small.
        """
        return self.forward(x, Call(train, mask, keys))

    def forward(self, x: jax.Array, call: Call) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The layers of the network, with the result of `__call__`."""
        raise NotImplementedError

    @property
    def types(self) -> dict[str, Any]:
        """`dtype` and `param_dtype`, as keyword arguments of a layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def count_as_published(self, params: Mapping[str, Any]) -> int:
        """Returns how many parameters the network has as its source counts them: without a stem that is never trained."""
        frozen = {"stem"} if not getattr(self, "train_stem", True) else set()
        return count({name: value for name, value in params.items() if name not in frozen})


def count(params: Any) -> int:
    """Returns how many numbers a tree of parameters holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
