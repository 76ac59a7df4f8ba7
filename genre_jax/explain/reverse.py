"""From a feature map of any convolutional network of the package back to the network's input.

The network is traced into a jaxpr, in which the output of each convolution has the name of its module. The jaxpr is then
evaluated again with activations whose backward pass follows a rule. The backward pass of everything else stays: that of a
convolution is the convolution with the flipped kernel, that of max pooling puts each number at the place of its maximum, and
biases and shifts of batch norms drop out.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from genre_jax.models.layers import BatchNorm, Dropout
from genre_jax.models.network import Network

RULES = {  # what a ReLU passes back of a signal g; other activations apply their slopes in the same places
    "deconvnet": "g where g is positive, whatever the input of the activation was (Zeiler & Fergus 2014)",
    "guided": "guided backpropagation: g where both the input of the activation and g are positive (Springenberg et al. 2015)",
    "gradient": "g where the input of the activation is positive",
}
_MARK = "explain:"
_INLINED = ("jit", "pjit", "remat2", "checkpoint", "closed_call", "core_call", "custom_jvp_call")
_ACTIVATIONS = ("relu", "relu6", "leaky_relu")
_ALONG = ("add", "sub", "mul", "div", "neg", "convert_element_type")  # of the bias and the norm between layer and activation


@dataclasses.dataclass(frozen=True)
class _Value:
    """A value of the jaxpr.

    Attributes:
      array: the value itself.
      depends: whether it depends on the features.
      layer: the layer of which it is the map, up to additions and factors; "" for none.
      activated: whether the activation of that layer has been applied.
    """

    array: Any
    depends: bool = False
    layer: str = ""
    activated: bool = False


def maps(model: Network, variables: Any, features: jax.Array, rule: str = "gradient") -> dict[str, jax.Array]:
    """Compute the feature maps of all convolutional layers and blocks, in the order of the computation.

    The map of a convolution is the output of its activation, or of the max pooling that directly follows the activation. If no
    activation follows, but a sum or a concatenation, it is the output of the convolution. The map of a block is its output.

    Args:
      model: the network.
      variables: its {"params", "batch_stats"}.
      features: its input (batch, …).
      rule: key of `RULES`, for a backward pass through this function.

    Returns the name of the module, such as "layer1_0/conv1", → map (batch, …, channels).
    """
    closed = jax.make_jaxpr(lambda variables, x: _marked(model, variables, x))(variables, features)
    found: dict[str, jax.Array] = {}
    constant = [_Value(leaf) for leaf in jax.tree.leaves(variables)]
    _evaluate(closed, [*constant, _Value(features, depends=True)], rule, found)
    return found


def reverse(
    model: Network, variables: Any, features: jax.Array, layer: str, channels: jax.Array, rule: str = "deconvnet"
) -> jax.Array:
    """Bring single channels of a layer's map back to the input.

    The backward pass starts with the positive part of the map, in which all other channels are zero.

    Args:
      model, variables, rule: as in `maps`.
      features: the input of one example (1, …).
      layer: a name that `maps` returns.
      channels: int (channels,), numbers of the channels.

    Returns (channels, …), an array of the shape of an example for each channel.
    """
    kept, back = jax.vjp(lambda x: maps(model, variables, x, rule)[layer], features)

    def one(channel):
        start = jnp.maximum(kept, 0) * (jnp.arange(kept.shape[-1]) == channel)
        return back(start.astype(kept.dtype))[0][0]

    return jax.lax.map(one, channels)


def with_finite_gradient(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Return the same function of an array, with the gradient of each maximum at the first of equals (see `_largest`)."""

    def same(x):
        closed = jax.make_jaxpr(function)(x)
        return _evaluate(closed, [_Value(x, depends=True)], "gradient", {})[0].array

    return same


def _marked(model: Network, variables: Any, features: jax.Array) -> Any:
    """Apply a network, and give the output of each convolution and block of convolutions the name of its module."""
    names: list[str] = []
    last: list[jax.Array] = []

    def intercept(call, args, kwargs, context):
        y = call(*args, **kwargs)
        module, name = context.module, "/".join(context.module.path)
        array = isinstance(y, jax.Array) and y.ndim >= 3 and context.method_name == "__call__"
        block = not isinstance(module, BatchNorm | Dropout | nn.Dense) and any(other.startswith(f"{name}/") for other in names)
        if not array or not (isinstance(module, nn.Conv) or block) or any(y is other for other in last):
            return y
        names.append(name)
        last[:] = [checkpoint_name(y, _MARK + name)]
        return last[0]

    with nn.intercept_methods(intercept):
        return model.apply(variables, features)


def _evaluate(closed: Any, arguments: Iterable[_Value], rule: str, found: dict[str, jax.Array]) -> list[_Value]:
    """Evaluate a jaxpr with the activations of the rule, and put the maps into `found`."""
    jaxpr = getattr(closed, "jaxpr", closed)
    constants = map(_Value, getattr(closed, "consts", ()))
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
    for equation in jaxpr.eqns:
        values = [_Value(atom.val) if isinstance(atom, Literal) else known[atom] for atom in equation.invars]
        known |= dict(zip(equation.outvars, _step(equation, values, rule, found), strict=True))
    return [_Value(atom.val) if isinstance(atom, Literal) else known[atom] for atom in jaxpr.outvars]


