"""Freezing: parameters that stay fixed at first or for the whole run; and factors of the learning rate by layer.

The name of a parameter is its path, such as "layer1_0/conv1/kernel". Patterns are those of a shell (`*` matches "/" too). A
pattern that begins with "!" makes an exception, and the last pattern that matches a name decides: ["*", "!fc/*"] freezes
everything except the classifier.
"""

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from genre_jax.console import UserError
from genre_jax.models.layers import BatchNorm


def name_of(path: Any) -> str:
    """The name, such as "layer1_0/conv1/kernel", of a path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def matches(patterns: Sequence[str], name: str) -> bool:
    """Whether the last of `patterns` that matches `name` is not an exception."""
    fitting = [pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern.removeprefix("!"))]
    return bool(fitting) and not fitting[-1].startswith("!")


class Freeze(NamedTuple):
    """Parameters that are frozen before step `until` of the run, or throughout if it is None.

    Attributes:
      patterns: of parameter names; they also choose the batch norms that `batch_stats` concerns.
      until: the first step that changes the parameters, counted from 0.
      batch_stats: whether frozen batch norms normalise by their running statistics and keep them. If false, they normalise
        by the batch and go on updating them.
      optimizer_from: "release": the optimiser sees no gradient of frozen parameters before their release; "start": its moments
        accumulate from the start of the run, without effect.
    """

    patterns: tuple[str, ...]
    until: int | None
    batch_stats: bool = False
    optimizer_from: str = "release"

    def _pick(self, step: jax.Array, still: jax.Array, moving: jax.Array) -> jax.Array:
        """`still` while frozen, `moving` afterwards."""
        return still if self.until is None else jnp.where(step < self.until, still, moving)

    def keep(self, step: jax.Array, still: Any, moving: Any) -> Any:
        """The tree `moving`, with the leaves of `still` for parameters that are frozen at `step`."""

        def choose(path, a, b):
            return self._pick(step, a, b) if matches(self.patterns, name_of(path)) else b

        return jax.tree_util.tree_map_with_path(choose, still, moving)

    def detached(self, params: Any) -> Any:
        """The parameters, without gradients for those that are frozen throughout: XLA then leaves their backward pass out."""

        def detach(path, leaf):
            return jax.lax.stop_gradient(leaf) if self.until is None and matches(self.patterns, name_of(path)) else leaf

        return jax.tree_util.tree_map_with_path(detach, params)

    @contextlib.contextmanager
    def statistics(self, step: jax.Array) -> Iterator[None]:
        """Within this context, frozen batch norms behave at `step` as `batch_stats` states."""

        def intercept(call, args, kwargs, context):
            norm = context.module
            frozen = isinstance(norm, BatchNorm) and matches(self.patterns, "/".join((*norm.path, "mean")))
            if not frozen or not kwargs.get("train"):
                return call(*args, **kwargs)
            if self.until is None:
                return call(*args, **kwargs | {"train": False})
            y = norm.clone(parent=None).apply(norm.variables, *args, **kwargs | {"train": False})
            before = dict(norm.variables["batch_stats"])
            moving = call(*args, **kwargs)
            for key, value in before.items():
                norm.put_variable("batch_stats", key, self._pick(step, value, norm.get_variable("batch_stats", key)))
            return self._pick(step, y, moving)

        with nn.intercept_methods(intercept) if self.patterns and self.batch_stats else contextlib.nullcontext():
            yield

    def optimizer(
        self, clip: optax.GradientTransformation, optimizer: optax.GradientTransformation
    ) -> optax.GradientTransformationExtraArgs:
        """Chain `clip` and `optimizer`; frozen parameters get the direction 0. The `update` of the chain takes the `step`."""

        def drop(updates, state, params=None, *, step, **extra):
            del params, extra
            return self.keep(step, jax.tree.map(jnp.zeros_like, updates), updates), state

        def wait(updates, state, params=None, *, step, **extra):
            directions, moving = optimizer.update(updates, state, params, **extra)
            return directions, jax.tree.map(lambda a, b: self._pick(step, a, b), state, moving)

        def labels(params):
            return jax.tree_util.tree_map_with_path(lambda path, _: matches(self.patterns, name_of(path)), params)

        dropped = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), drop)
        if self.until is not None and self.optimizer_from == "start":
            return optax.chain(clip, optimizer, dropped)
        frozen = optax.GradientTransformationExtraArgs(optimizer.init, wait) if self.until else optax.set_to_zero()
        return optax.chain(dropped, clip, optax.partition({False: optimizer, True: frozen}, labels), dropped)


def build(config: ConfigDict, resolve: Callable[[str], int]) -> Freeze | None:
    """The freeze that `config.freeze` describes, None if it has no patterns; `resolve` turns a duration into steps."""
    if not config.patterns:
        return None
    until = resolve(config.until) if config.until else None
    return Freeze(tuple(config.patterns), until, config.batch_stats, config.optimizer_from)


def parse_rates(texts: Sequence[str]) -> dict[str, float]:
    """Parse ["layer1*=0.1"] to {"layer1*": 0.1}. Raises `UserError`."""
    rates = {}
    for text in texts:
        pattern, _, factor = text.rpartition("=")
        try:
            rates[pattern] = float(factor)
        except ValueError:
            rates[pattern] = -1.0
        if not pattern or not 0 <= rates[pattern] < float("inf"):
            raise UserError(f"config key 'learning_rates' holds pattern=factor, as in 'layer1*=0.1', and was given {text!r}")
    return rates


def rates_of(texts: Sequence[str], model: nn.Module) -> dict[str, float]:
    """`parse_rates`, and 0 for a stem that is never trained: weight decay would change it."""
    still = {} if getattr(model, "train_stem", True) else {"stem/*": 0.0}
    return {pattern: factor for pattern, factor in parse_rates(texts).items() if pattern not in still} | still


def scale_by_name(rates: dict[str, float]) -> optax.GradientTransformation:
    """Multiply directions by the factor of the last pattern that matches their name, 1 if none does."""

    def scaled(path, direction):
        factors = [factor for pattern, factor in rates.items() if fnmatch.fnmatchcase(name_of(path), pattern)]
        return factors[-1] * direction if factors else direction

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scaled, updates))


def check_patterns(key: str, patterns: Sequence[str], params: Any) -> None:
    """Raise `UserError` for a pattern that matches no parameter name."""
    names = [name_of(path) for path, _ in jax.tree.leaves_with_path(params)]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern.removeprefix("!")) for name in names):
            modules = ", ".join(sorted({name.split("/")[0] for name in names}))
            raise UserError(f"config key {key!r}: {pattern!r} matches no parameter of the network, whose modules are {modules}")
