"""Checks of a config before a run: what the run costs, and whether its network can learn one batch."""

import time

import jax
from ml_collections import ConfigDict

from genre_jax import gmm, models
from genre_jax.console import UserError, say
from genre_jax.logbook import clock
from genre_jax.planning.memory import Needs
from genre_jax.run import Run


def dry_run(config: ConfigDict, timed_steps: int = 3) -> None:
    """Print parameters, reach, memory, steps per epoch and ETA of a run: it compiles the step and times `timed_steps` of it."""
    run = Run(config)
    program = run.program
    gmm.refuse_steps(config, program.network.model)
    state = run.initial_state()
    batch = program.devices.shard(run.batches(0))
    size = config.train.batch_size
    _row("parameters", f"{models.count(state.params):,}")
    _reach(run)
    _row("steps per epoch", f"{program.clips / size:,.1f} ({program.clips:,} clips in batches of {size})")
    _row("steps in all", f"{program.total:,}")
    step = program.train_step.lower(state, run.constants, batch).compile()
    needs = Needs.of(step)
    _row("memory per device", f"{needs.predicted_bytes / 1e6:,.0f} MB ({needs.temp_bytes / 1e6:,.0f} MB temporary)")
    step = program.runnable(step)
    started = 0.0
    for _ in range(timed_steps + 1):
        state, _ = step(state, run.constants, batch)
        jax.block_until_ready(state)
        started = started or time.perf_counter()  # the first step warms up
    seconds = (time.perf_counter() - started) / timed_steps
    _row("speed", f"{size / seconds:,.1f} clips/s ({seconds:.3f} s per step)")
    _row("ETA", f"{clock(program.total * seconds)} for the steps, without compilation and evaluation")


def _reach(run: Run) -> None:
    """Print the receptive field of the network within a cut, if the network knows it."""
    seen = run.program.reach()
    if seen is None:
        return
    reach, seconds = seen
    fields = {"in all": reach.receptive_field, "within a cut": reach.effective_field}
    shown = (f"{steps:,} steps ({steps * seconds:.3g} s) {where}" for where, steps in fields.items())
    _row("receptive field", ", ".join(shown))
    _row("dead blocks", f"{reach.dead_blocks} of {reach.blocks} (model.cap_dilation=true caps their dilation)")


def _row(label: str, value: str) -> None:
    say(f"{label:<18}{value}")


def overfit_one_batch(config: ConfigDict) -> None:
    """Train on the first batch alone; raise `UserError` unless its loss falls below a tenth of its first value."""
    run = Run(config)
    program = run.program
    gmm.refuse_steps(config, program.network.model)
    state = run.initial_state()
    batch = program.devices.shard(run.batches(0))
    first = loss = float("nan")
    for step in range(1, program.total + 1):
        state, metrics = program.train_step(state, run.constants, batch)
        if step == 1:
            first = float(metrics["loss"])
        if step % run.every["log"] == 0 or step == program.total:
            loss = float(metrics["loss"])
            say(f"step {step}/{program.total}  loss {loss:.4g}  accuracy {float(metrics['accuracy']):.4g}")
    if not loss < 0.1 * first:
        raise UserError(f"one batch was not learned: its loss went from {first:.4g} to {loss:.4g} in {program.total} steps")
    say(f"one batch was learned: its loss went from {first:.4g} to {loss:.4g}")