def _step(equation: Any, values: list[_Value], rule: str, found: dict[str, jax.Array]) -> list[_Value]:
    """Evaluate one equation."""
    kind, inner = equation.primitive.name, equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    dependent = [number for number, value in enumerate(values) if value.depends]
    if kind in _INLINED and inner is not None:
        name = _activation(equation, inner)
        if name not in _ACTIVATIONS or len(dependent) != 1:
            return _evaluate(inner, values, rule, found)
        before = values[dependent[0]]
        out = _activate(inner, [value.array for value in values], dependent[0], rule, name)
        if before.layer and not before.activated:
            found[before.layer] = out
        return [_Value(out, True, before.layer, True)] if not before.activated else [_Value(out, True)]
    if kind == "reduce_max" and jnp.issubdtype(values[0].array.dtype, jnp.floating):
        return [_Value(_largest(values[0].array, equation.params["axes"]), bool(dependent))]
    if kind == "custom_vjp_call" and dependent == [0] and _reads_one_channel(inner, values[0].array):
        padding = getattr(inner, "jaxpr", inner).eqns[0].params["padding"]
        return [_Value(_convolve_one_channel(inner, padding, *[value.array for value in values]), True)]
    parameters = equation.primitive.get_bind_params(equation.params)
    result = equation.primitive.bind(*[value.array for value in values], **parameters)
    results = result if equation.primitive.multiple_results else [result]
    if kind == "name" and equation.params["name"].startswith(_MARK):
        layer = equation.params["name"].removeprefix(_MARK)
        found[layer] = results[0]
        return [_Value(results[0], True, layer)]
    if kind == "reduce_sum" and rule != "gradient":
        results = [jax.lax.stop_gradient(array) for array in results]  # the statistics of an instance norm are constants
    if len(dependent) == 1 and (before := values[dependent[0]]).layer:
        if before.activated and kind == "custom_vjp_call" and _pools(before.array, results[0]):
            found[before.layer] = results[0]
        elif not before.activated and kind in _ALONG and results[0].shape == before.array.shape:
            return [dataclasses.replace(before, array=results[0])]
    return [_Value(array, bool(dependent)) for array in results]


def _activation(equation: Any, inner: Any) -> str:
    """The name of the function that an equation calls; `jax.nn.relu` is a custom_jvp around a compiled function."""
    if equation.primitive.name != "custom_jvp_call":
        return equation.params.get("name", "")
    equations = getattr(inner, "jaxpr", inner).eqns
    return equations[0].params.get("name", "") if len(equations) == 1 else ""


def _activate(inner: Any, arrays: list[Any], place: int, rule: str, name: str) -> jax.Array:
    """Apply an activation to `arrays[place]`, with the backward pass of the rule."""
    jaxpr, constants = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())

    def plain(x):
        return jax.core.eval_jaxpr(jaxpr, constants, *arrays[:place], x, *arrays[place + 1 :])[0]

    def passed_back(x, g):
        if rule == "deconvnet":
            return plain(g) if name == "leaky_relu" else jnp.maximum(g, 0)
        return jax.vjp(plain, x)[1](jnp.maximum(g, 0) if rule == "guided" else g)[0]

    function: Callable[[Any], Any] = jax.custom_vjp(plain)
    function.defvjp(lambda x: (plain(x), x), lambda x, g: (passed_back(x, g),))  # type: ignore[attr-defined]
    return function(arrays[place])


def _largest(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The maximum over some axes, whose backward pass goes to the first of equals.

    That of `jnp.max` divides by 0 if XLA rounds the maximum in two ways (see `pooling.max_pool`).
    """
    last = jnp.moveaxis(x, axes, range(-len(axes), 0))
    flat = last.reshape(*last.shape[: x.ndim - len(axes)], -1)
    place = jnp.argmax(jax.lax.stop_gradient(flat), -1)
    chosen = jnp.arange(flat.shape[-1]) == place[..., None]
    return jnp.where(chosen, flat, 0).sum(-1)  # a gather would be the same, with a backward pass that is slow on CPUs


def _reads_one_channel(inner: Any, x: Any) -> bool:
    """Whether a function is a convolution at stride 1 of images of one channel, and nothing else."""
    equations = getattr(inner, "jaxpr", inner).eqns
    if len(equations) != 1 or equations[0].primitive.name != "conv_general_dilated" or x.ndim != 4 or x.shape[-1] != 1:
        return False
    parameters = equations[0].params
    return {*parameters["window_strides"], *parameters["lhs_dilation"], *parameters["rhs_dilation"]} == {1}


def _convolve_one_channel(inner: Any, padding: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve images of one channel, with a backward pass of a matrix product and shifts.

    With XLA's convolution from many channels to one, 64 steps of integrated gradients of musicnn took 118 s on two cores, and
    with this 32 s.
    """
    jaxpr, constants = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
    high, wide = kernel.shape[:2]

    def plain(x):
        return jax.core.eval_jaxpr(jaxpr, constants, x, kernel)[0]

    def back(_, g):
        taps = jnp.moveaxis(jnp.matmul(g, kernel.reshape(high * wide, -1).T), -1, 0)  # (taps, batch, rows, columns)
        size = (len(g), g.shape[1] + high - 1, g.shape[2] + wide - 1)

        def add(number, total):
            place = (0, number // wide, number % wide)
            seen = jax.lax.dynamic_slice(total, place, g.shape[:3])
            return jax.lax.dynamic_update_slice(total, seen + taps[number], place)

        total = jax.lax.fori_loop(0, high * wide, add, jnp.zeros(size, g.dtype))
        (top, _), (left, _) = padding
        return (total[:, top : top + x.shape[1], left : left + x.shape[2], None],)

    function: Callable[[Any], Any] = jax.custom_vjp(plain)
    function.defvjp(lambda x: (plain(x), None), back)  # type: ignore[attr-defined]
    return function(x)


def _pools(x: Any, y: Any) -> bool:
    """Whether `y` has the shape of a pooled `x`."""
    return x.ndim == y.ndim and x.shape[-1] == y.shape[-1] and all(b <= a for a, b in zip(x.shape, y.shape, strict=True))
