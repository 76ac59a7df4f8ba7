"""Optimisers and learning-rate schedules by name.

An optimiser here is an optax transform that returns the *ascent* direction at learning rate 1. The training step multiplies
it by minus the scheduled learning rate, so that one traced function of the step holds the whole schedule.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genre_jax.console import UserError
from genre_jax.freezing import Freeze, matches, name_of, scale_by_name

Schedule = Callable[[jax.Array], jax.Array]
Resolve = Callable[[str], int]  # a duration such as "25 epochs" → steps


def sgd(
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    kernel_l2: float = 0.0,
    kernel_l2_patterns: tuple[str, ...] = (),
) -> optax.GradientTransformation:
    """SGD with momentum (`torch.optim.SGD`). `_penalty` describes the other options."""
    trace = optax.trace(momentum, nesterov) if momentum else optax.identity()
    return optax.chain(_penalty(weight_decay, 0.0, kernel_l2, kernel_l2_patterns), trace)


def adam(
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    l1: float = 0.0,
    kernel_l2: float = 0.0,
    kernel_l2_patterns: tuple[str, ...] = (),
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015; `torch.optim.Adam`). `_penalty` describes `weight_decay`, `l1` and the kernel options."""
    return optax.chain(_penalty(weight_decay, l1, kernel_l2, kernel_l2_patterns), optax.scale_by_adam(b1, b2, eps))


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


def _penalty(
    weight_decay: float, l1: float, kernel_l2: float, kernel_l2_patterns: tuple[str, ...]
) -> optax.GradientTransformation:
    """Add the gradients of penalties to the gradient of the loss. The reported loss does not include the penalties.

    Args:
      weight_decay: w, of the penalty w / 2 · sum(p²) over all parameters p: `weight_decay` of PyTorch's SGD and Adam.
      l1: f, of the penalty f · sum(|p|) over all parameters.
      kernel_l2: f, of the penalty f · sum(k²) over the kernels k: `kernel_regularizer=l2(f)` of Keras. A kernel is a parameter
        with two or more axes whose name ends in "kernel"; biases and the parameters of norms are not penalised.
      kernel_l2_patterns: restrict `kernel_l2` to the kernels whose names match, such as ("conv*",); () = all kernels.
    """

    def signs(gradients, params):
        return jax.tree.map(lambda g, p: g + l1 * jnp.sign(p), gradients, params)

    def decayed(path, gradient, param):
        name = name_of(path)
        chosen = not kernel_l2_patterns or matches(kernel_l2_patterns, name)
        is_kernel = name.split("/")[-1] == "kernel" and param.ndim > 1
        return gradient + 2 * kernel_l2 * param if chosen and is_kernel else gradient

    def kernels(gradients, params):
        return jax.tree_util.tree_map_with_path(decayed, gradients, params)

    penalties = [_l2(weight_decay)]
    penalties += [optax.stateless(signs)] if l1 else []
    penalties += [optax.stateless(kernels)] if kernel_l2 else []
    return optax.chain(*penalties) if len(penalties) > 1 else penalties[0]


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
        progress = jnp.clip(_ratio(step - start, max(1, total - start)), 0, 1)
        return learning_rate * (final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress)))

    return _warm(resolve, warmup, rate)


def cosine_restarts(
    resolve: Resolve,
    total: int,
    *,
    learning_rate: float = 1e-3,
    final: float = 0.0,
    period: str = "1 epochs",
    growth: int = 2,
) -> Schedule:
    """Cosine annealing with warm restarts (SGDR, Loshchilov & Hutter 2017).

    Within a cycle, half a cosine leads from `learning_rate` down to `final` · `learning_rate`. The first cycle takes `period`,
    and each cycle takes `growth` times as long as the one before. Equal to `torch.optim.lr_scheduler.
    CosineAnnealingWarmRestarts(T_0=period, T_mult=growth, eta_min=final · learning_rate)` that is stepped after each step.

    Document 003 says "cosine annealing with warm restarts". The code of its author has learning_rate=5e-4, final=0.02 (1e-5), a
    first cycle of one epoch, and growth 2. Its cycles are one epoch longer than that (2, 3, 5, 9, 17, 33 epochs and not 1, 2,
    4, 8, 16, 32), which is not reproduced here.
    """
    if growth < 1:
        raise UserError(f"config key 'schedule.growth' must be at least 1, and was given {growth}")
    starts, lengths = [0], [resolve(period)]
    while starts[-1] + lengths[-1] <= total:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * growth)
    start_of, length_of = np.array(starts), np.array(lengths, float)

    def rate(step):
        cycle = jnp.searchsorted(start_of, step, side="right") - 1
        progress = _ratio(step - jnp.asarray(start_of)[cycle], jnp.asarray(length_of)[cycle])
        return learning_rate * (final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress)))

    return rate


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
        passed = sum(((step >= boundary).astype(float) for boundary in at), jnp.zeros(()))
        return learning_rate * gamma**passed

    return _warm(resolve, warmup, rate)


def exponential(
    resolve: Resolve, total: int, *, learning_rate: float = 1e-3, decay: float = 0.9, every: str = "3000 steps"
) -> Schedule:
    """The learning rate times `decay`^(step / every), continuously (EXP of document 004)."""
    del total
    period = _count(resolve, every)
    return lambda step: learning_rate * decay ** _ratio(step, period)


def _count(resolve: Resolve, duration: str) -> int:
    return 0 if duration.startswith("0 ") else resolve(duration)


def _ratio(steps: jax.Array, count: int | jax.Array) -> jax.Array:
    """`steps` / `count` in the type of floats. JAX would divide int32 in float32, in a float64 run as well."""
    return steps.astype(float) / count


def _warm(resolve: Resolve, warmup: str, rate: Schedule) -> Schedule:
    length = _count(resolve, warmup)
    return (lambda step: rate(step) * jnp.minimum(1.0, _ratio(step + 1, length))) if length else rate


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "multistep": multistep,
    "exponential": exponential,
}
