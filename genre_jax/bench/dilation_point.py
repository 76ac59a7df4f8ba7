"""One point of `bench dilation`, in a separate process whose memory and compilation belong to this point alone.

`python -m genre_jax.bench.dilation_point measure '{"max_dilation": 512, …}'` prints a line of JSON for each new part of the
row. `check` takes a list of points, ends with an error if a point is illegal, and prints the environment.
"""

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from genre_jax import config as configs
from genre_jax import console, run, train
from genre_jax.bench import resident, targets
from genre_jax.logbook import environment
from genre_jax.models.bytenet.network import resolve_backend
from genre_jax.planning import memory
from genre_jax.planning.flops import flops

SAMPLE_RATE, CLASSES = 16_000, 67

# The network of `--dry_run`.
TINY: dict[str, Any] = {"width": 4, "strides": [16], "decoder_sets": 1}


def config_of(point: dict[str, Any]) -> ConfigDict:
    """Return the config of a point, with the loss, optimiser, schedule and augmentation of configs/bytenet.py:thesis."""
    config = configs.base("dilation")
    config.dtype, config.devices = point["dtype"], point["time_shards"]
    config.data.update(sample_rate=SAMPLE_RATE, samples=round(point["seconds"] * SAMPLE_RATE), labels="first")
    config.augment.gain_cap = 0.7
    config.train.update(batch_size=point["batch"], accumulate=point["batch"] // point["micro_batch"])
    network = {key: point[key] for key in ("max_dilation", "remat", "backend", "time_shards")}
    network |= TINY if point["dry_run"] else {"width": point["width"]}
    configs.choose(config, "model", "bytenet", **network)
    configs.choose(config, "optimizer", "amsgrad")
    configs.choose(config, "schedule", "multistep", learning_rate=1e-4, boundaries=["70 epochs"], gamma=0.4)
    configs.validate(config)
    return config


def check(points: list[dict[str, Any]]) -> None:
    """Raise `UserError` if a point is illegal; print the environment, which all points share."""
    for point in points:
        config_of(point)
    print_update({"environment": environment()})


def measure(point: dict[str, Any], update: Callable[[dict[str, Any]], None]) -> None:
    """Compile a point's training step, and time it unless `plan_only` is set. Pass each new part of the row to `update`."""
    config = config_of(point)
    program = run.Program(config, run.devices_of(config), CLASSES, clips=point["batch"])
    update({"backend": resolve_backend(config.model.backend)})
    shapes = program.shapes()
    reach = program.reach()
    assert reach
    parameters = memory.tree_bytes(shapes[0].params)
    update(
        {
            "gradient_bytes": parameters,  # a gradient has the shape and type of its parameter
            "parameter_bytes": parameters,
            "optimizer_bytes": memory.tree_bytes(shapes[0].opt_state),
            "receptive_field_samples": reach[0].receptive_field,
            "effective_field_samples": reach[0].effective_field,
            "flops": flops(program.train_step, *shapes),
        }
    )
    try:
        lowered = program.train_step.lower(*shapes)
        started = time.perf_counter()
        compiled = lowered.compile()
        needs = memory.Needs.of(compiled)
        update({"compile_seconds": time.perf_counter() - started, "predicted_bytes": needs.predicted_bytes})
        update({key: value for key, value in needs._asdict().items() if key != "aliased_bytes"})
        if not point["plan_only"]:
            update(_run(program, compiled, point["steps"]))
        update({"status": "ok"})
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not memory.ran_out(error):
            raise
        update({"status": "out of memory"})


def _run(program: run.Program, compiled: Any, steps: int) -> dict[str, Any]:
    """Run the compiled step on random weights and audio; return its time and memory."""
    state = program.devices.replicate(random_state(program))
    constants = program.devices.replicate(program.constants_of(np.ones(CLASSES), ()))
    batch = random_batch(program)
    with contextlib.suppress(OSError):
        resident.reset_peak()
    times = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        state, metrics = compiled(state, constants, batch)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times[1:])  # the first step warms up
    size = program.config.train.batch_size
    return {"measured_bytes": _peak(), "step_seconds": seconds, "clips_per_second": size / seconds}


def random_state(program: run.Program) -> train.TrainState:
    """Return a state with random weights from NumPy, because the network's initialisers take long to compile."""
    rng = np.random.default_rng(0)
    shapes = program.shapes()[0]
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return state.replace(params=jax.tree.map(lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(leaf.dtype), shapes.params))


def random_batch(program: run.Program) -> dict[str, np.ndarray]:
    """Return a batch of noise in the layout of the devices; each clip has one random label."""
    rng = np.random.default_rng(0)
    batch = {key: np.zeros(shape.shape, shape.dtype) for key, shape in program.shapes()[2].items()}
    batch["audio"] = rng.integers(-9000, 9000, batch["audio"].shape, np.int16)
    batch["labels"] = np.eye(CLASSES, dtype=np.uint8)[rng.integers(CLASSES, size=batch["labels"].shape[:-1])]
    batch["clip"] = np.arange(batch["clip"].size, dtype=np.int32).reshape(batch["clip"].shape)
    batch["mask"] += 1
    return batch


def _peak() -> int | None:
    """Return the peak bytes of the device, or of the process if the device does not count, or None if neither is known."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    with contextlib.suppress(OSError):
        return resident.peak()
    return None


def print_update(values: dict[str, Any]) -> None:
    """Print values as a line of JSON."""
    console.say(json.dumps(values))


def main(argv: list[str]) -> None:
    """Run the task `check` or `measure` (first argument) on the JSON of the second argument."""
    task, argument = argv[1], json.loads(argv[2])
    with contextlib.suppress(OSError):  # if memory runs out, Linux kills this process and not its parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    jax.config.update("jax_enable_compilation_cache", False)  # it would falsify the compile time
    first = argument[0] if task == "check" else argument
    jax.config.update("jax_num_cpu_devices", first["time_shards"])
    jax.config.update("jax_enable_x64", first["dtype"] == "float64")
    if first["target"]:
        targets.use(first["target"], first["time_shards"])
    if task == "check":
        check(argument)
    else:
        measure(argument, print_update)


if __name__ == "__main__":
    try:
        main(sys.argv)
    except console.UserError as error:
        console.fail(error)
