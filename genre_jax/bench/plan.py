"""The settings of a config that fit a device: `python -m genre_jax.bench plan --config=configs/bytenet.py --memory=24GiB`.

The benchmark prints for each remat policy the largest batch per device (exact below 200, otherwise to 1 %), the bytes that XLA
plans for its training step, and the FLOPs per clip. Then it prints the flags to use. It compiles the step but runs nothing:
neither the data set nor, with `--target=h100`, the card needs to be on this machine.
"""

import jax
from absl import flags

from genre_jax import config as configs
from genre_jax.bench import targets
from genre_jax.bench.record import write_record
from genre_jax.console import UserError, overrides, parse_flags, say
from genre_jax.logbook import environment
from genre_jax.planning import memory

CONFIG = flags.DEFINE_string(
    "config", None, "Config file or name of a shipped config, with presets and key=value after a colon."
)
TARGET = flags.DEFINE_string("target", None, f"Compile for an absent card: {', '.join(targets.TARGETS)}.")
MEMORY = flags.DEFINE_string("memory", None, "Memory of a device, such as 24GiB or 80GB; default: what a run may use.")
CLASSES = flags.DEFINE_integer("classes", None, "Number of classes; default: from the data set.", lower_bound=1)

__all__ = ["main", "parse_flags"]


def main(argv: list[str]) -> None:
    """Print a row for each policy, and the advice."""
    if CONFIG.value is None:
        raise UserError("--config is missing: give a config file, such as --config=bytenet")
    limit = memory.parse_bytes(MEMORY.value, "--memory") if MEMORY.value else None
    if TARGET.value:
        targets.leave_cards_alone()
    config = configs.load(CONFIG.value, overrides(argv[1:]))
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    if TARGET.value:
        available = targets.use(TARGET.value, config.devices or 1)
        limit = limit or available
    planner = memory.Planner(config, CLASSES.value or memory.count_classes(config), limit)
    say(
        f"{config.name}: {config.model.name}, {planner.classes} classes, {planner.clips} clips per device, "
        f"{memory.show(planner.limit)} per device; the step is compiled at several batches"
    )
    rows = [row(planner, policy) for policy in planner.policies]
    say(f"{'remat':<10}{'largest batch':>15}{'predicted':>14}{'GFLOP per clip':>16}")
    for values in rows:
        size = memory.show(values["predicted_bytes"])
        say(f"{values['remat'] or '-':<10}{values['largest_batch']:>15,}{size:>14}{values['flops_a_clip'] / 1e9:>16,.4g}")
    advice = planner.advise()
    say(advice.sentence)
    settings = {"benchmark": "plan", "config": config.name, "environment": environment(), "target": TARGET.value}
    settings |= {"memory_bytes": planner.limit, "batch": planner.clips}
    write_record(settings | {"rows": rows, "advice": advice._asdict()})


def row(planner: memory.Planner, policy: str | None) -> dict:
    """Return a policy's largest batch per device and its predicted bytes (those of one clip if no batch fits)."""
    batch = planner.largest(policy)
    return {
        "remat": policy,
        "largest_batch": batch,
        "predicted_bytes": planner.bytes(policy, max(batch, 1)),
        "flops_a_clip": planner.flops(policy),
    }
