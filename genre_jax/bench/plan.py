"""What of a config fits a device: `python -m genre_jax.bench plan --config=configs/bytenet.py --memory=24GiB`.

For each remat policy the largest batch a device (from 200 on to a hundredth), the bytes that XLA plans for its training step,
and the FLOPs of matrix products a clip; then what to type. Compiles, and runs nothing: the data need not be there, nor, with
`--target=h100`, the card.
"""

from pathlib import Path

import jax
from absl import flags

from genre_jax import config as configs
from genre_jax.atomic import write_json
from genre_jax.bench import targets
from genre_jax.console import UserError, overrides, parse_flags, say
from genre_jax.logbook import environment
from genre_jax.planning import memory

CONFIG = flags.DEFINE_string("config", None, "Config file, with presets and key=value after a colon.")
TARGET = flags.DEFINE_string("target", None, f"Compile for a card that need not be here: {', '.join(targets.TARGETS)}.")
MEMORY = flags.DEFINE_string("memory", None, "Memory of a device, such as 24GiB or 80GB; by default what a run may take of it.")
CLASSES = flags.DEFINE_integer("classes", None, "Classes, where the data set is not there to tell.", lower_bound=1)
JSON = flags.DEFINE_string("json", None, "Write the rows and the advice to this file too.")

__all__ = ["main", "parse_flags"]


def main(argv: list[str]) -> None:
    """Print a row for each policy, and the advice."""
    if CONFIG.value is None:
        raise UserError("--config is missing: give a config file, such as --config=configs/bytenet.py")
    limit = memory.parse_bytes(MEMORY.value, "--memory") if MEMORY.value else None
    if TARGET.value:
        targets.leave_cards_alone()
    config = configs.load(CONFIG.value, overrides(argv[1:]))
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    if TARGET.value:
        there = targets.use(TARGET.value, config.devices or 1)
        limit = limit or there
    planner = memory.Planner(config, CLASSES.value or memory.count_classes(config), limit)
    say(
        f"{config.name}: {config.model.name}, {planner.classes} classes, {planner.own} clips a device, "
        f"{memory.show(planner.limit)} a device; the step is compiled at several batches"
    )
    rows = [row(planner, policy) for policy in planner.policies]
    say(f"{'remat':<10}{'largest batch':>15}{'predicted':>14}{'GFLOP a clip':>16}")
    for one in rows:
        size = memory.show(one["predicted_bytes"])
        say(f"{one['remat'] or '-':<10}{one['largest_batch']:>15,}{size:>14}{one['flops_a_clip'] / 1e9:>16,.4g}")
    advice = planner.advise()
    say(advice.sentence)
    if JSON.value:
        record = {"benchmark": "plan", "config": config.name, "environment": environment(), "target": TARGET.value}
        record |= {"memory_bytes": planner.limit, "batch": planner.own, "rows": rows, "advice": advice._asdict()}
        Path(JSON.value).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(JSON.value), record)


def row(planner: memory.Planner, policy: str | None) -> dict:
    """The largest batch a device under a policy and its predicted bytes (of one clip where none fits)."""
    batch = planner.largest(policy)
    return {
        "remat": policy,
        "largest_batch": batch,
        "predicted_bytes": planner.bytes(policy, max(batch, 1)),
        "flops_a_clip": planner.flops(policy),
    }
