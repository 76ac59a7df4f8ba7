"""Explain a training step whose loss or gradient is not finite: `python -m genre_jax.main --replay=DUMP`.

A run that stops at such a step leaves the folder DUMP, which `dump` writes: the state before the step and the batch. `replay`
takes the step again, and names the first stage, from the audio to the gradient, that holds NaN or infinity.
"""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from genre_jax import atomic, forward, hosts, placing, run, train
from genre_jax import config as configs
from genre_jax.augment import waveform as augment
from genre_jax.checkpoint import named
from genre_jax.console import UserError, say
from genre_jax.weights.files import listed, not_finite

FILES = ("config.json", "step.json", "batch.npz", "state.npz")


def dump(folder: Path, work: run.Run, state: train.TrainState, step: int, metrics: dict[str, Any]) -> list[str]:
    """Write the state before `step`, the batch and the metrics of the step to `folder`; return the names of its clips.

    All hosts call this, and the first one writes.
    """
    batch, state = work.program.devices.gather_rows(work.batches(step - 1)), placing.to_host(state)
    index = work.splits["train"]
    clips = [index.names[clip] for clip in batch["clip"]]
    if not hosts.is_first():
        return clips
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "step": step,
        "metrics": {key: float(value).hex() for key, value in metrics.items()},  # JSON has no NaN
        "labels": list(index.classes),
        "clips_per_epoch": work.program.clips,
        "clips": clips,
    }
    atomic.write_json(folder / "config.json", configs.to_json(work.config))
    atomic.write_json(folder / "step.json", about)
    arrays = batch | {"class_weights": work.constants["class_weights"]}
    for name, content in (("batch.npz", arrays), ("state.npz", named(state))):
        with atomic.write_whole(folder / name) as file:
            np.savez(file, allow_pickle=False, **{key: np.asarray(value) for key, value in content.items()})
    return clips


def replay(folder: Path) -> None:
    """Take the step in `folder` again, compare its loss, and print the first stage that is not finite.

    Raises `UserError` if `folder` is not complete.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise UserError(f"{str(folder)!r} is not the dump of a step that is not finite: it lacks {', '.join(missing)}")
    config = configs.read_json(folder / "config.json")
    about = atomic.read_json(folder / "step.json", dict)
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    program = run.Program(config, run.devices_of(config), len(about["labels"]), about["clips_per_epoch"])
    abstract = program.shapes()[0]
    with np.load(folder / "batch.npz") as batch_file, np.load(folder / "state.npz") as state_file:
        batch, arrays = dict(batch_file), dict(state_file)
    constants = program.constants_of(batch.pop("class_weights"), tuple(about["labels"]))
    state = jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in named(abstract)])
    devices = program.devices
    _, metrics = program.train_step(devices.replicate(state), devices.replicate(constants), devices.shard(batch))
    now = {key: float(metrics[key]) for key in ("loss", "gradient_norm")}
    then = {key: float.fromhex(about["metrics"][key]) for key in now}
    say(
        f"step {about['step']} of {config.name}, now and in the run: "
        + ", ".join(f"{k} {now[k]:g} and {then[k]:g}" for k in now)
    )
    if all(np.isfinite(now[key]) == np.isfinite(then[key]) for key in now):
        say(explain(program, config, state, constants, batch, about["clips"]))
    else:
        say("the step is not reproduced on this machine")


def explain(
    program: "run.Program", config: ConfigDict, state: train.TrainState, constants: Any, batch: dict, clips: list[str]
) -> str:
    """Return a sentence on the first stage of a training step that is not finite."""
    if bad := not_finite({name: leaf for name, leaf in named(state).items() if not name.startswith("opt_state")}):
        return f"the state before the step is not finite already: {listed(bad)}; the update of the step before was too large"
    network = forward.build(config, program.classes)
    waveform = network.waveform(batch)
    if bad := _rows(waveform, clips):
        return f"the audio is not finite, of {listed(bad)}"
    step = dataclasses.replace(program.step, network=network, axis_name=None)
    inputs = step.inputs(state, constants, batch)
    if bad := _rows(inputs["features"], clips):
        return f"the features of the front end {config.frontend.name!r} are not finite after augmentation, of {listed(bad)}"
    keys = augment.example_keys(constants["dropout_key"], inputs["visit"], inputs["clip"], inputs["variant"])
    if layer := first_layer(network, state, inputs, keys):
        return f"the first layer whose output is not finite is {layer}; its input is finite"

    def value(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _, _ = network.logits(variables, inputs["features"], train=True, mask=inputs["mask"], keys=keys)
        return step.loss.values(logits, inputs["targets"], constants["class_weights"])

    if bad := _rows(value(state.params), clips):
        return f"the loss is not finite, of {listed(bad)}; the logits are finite"
    gradient = jax.jit(jax.grad(lambda params: value(params).sum()))(state.params)
    if bad := not_finite(named(gradient)):
        return f"the gradient is not finite, of {listed(bad)}; the loss is finite"
    return "every stage is finite when one device computes the whole batch; the sum over devices or the gradient norm is not"


def first_layer(network: forward.Forward, state: train.TrainState, inputs: dict, keys: Any) -> str:
    """The path and type of the first layer whose output is not finite in the forward pass; "" if all are finite."""
    found: list[str] = []

    def watch(call, arguments, options, context):
        output = call(*arguments, **options)
        if context.method_name == "__call__" and not found and not_finite(named(output)):
            found.append(f"{'/'.join(context.module.path) or 'the network'} ({type(context.module).__name__})")
        return output

    variables = {"params": state.params, "batch_stats": state.batch_stats}
    with nn.intercept_methods(watch), jax.disable_jit():  # so that every output is an array
        network.logits(variables, inputs["features"], train=True, mask=inputs["mask"], keys=keys)
    return found[0] if found else ""


def _rows(values: Any, clips: list[str]) -> list[str]:
    """The clips whose row of `values` (batch, …) is not finite."""
    finite = np.isfinite(np.asarray(values, np.float64)).reshape(len(values), -1).all(1)
    return [clip for clip, whole in zip(clips, finite, strict=True) if not whole]
