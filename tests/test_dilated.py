"""Dilated convolution: every backend against the definition, in output and both gradients, in float64 and float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre_jax.console import UserError
from genre_jax.models.bytenet.dilated import BACKENDS, dilated_conv, same_padding

RNG = np.random.default_rng(0)
TIME = 41
DILATIONS = [2**i for i in range(14)]  # most of them longer than the sequence


def definition(x, kernel, dilation, padding):
    """The sum over taps in float64, and for a weight `g` of the outputs the gradients of their weighted sum."""
    left, right = padding
    taps, time = kernel.shape[0], x.shape[1]
    length = time + left + right - dilation * (taps - 1)
    y = np.zeros((x.shape[0], length, kernel.shape[2]))
    pairs = []
    for j in range(taps):
        offset = j * dilation - left
        start, stop = max(0, -offset), min(length, time - offset)
        if start < stop:
            y[:, start:stop] += x[:, start + offset : stop + offset] @ kernel[j]
            pairs.append((j, slice(start, stop), slice(start + offset, stop + offset)))

    def gradients(g):
        dx, dk = np.zeros_like(x), np.zeros_like(kernel)
        for j, to, of in pairs:
            dx[:, of] += g[:, to] @ kernel[j].T
            dk[j] += np.einsum("bti,bto->io", x[:, of], g[:, to])
        return dx, dk

    return y, gradients


def with_gradients(convolve):
    """The compiled function (x, kernel, g, *dilation) → output and both gradients of `convolve(x, kernel, *dilation)`."""

    @jax.jit
    def run(x, kernel, g, *dilation):
        y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, *dilation), x, kernel)
        return y, *pull(g)

    return run


def check(x, kernel, dilation, padding, dtype, run, *arguments):
    y, gradients = definition(x, kernel, dilation, padding)
    g = RNG.normal(size=y.shape)
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    ours = run(*(jnp.asarray(value, dtype) for value in (x, kernel, g)), *arguments)
    for one, other in zip(ours, (y, *gradients(g)), strict=True):
        assert one.dtype == dtype and one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1, np.abs(other).max()))


def cases(taps: int, causal: bool, dilations):
    """(dilation, padding, x, kernel), in batches of 3 and of 1."""
    for dilation in dilations:
        batch = 1 if dilation in (4, 32) else 3
        x, kernel = RNG.normal(size=(batch, TIME, 4)), RNG.normal(size=(taps, 4, 3))
        yield dilation, same_padding(dilation, taps, causal), x, kernel


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("taps", "causal"), [(3, True), (5, True), (2, False), pytest.param(3, False, marks=pytest.mark.slow)])
class TestBackends:
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_equals_the_definition(self, backend, causal, taps, dtype):
        # Beyond 64 the program is the same, and each costs a compilation.
        dilations = (*DILATIONS[:7:2], 8192) if dtype == "float64" else (1, 32, 8192)
        with jax.enable_x64(dtype == "float64"):
            for dilation, padding, x, kernel in cases(taps, causal, dilations):
                run = with_gradients(functools.partial(dilated_conv, dilation=dilation, padding=padding, backend=backend))
                check(x, kernel, dilation, padding, dtype, run)

    def test_one_program_serves_every_traced_dilation(self, causal, taps, dtype):
        before, after = same_padding(DILATIONS[-1], taps, causal)

        def convolve(x, kernel, dilation):
            padding = same_padding(dilation, taps, causal)
            return dilated_conv(x, kernel, dilation, padding, backend="shift", span=(-before, after), length=TIME)

        run = with_gradients(convolve)
        with jax.enable_x64(dtype == "float64"):
            for dilation, padding, x, kernel in cases(taps, causal, DILATIONS):
                check(x, kernel, dilation, padding, dtype, run, jnp.int32(dilation))
            assert run._cache_size() <= 2  # of batch 1 and 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "padding", [(0, 0), (60, 2), (70, 60), *(pytest.param(ends, marks=pytest.mark.slow) for ends in ((3, 0), (0, 5), (1, 70)))]
)
def test_any_padding(backend, padding):
    x, kernel = RNG.normal(size=(2, TIME, 3)), RNG.normal(size=(3, 3, 2))
    with jax.enable_x64(True):
        for dilation in (1, 7, 20):
            run = with_gradients(functools.partial(dilated_conv, dilation=dilation, padding=padding, backend=backend))
            check(x, kernel, dilation, padding, "float64", run)


def test_dead_taps_cost_nothing():
    """Beyond the sequence the middle tap is left, whatever the dilation."""
    x, kernel = jnp.ones((1, 41, 4)), jnp.ones((3, 4, 4))
    for backend in BACKENDS:

        def flops(dilation, backend=backend):
            def convolve(x, k):
                return dilated_conv(x, k, dilation, same_padding(dilation, 3, False), backend=backend)

            return jax.jit(convolve).lower(x, kernel).compile().cost_analysis()["flops"]

        assert flops(8192) <= flops(1) / 2


def test_one_sentence_for_what_cannot_be():
    x, kernel = jnp.ones((1, 9, 2)), jnp.ones((3, 2, 2))
    with pytest.raises(UserError, match=r"^unknown convolution backend 'fft': choose one of lax, phases, shift$"):
        dilated_conv(x, kernel, 1, (1, 1), backend="fft")
    with pytest.raises(UserError, match=r"^3 taps at dilation 5 need at least 11 steps with padding, not 9$"):
        dilated_conv(x, kernel, 5, (0, 0))
    with pytest.raises(UserError, match=r"^a traced dilation needs backend 'shift', span and length, not 'lax', None and None"):
        jax.eval_shape(lambda d: dilated_conv(x, kernel, d, (0, 0)), jnp.int32(1))
