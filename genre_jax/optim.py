"""Optimisers and learning-rate schedules by name.

An optimiser here is an optax transform that returns the *ascent* direction at learning rate 1. The training step multiplies
it by minus the scheduled learning rate, so that one traced function of the step holds the whole schedule.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from genre_jax.freezing import Freeze, scale_by_name

Schedule = Callable[[jax.Array], jax.Array]
Resolve = Callable[[str], int]  # a duration such as "25 epochs" → steps


def sgd(*, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """SGD with momentum; `weight_decay` is added to the gradient (`torch.optim.SGD`)."""
    trace = optax.trace(momentum, nesterov) if momentum else optax.identity()
    return optax.chain(_l2(weight_decay), trace)


def adam(
    *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, l1: float = 0.0
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015); `weight_decay` is added to the gradient (`torch.optim.Adam`).

    `l1` times the sign of each parameter is added too: the gradient of a penalty on the sum of magnitudes. The reported loss
    does not include that penalty.
    """
    return optax.chain(_penalty(weight_decay, l1), optax.scale_by_adam(b1, b2, eps))


def adamw(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019; `torch.optim.AdamW`)."""
    return optax.chain(optax.scale_by_adam(b1, b2, eps), optax.add_decayed_weights(weight_decay))


def amsgrad(
    *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """AMSGrad with PyTorch's conventions: the maximum of the raw second moment is kept, and bias-corrected afterwards.

    optax.amsgrad keeps the maximum of the corrected moment, in which the square of the first gradient stays for ever.
    """
    return optax.chain(_l2(weight_decay), _scale_by_amsgrad(b1, b2, eps))


class AmsgradState(NamedTuple):
    """Steps taken, first moment, second moment and its running maximum."""

    steps: jax.Array
    mu: optax.Updates
    nu: optax.Updates
    nu_max: optax.Updates


def _scale_by_amsgrad(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    def init(params):
        def zeros():
            return jax.tree.map(jnp.zeros_like, params)

        return AmsgradState(jnp.zeros([], jnp.int32), zeros(), zeros(), zeros())

    def update(gradients, state, params=None):
        del params
        steps = state.steps + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, gradients)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, gradients)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)
        t = steps.astype(jax.tree.leaves(mu)[0].dtype)
        first, second = 1 - b1**t, 1 - b2**t
        directions = jax.tree.map(lambda m, v: m / first / (jnp.sqrt(v / second) + eps), mu, nu_max)
        return directions, AmsgradState(steps, mu, nu, nu_max)

    return optax.GradientTransformation(init, update)


def _l2(weight_decay: float) -> optax.GradientTransformation:
    return optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()


def _penalty(weight_decay: float, l1: float) -> optax.GradientTransformation:
    def signs(gradients, params):
        return jax.tree.map(lambda g, p: g + l1 * jnp.sign(p), gradients, params)

    return optax.chain(_l2(weight_decay), optax.stateless(signs)) if l1 else _l2(weight_decay)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "amsgrad": amsgrad,
}


def build(
    name: str, gradient_clip: float, freeze: Freeze | None = None, learning_rates: dict[str, float] | None = None, **options
) -> optax.GradientTransformationExtraArgs:
    """The optimiser `name`, after clipping by global norm if `gradient_clip` > 0.

    With `freeze`, its `update` needs the argument `step`. `learning_rates` are factors by pattern of parameter name.
    """
    clip = optax.clip_by_global_norm(gradient_clip) if gradient_clip else optax.identity()
    optimizer = OPTIMIZERS[name](**options)
    chain = freeze.optimizer(clip, optimizer) if freeze else optax.chain(clip, optimizer)
    return optax.chain(chain, scale_by_name(learning_rates)) if learning_rates else chain


def constant(resolve: Resolve, total: int, *, learning_rate: float = 1e-3, warmup: str = "0 steps") -> Schedule:
    """A constant learning rate, after a linear `warmup`."""
    del total
    return _warm(resolve, warmup, lambda step: jnp.full((), learning_rate))


def cosine(
    resolve: Resolve, total: int, *, learning_rate: float = 1e-3, warmup: str = "0 steps", final: float = 0.0
) -> Schedule:
    """Half a cosine from `learning_rate`, after the linear `warmup`, down to `final` · `learning_rate` at step `total`."""
    start = _count(resolve, warmup)

    def rate(step):
        progress = jnp.clip((step - start) / max(1, total - start), 0, 1)
        return learning_rate * (final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress)))

    return _warm(resolve, warmup, rate)


def multistep(
    resolve: Resolve,
    total: int,
    *,
    learning_rate: float = 1e-4,
    boundaries: tuple[str, ...] = ("20 epochs",),
    gamma: float = 0.4,
    warmup: str = "0 steps",
) -> Schedule:
    """The learning rate is multiplied by `gamma` at each boundary (the schedule of document 000)."""
    del total
    at = [_count(resolve, boundary) for boundary in boundaries]

    def rate(step):
        passed = sum(((step >= boundary).astype(jnp.float32) for boundary in at), jnp.zeros(()))
        return learning_rate * gamma**passed

    return _warm(resolve, warmup, rate)


def exponential(
    resolve: Resolve, total: int, *, learning_rate: float = 1e-3, decay: float = 0.9, every: str = "3000 steps"
) -> Schedule:
    """The learning rate times `decay`^(step / every), continuously (EXP of document 004)."""
    del total
    period = _count(resolve, every)
    return lambda step: learning_rate * decay ** (step / period)


def _count(resolve: Resolve, duration: str) -> int:
    return 0 if duration.startswith("0 ") else resolve(duration)


def _warm(resolve: Resolve, warmup: str, rate: Schedule) -> Schedule:
    length = _count(resolve, warmup)
    return (lambda step: rate(step) * jnp.minimum(1.0, (step + 1) / length)) if length else rate


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "multistep": multistep,
    "exponential": exponential,
}
