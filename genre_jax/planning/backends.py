"""Choose the backend that computes ByteNet's dilated convolutions fastest on this machine.

With `model.backend=timed`, `main` times the backends before it builds the network, and then continues as if the config had
named the fastest backend. The result is stored in the workdir, and a resumed run reads it there, because the outputs of the
backends differ in their last digits.
"""

import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from genre_jax import hosts, run
from genre_jax.atomic import write_json
from genre_jax.console import say
from genre_jax.models.bytenet.dilated import BACKENDS, dilated_conv, same_padding

PASSES = ("forward", "input_gradient", "weight_gradient")


def programs(backend: str, dilation: int, furthest: int, steps: int, taps: int) -> dict[str, Callable]:
    """Return for each pass a jitted function of (x, kernel, dy): a centred convolution that keeps the length `steps` of `x`.

    `shift` receives its dilation (at most `furthest`) as a traced argument, as it does in the network's scan over blocks. The
    other backends compile it in.
    """

    def convolve(at, x, kernel):
        before, after = (int(n) for n in same_padding(furthest, taps, causal=False))
        padding = same_padding(at, taps, causal=False)
        return dilated_conv(x, kernel, at, padding, backend=backend, span=(-before, after), length=steps)

    def jitted(function):
        if backend == "shift":
            return functools.partial(jax.jit(function), jnp.asarray(dilation, jnp.int32))
        return jax.jit(functools.partial(function, dilation))

    return {
        "forward": jitted(lambda at, x, kernel, dy: convolve(at, x, kernel)),
        "input_gradient": jitted(lambda at, x, kernel, dy: jax.vjp(lambda x: convolve(at, x, kernel), x)[1](dy)[0]),
        "weight_gradient": jitted(lambda at, x, kernel, dy: jax.vjp(lambda kernel: convolve(at, x, kernel), kernel)[1](dy)[0]),
    }


def seconds(
    dilations: tuple[int, ...], batch: int, steps: int, width: int, taps: int, dtype: Any, repeats: int = 5
) -> Iterator[dict[str, Any]]:
    """Yield a row for each dilation and pass: {"dilation", "pass", backend: median seconds of `repeats` calls, "first_s"}.

    "first_s" is {backend: seconds of the first call, which compiles}. The backends are called in turn, so that other load on
    the machine slows all of them.
    """
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.normal(size=(batch, steps, width)), dtype) for _ in range(2))
    kernel = jnp.asarray(rng.normal(size=(taps, width, width)), dtype)
    for dilation in dilations:
        passes = {backend: programs(backend, dilation, max(dilations), steps, taps) for backend in BACKENDS}
        for name in PASSES:
            times: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
            for _ in range(repeats + 1):
                for backend in BACKENDS:
                    started = time.perf_counter()
                    jax.block_until_ready(passes[backend][name](x, kernel, dy))
                    times[backend].append(time.perf_counter() - started)
            medians: dict[str, Any] = {backend: statistics.median(values[1:]) for backend, values in times.items()}
            first = {backend: values[0] for backend, values in times.items()}
            yield {"dilation": dilation, "pass": name} | medians | {"first_s": first}


def choose(config: ConfigDict, workdir: Path | None) -> ConfigDict:
    """Return the config with `model.backend` "timed" replaced by the fastest backend; other configs return unchanged.

    The backends are timed on the network's longest sequence, with as many clips as a device processes at a time, at the
    smallest, the middle and the largest dilation there. The backend with the smallest sum over dilations and passes wins. All
    hosts use the result of the first host. If `workdir` is given, its `backends.json` stores the result.
    """
    if config.model.get("backend") != "timed":
        return config
    path = workdir / "backends.json" if workdir else None
    fastest = hosts.broadcast(lambda: json.loads(path.read_text())["fastest"] if path and path.exists() else "")
    if fastest:
        say(f"backend of the dilated convolutions: {fastest}, from the timing in {path}")
    else:
        devices = run.devices_of(config)
        clips = config.train.batch_size // (len(devices.all) // devices.time_shards) // config.train.accumulate
        reach = run.Program(config, devices, 2, config.train.batch_size).reach()
        assert reach is not None, "every network with a backend has a reach"
        longest = max(reach[0].sets, key=lambda block_set: block_set.length)
        sample = sorted({longest.dilations[at] for at in (0, len(longest.dilations) // 2, -1)})
        say(f"timing the backends of the dilated convolution on {clips} × {longest.length} steps, dilations {sample}")
        model = config.model
        dtype = jnp.dtype(config.dtype)
        rows = list(seconds(tuple(sample), max(clips, 1), longest.length, model.width, model.kernel, dtype))
        totals = {backend: sum(row[backend] for row in rows) for backend in BACKENDS}
        fastest = hosts.broadcast(lambda: min(totals, key=totals.__getitem__))
        say(", ".join(f"{backend} {total * 1e3:.1f} ms" for backend, total in totals.items()) + f": {fastest} is fastest")
        if path and hosts.is_first():
            path.parent.mkdir(parents=True, exist_ok=True)
            device = jax.devices()[0].device_kind
            write_json(path, {"fastest": fastest, "device": device, "clips": clips, "steps": longest.length, "rows": rows})
    config = config.copy_and_resolve_references()
    config.model.backend = fastest
    return config
