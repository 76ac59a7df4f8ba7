"""Train, evaluate and report: `python -m genre_jax.main --config=configs/bytenet.py[:preset,key=value…]`."""

import sys
from pathlib import Path

from absl import app, flags

from genre_jax import console

CONFIG = flags.DEFINE_string("config", None, "Config file, with presets and key=value after a colon.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept; default runs/CONFIG-NAME.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print parameters, memory, steps per epoch and ETA, then stop.")
OVERFIT = flags.DEFINE_bool("overfit_one_batch", False, "Train on the first batch alone: a check of model and loss.")
PROFILE = flags.DEFINE_bool("profile", False, "Write a profile of steps 10 to 20 into WORKDIR/profile.")


def parse_flags(argv: list[str]) -> list[str]:
    """absl's flags; `--config.KEY=VALUE` is kept apart for the config, which knows its own keys."""
    own = [argument for argument in argv if not argument.lstrip("-").startswith("config.")]
    rest = app.parse_flags_with_usage(own)
    return rest + [argument for argument in argv if argument not in own]


def overrides(arguments: list[str]) -> dict[str, str]:
    """{"train.batch_size": "8"} of ["--config.train.batch_size=8"]."""
    values = {}
    for argument in arguments:
        key, equals, value = argument.lstrip("-").removeprefix("config.").partition("=")
        if not equals or not argument.startswith("--config."):
            raise console.UserError(f"unknown argument {argument!r}: config keys are set as --config.KEY=VALUE")
        values[key] = value
    return values


def main(argv: list[str]) -> None:
    """Check the config, then train, evaluate and report."""
    import jax

    from genre_jax import config as configs
    from genre_jax import train

    if CONFIG.value is None:
        raise console.UserError("--config is missing: give a config file, such as --config=configs/bytenet.py:demo")
    config = configs.load(CONFIG.value, overrides(argv[1:]))
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    if DRY_RUN.value:
        train.dry_run(config)
        return
    if OVERFIT.value:
        train.overfit_one_batch(config)
        return
    workdir = Path(WORKDIR.value or Path("runs") / config.name)
    train.train_and_evaluate(config, workdir, PROFILE.value)
    if jax.process_index() == 0:
        report(workdir)


def report(workdir: Path) -> None:
    """Write the report page, where what it needs is installed."""
    from genre_jax import report as page

    try:
        page.write_report([workdir], workdir / "report")
    except console.UserError as error:
        console.say(f"no report: {error}")
    else:
        console.say(f"report: {workdir / 'report' / 'index.html'}")


if __name__ == "__main__":
    sys.modules.setdefault("genre_jax.main", sys.modules["__main__"])
    console.run(main, parse_flags)
