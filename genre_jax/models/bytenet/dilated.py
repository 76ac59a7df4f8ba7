"""Dilated one-dimensional convolution by three backends with equal outputs and gradients.

Each maps `(batch, time, in)` and `(kernel, in, out)` to `(batch, time', out)`, as a correlation:

    y[t] = sum over taps j of x[t - left + j · dilation] @ kernel[j],    x = 0 outside the sequence

- `lax`: XLA's own convolution.
- `shift`: the sum of the shifted inputs times the matrices of their taps. The dilation may be traced: one program then serves
  every dilation. The backward pass keeps only the unshifted input.
- `phases`: space to batch. Every `dilation`-th step belongs to the same sequence, which is convolved without dilation.

Taps that see only padding are left out if the dilation is known when the program is made.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from genre_jax import console
from genre_jax.models import cpu

BACKENDS = ("lax", "shift", "phases")

Padding = tuple[int | jax.Array, int | jax.Array]


def same_padding(dilation: int | jax.Array, kernel: int, causal: bool) -> Padding:
    """Returns the zeros (before, after) that keep the length: all before if causal, otherwise halves, the odd zero after."""
    reach = dilation * (kernel - 1)
    return (reach, 0) if causal else (reach // 2, reach - reach // 2)


def dilated_conv(
    x: jax.Array,
    kernel: jax.Array,
    dilation: int | jax.Array,
    padding: Padding,
    *,
    backend: str = "lax",
    span: tuple[int, int] | None = None,
    length: int | None = None,
) -> jax.Array:
    """Convolves `x` (batch, time, in) with `kernel` (taps, in, out).

    Args:
      dilation: ≥ 1; only `shift` takes a traced dilation.
      padding: zeros (before, after); negative numbers cut steps away. The result has
        time + before + after - dilation · (taps - 1) steps.
      backend: one of `BACKENDS`.
      span: only for a traced dilation: the least and the largest possible offset j · dilation - before of a tap.
      length: only for a traced dilation: the steps of the result.

    Returns:
      (batch, time', out). Raises `UserError` for an unknown backend or a traced dilation without `shift`, span and length.
    """
    if backend not in BACKENDS:
        raise console.unknown("convolution backend", backend, BACKENDS)
    taps = kernel.shape[0]
    if not isinstance(dilation, int):
        if backend != "shift" or span is None or length is None:
            raise console.UserError(
                f"a traced dilation needs backend 'shift', span and length, not {backend!r}, {span} and {length}"
            )
        return _shift(x, kernel, jnp.arange(taps) * dilation - padding[0], span, length)
    left, right = int(padding[0]), int(padding[1])
    length = x.shape[1] + left + right - dilation * (taps - 1)
    if length < 1:
        raise console.UserError(
            f"{taps} taps at dilation {dilation} need at least {dilation * (taps - 1) + 1} steps with padding, "
            f"not {x.shape[1] + left + right}"
        )
    seen = [j for j in range(taps) if -length < j * dilation - left < x.shape[1]]
    if not seen:
        return jnp.zeros((x.shape[0], length, kernel.shape[2]), x.dtype)
    kernel = kernel[seen[0] : seen[-1] + 1]
    left -= seen[0] * dilation
    dilation = dilation if len(seen) > 1 else 1
    right = length - x.shape[1] - left + dilation * (len(seen) - 1)
    if backend == "shift":
        offsets = jnp.arange(len(seen)) * dilation - left
        return _shift(x, kernel, offsets, (-left, dilation * (len(seen) - 1) - left), length)
    if backend == "phases":
        return _phases(x, kernel, dilation, (left, right), length)
    return _lax(x, kernel, dilation, (left, right))


def _lax(x: jax.Array, kernel: jax.Array, dilation: int, padding: tuple[int, int]) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1,), [padding], rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
    )


def _phases(x: jax.Array, kernel: jax.Array, dilation: int, padding: tuple[int, int], length: int) -> jax.Array:
    batch, time, features = x.shape
    steps = -(-(time + sum(padding)) // dilation)
    fill = steps * dilation - time - sum(padding)
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (padding[0], padding[1] + fill, 0), (0, 0, 0)))
    x = x.reshape(batch, steps, dilation, features).swapaxes(1, 2).reshape(batch * dilation, steps, features)
    y = _lax(x, kernel, 1, (0, 0))
    return y.reshape(batch, dilation, -1, kernel.shape[2]).swapaxes(1, 2).reshape(batch, -1, kernel.shape[2])[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _shift(x: jax.Array, kernel: jax.Array, offsets: jax.Array, span: tuple[int, int], length: int) -> jax.Array:
    """Returns y[t] = sum_j x[t + offsets[j]] @ kernel[j] for t < `length`. All offsets lie within `span`."""
    shifted = _shifts(x, offsets, span, length)

    def convolve(start, steps, y):
        part = functools.reduce(jnp.add, (shifted(j, start, steps) @ kernel[j] for j in range(kernel.shape[0])))
        return lax.dynamic_update_slice_in_dim(y, part, start, 1) if steps < length else part

    zeros = jnp.zeros((x.shape[0], length, kernel.shape[2]), x.dtype)
    return over_chunks(_widest(zeros), convolve, zeros)


def _widest(y: jax.Array) -> tuple[int, int, int]:
    """Returns the shape of the block around the convolution's result `y`, which is twice as wide."""
    return y.shape[0], y.shape[1], 2 * y.shape[2]


def _shifts(x: jax.Array, offsets: jax.Array, span: tuple[int, int], length: int):
    """Returns a function (j, start, steps) → `steps` of x[offsets[j] + start :], with zeros outside `x`."""
    time = x.shape[1]
    before, after = (min(max(0, n), length) for n in (-span[0], span[1] + length - time))
    x = jnp.pad(x, ((0, 0), (before, after), (0, 0)))
    starts = jnp.clip(offsets + before, 0, before + time + after - length)
    return lambda j, start, steps: lax.dynamic_slice_in_dim(x, starts[j] + start, steps, 1)


def over_chunks(shape: tuple[int, ...], body: Callable[[Any, int, Any], Any], carry: Any) -> Any:
    """Computes carry = body(start, steps, carry) over consecutive chunks of time, to keep the arrays of `body` small.

    `shape` (batch, time, features) is the shape of the widest of these arrays over all time.
    """
    batch, time, features = shape
    size = cpu.chunk_length(time, batch * features)
    count, rest = divmod(time, size)
    if count > 1:
        carry = lax.fori_loop(0, count, lambda i, carry: body(i * size, size, carry), carry)
    else:
        carry = body(0, size, carry)
    return body(count * size, rest, carry) if rest else carry


def _shift_backward(span, length, kept, dy):
    x, kernel, offsets = kept
    dx = _shift(dy, kernel.swapaxes(1, 2), -offsets, (-span[1], -span[0]), x.shape[1])
    shifted = _shifts(x, offsets, span, length)

    def collect(start, steps, total):
        part = lax.dynamic_slice_in_dim(dy, start, steps, 1)
        return total + jnp.stack([jnp.einsum("bto,bti->oi", part, shifted(j, start, steps)) for j in range(kernel.shape[0])])

    # (out, in), because then all taps share one turned dy.
    total = over_chunks(_widest(dy), collect, jnp.zeros_like(kernel.swapaxes(1, 2)))
    return dx, total.swapaxes(1, 2), None


_shift.defvjp(lambda x, kernel, offsets, *how: (_shift(x, kernel, offsets, *how), (x, kernel, offsets)), _shift_backward)
