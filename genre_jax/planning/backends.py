"""Which backend computes ByteNet's dilated convolutions fastest here: a short timing, kept with the run.

`model.backend=timed` asks for it. `main` times the backends before it builds the network, and goes on as if the fastest had
been named. A run that is resumed keeps what it began with: backends differ in the last digits.
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
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from genre_jax import run
from genre_jax.atomic import write_json
from genre_jax.console import say
from genre_jax.models.bytenet.dilated import BACKENDS, dilated_conv, same_padding

PASSES = ("forward", "input_gradient", "weight_gradient")


def programs(backend: str, dilation: int, furthest: int, steps: int, taps: int) -> dict[str, Callable]:
    """Pass → jitted function of (x, kernel, dy), of a centred convolution that keeps the `steps` of `x`.

    `shift` gets its dilation when it runs, one of up to `furthest`, as a scan over blocks gives it.
    """

    def convolve(at, x, kernel):
        before, after = (int(n) for n in same_padding(furthest, taps, causal=False))
        padding = same_padding(at, taps, causal=False)
        return dilated_conv(x, kernel, at, padding, backend=backend, span=(-before, after), length=steps)

    def own(function):
        if backend == "shift":
            return functools.partial(jax.jit(function), jnp.asarray(dilation, jnp.int32))
        return jax.jit(functools.partial(function, dilation))

    return {
        "forward": own(lambda at, x, kernel, dy: convolve(at, x, kernel)),
        "input_gradient": own(lambda at, x, kernel, dy: jax.vjp(lambda x: convolve(at, x, kernel), x)[1](dy)[0]),
        "weight_gradient": own(lambda at, x, kernel, dy: jax.vjp(lambda kernel: convolve(at, x, kernel), kernel)[1](dy)[0]),
    }


def seconds(
    dilations: tuple[int, ...], batch: int, steps: int, width: int, taps: int, dtype: Any, repeats: int = 5
) -> Iterator[dict[str, Any]]:
    """A row for each dilation and pass: {"dilation", "pass", backend: median seconds of `repeats` calls, in turn}."""
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.normal(size=(batch, steps, width)), dtype) for _ in range(2))
    kernel = jnp.asarray(rng.normal(size=(taps, width, width)), dtype)
    for dilation in dilations:
        made = {backend: programs(backend, dilation, max(dilations), steps, taps) for backend in BACKENDS}
        for name in PASSES:
            taken: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
            for repeat in range(repeats + 1):
                for backend in BACKENDS:
                    started = time.perf_counter()
                    jax.block_until_ready(made[backend][name](x, kernel, dy))
                    if repeat:  # the first call compiles
                        taken[backend].append(time.perf_counter() - started)
            yield {"dilation": dilation, "pass": name} | {b: statistics.median(values) for b, values in taken.items()}


def choose(config: ConfigDict, workdir: Path | None) -> ConfigDict:
    """The config with the fastest backend in the place of "timed"; `backends.json` of the workdir, if one is given, keeps it.

    Timed at the network's longest sequence and the clips that a device gets at a time, over its smallest, middle and largest
    dilation there: the sum over passes counts. All hosts take what the first one found.
    """
    if config.model.get("backend") != "timed":
        return config
    path = workdir / "backends.json" if workdir else None
    if path and path.exists():
        fastest = json.loads(path.read_text())["fastest"]
        say(f"backend of the dilated convolutions: {fastest}, as timed when {workdir} began")
    else:
        devices = run.devices_of(config)
        clips = config.train.batch_size // (len(devices.all) // devices.time_shards) // config.train.accumulate
        reach = run.Program(config, devices, 2, config.train.batch_size).reach()
        assert reach is not None, "every network with a backend knows its reach"
        longest = max(reach[0].sets, key=lambda one: one.length)
        few = sorted({longest.dilations[at] for at in (0, len(longest.dilations) // 2, -1)})
        say(f"timing the backends of the dilated convolution, {clips} × {longest.length} steps, dilations {few}")
        model = config.model
        dtype = jnp.dtype(config.dtype)
        rows = list(seconds(tuple(few), max(clips, 1), longest.length, model.width, model.kernel, dtype))
        totals = {backend: sum(row[backend] for row in rows) for backend in BACKENDS}
        found = multihost_utils.broadcast_one_to_all(np.argmin(list(totals.values())))
        fastest = BACKENDS[int(found)]
        say(", ".join(f"{backend} {total * 1e3:.1f} ms" for backend, total in totals.items()) + f": {fastest} is taken")
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            device = jax.devices()[0].device_kind
            write_json(path, {"fastest": fastest, "device": device, "clips": clips, "steps": longest.length, "rows": rows})
    config = config.copy_and_resolve_references()
    config.model.backend = fastest
    return config
