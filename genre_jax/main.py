"""Train, evaluate and report: `python -m genre_jax.main --config=configs/bytenet.py[:preset,key=value…]`."""

import sys
import traceback
from pathlib import Path

from absl import flags

from genre_jax import console

CONFIG = flags.DEFINE_string(
    "config", None, "Config file or name of a shipped config, with presets and key=value after a colon."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run is kept, a folder or a folder in a bucket; default runs/CONFIG-NAME."
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print parameters, reach, memory, steps per epoch and ETA, then stop.")
OVERFIT = flags.DEFINE_bool("overfit_one_batch", False, "Train on the first batch alone: a check of model and loss.")
CACHE = flags.DEFINE_string(
    "compilation_cache", None, "Keep compiled programs in this folder, from which a second start reads them."
)
REPLAY = flags.DEFINE_string(
    "replay",
    None,
    "Explain a step whose loss was not finite: the folder WORKDIR/nonfinite that the run left. Needs no --config.",
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Train on several hosts that SLURM, a TPU pod, Kubernetes or Open MPI started; JAX finds them."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, to train with several processes elsewhere.")
PROCESSES = flags.DEFINE_integer("processes", None, "With --coordinator: number of processes.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: number of this process, from 0.", lower_bound=0)
START_TIMEOUT = flags.DEFINE_integer(
    "start_timeout", 300, "Seconds in which all processes of the run must have started.", lower_bound=1
)
PROFILE = flags.DEFINE_bool("profile", False, "Write a profile of steps 10 to 20 into WORKDIR/profile.")


def main(argv: list[str]) -> None:
    """Join the other hosts, check the config, then train, evaluate and report."""
    from genre_jax import hosts

    explicit = (COORDINATOR.value, PROCESSES.value, PROCESS_ID.value)
    if DISTRIBUTED.value or explicit != (None, None, None):
        hosts.start(*explicit, START_TIMEOUT.value)
    with hosts.together():
        checked(argv)


def checked(argv: list[str]) -> None:
    """Check the config, and do what the flags say."""
    import jax

    from genre_jax import config as configs
    from genre_jax import replay
    from genre_jax.planning import memory

    if REPLAY.value:
        replay.replay(Path(REPLAY.value))
        return
    if CONFIG.value is None:
        raise console.UserError("--config is missing: give a config file, such as --config=bytenet:demo")
    if CACHE.value:  # it has no effect after the first compilation
        jax.config.update("jax_compilation_cache_dir", CACHE.value)
    config = configs.load(CONFIG.value, console.overrides(argv[1:]))
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    try:
        work(config)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not memory.ran_out(error):
            raise
        traceback.clear_frames(error.__traceback__)  # the frames hold the arrays that fill the memory
        raise console.UserError(memory.advice(config, error)) from error


def work(config) -> None:
    """Do what the flags say: a dry run, a check, or a whole run."""
    from genre_jax import dry_run, hosts, loop, mirror, run
    from genre_jax.planning import backends

    if DRY_RUN.value or OVERFIT.value:
        config = backends.choose(run.resolved(config), None).copy_and_resolve_references()
        config.head.start = "random"  # a fitted classifier changes nothing that is checked here
        dry_run.dry_run(config) if DRY_RUN.value else dry_run.overfit_one_batch(config)
        return
    with mirror.opened(WORKDIR.value or f"runs/{config.name}") as (workdir, place):
        loop.train_and_evaluate(config, workdir, PROFILE.value, place)
        if hosts.is_first():
            report(workdir)


def report(workdir: Path) -> None:
    """Write the report page, if the packages that it needs are installed."""
    from genre_jax.report import page

    try:
        page.write_report([workdir], workdir / "report")
    except console.UserError as error:
        console.say(f"no report: {error}")
    else:
        console.say(f"report: {workdir / 'report' / 'index.html'}")


if __name__ == "__main__":
    sys.modules.setdefault("genre_jax.main", sys.modules["__main__"])
    console.run(main, console.parse_flags)
