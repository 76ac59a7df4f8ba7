"""Run a config once for each fold of a cross-validation, for each seed, or both, and print mean ± standard deviation.

    python launch/repeat.py --config=FILE:presets --workdir=DIR --folds=K [--seeds=N] [--only=I] [--config.KEY=VALUE …]

Folds: the data set has the splits fold0 … fold(K-1) (`python -m genre_jax.prepare … --split=folds:K`). Run i is tested on
fold i, validated on fold i + 1 and trained on the others. If the config has no validation, or with --novalidation, it is
trained on all other folds. Seeds: the runs have the seeds 0 … N-1. The same command goes on after a stop, and keeps finished
runs. With --only=I it does run number I alone, from 0, so that several machines can share the runs (launch/slurm_array.sh).
"""

import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import child
from absl import flags

from genre_jax import console, lock
from genre_jax.atomic import write_json
from genre_jax.console import UserError, say


def define_flags() -> None:
    """Define the flags of this command. Not at import, because the tests import it beside other commands."""
    flags.DEFINE_string("config", None, "Config file or name of a shipped config, with presets and key=value after a colon.")
    flags.DEFINE_string("workdir", None, "Folder of the runs and of summary.json.")
    flags.DEFINE_integer("folds", 0, "Number of folds of the data set; 0: no cross-validation.", lower_bound=0)
    flags.DEFINE_integer("seeds", 0, "Number of seeds; 0: the seed of the config.", lower_bound=0)
    flags.DEFINE_integer("only", None, "Do the run of this number alone, from 0, and write no summary.")
    flags.DEFINE_bool("validation", True, "Keep one fold for validation, if the config has a validation split.")


def fold_keys(fold: int, folds: int, validation: bool) -> dict[str, str]:
    """The config keys of a run of a cross-validation: its test, validation and training splits."""
    names = [f"fold{(fold + offset) % folds}" for offset in range(folds)]
    kept = names[2:] if validation else names[1:]
    order = sorted(kept, key=lambda name: int(name.removeprefix("fold")))
    return {"data.train": "+".join(order), "data.validation": names[1] if validation else "", "data.test": names[0]}


def plan(folds: int, seeds: int, validation: bool) -> dict[str, dict[str, str]]:
    """Name → config keys of each run. Raises `UserError` if there is nothing to repeat, or too few folds."""
    least = 3 if validation else 2
    if not folds and not seeds:
        raise UserError("nothing to repeat: give --folds=K, --seeds=N, or both")
    if folds and folds < least:
        advice = ", or --novalidation" if validation and folds == 2 else ""
        raise UserError(
            f"--folds must be at least {least}{' with a validation fold' if validation else ''}, and was given {folds}: give "
            f"more folds{advice}"
        )
    runs: dict[str, dict[str, str]] = {}
    for fold in range(folds) if folds else [None]:
        for seed in range(seeds) if seeds else [None]:
            keys = fold_keys(fold, folds, validation) if fold is not None else {}
            keys |= {"seed": str(seed)} if seed is not None else {}
            parts = [f"{word}_{number}" for word, number in (("fold", fold), ("seed", seed)) if number is not None]
            runs["_".join(parts)] = keys
    return runs


def check_folds(splits: Sequence[str], folds: int, name: str) -> None:
    """Raise `UserError` unless a data set has exactly the splits fold0 … fold(folds - 1) among its splits."""
    have = sorted((split for split in splits if re.fullmatch(r"fold\d+", split)), key=lambda split: int(split[4:]))
    if have != [f"fold{number}" for number in range(folds)]:
        raise UserError(
            f"--folds={folds} needs the splits fold0 to fold{folds - 1}, and data set {name!r} has "
            f"{', '.join(have or splits)}: prepare it with --split=folds:{folds}"
            + (f", or give --folds={len(have)}" if have else "")
        )


def summarise(values: dict[str, list[float | None]]) -> dict[str, dict[str, Any]]:
    """Score → {"mean", "sd", "values"}: sd is the sample standard deviation (n - 1), None for a single value.

    Mean and sd are None if the score is undefined in one of the runs.
    """
    out = {}
    for name, column in values.items():
        known = [value for value in column if value is not None]
        whole = len(known) == len(column)
        out[name] = {
            "mean": math.fsum(known) / len(known) if whole else None,
            "sd": statistics.stdev(known) if whole and len(known) > 1 else None,
            "values": column,
        }
    return out


def table(summary: dict[str, dict[str, Any]], names: Sequence[str]) -> str:
    """The scores as lines of text: mean ± standard deviation, and the value of each run."""

    def cell(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    head = ("score", "mean ± s.d.", *names)
    rows = [
        (name, f"{cell(entry['mean'])} ± {cell(entry['sd'])}", *map(cell, entry["values"]))
        for name, entry in summary.items()
        if shown(name)
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )


def shown(name: str) -> bool:
    """Whether the table shows a score; summary.json has all. Of each vote of clips and tracks it shows the accuracy alone."""
    return name.count("/") < 2 or name.endswith("/accuracy")


def main(argv: list[str]) -> int:
    """Run all, and write DIR/summary.json and DIR/report. The exit code is that of a run that failed."""
    from genre_jax import config as configs
    from genre_jax.data import locate

    args = flags.FLAGS
    if args.config is None or args.workdir is None:
        raise UserError("--config and --workdir are needed: python launch/repeat.py --config=FILE --workdir=DIR --folds=5")
    overrides = console.overrides(argv[1:])
    config = configs.load(args.config, overrides)
    runs = plan(args.folds, args.seeds, args.validation and bool(config.data.validation))
    fixed = {key for keys in runs.values() for key in keys} & overrides.keys()
    if fixed:
        raise UserError(f"--config.{min(fixed)} is set by --folds or --seeds: leave it out")
    if args.folds:
        splits = locate.read_passport(locate.find(config))["splits"]
        check_folds(sorted(splits), args.folds, config.data.name)
    folder = Path(args.workdir)
    if args.only is not None:  # without the lock of the folder, because other processes do the other runs
        return _do(args.config, overrides, *pick(runs, args.only), folder)
    folder.mkdir(parents=True, exist_ok=True)
    with lock.hold(folder / ".lock", f"another command holds {folder}: wait until it ends, or choose another --workdir"):
        return work(args.config, overrides, runs, folder)


def pick(runs: dict[str, dict[str, str]], number: int) -> tuple[str, dict[str, str]]:
    """Name and config keys of run `number`, from 0. Raises `UserError` if there is no such run."""
    if not 0 <= number < len(runs):
        raise UserError(f"--only must be from 0 to {len(runs) - 1}, because there are {len(runs)} runs, and was given {number}")
    return list(runs.items())[number]


def _do(config: str, overrides: dict[str, str], name: str, keys: dict[str, str], folder: Path) -> int:
    """Do a run, and return its exit code; a failure is printed."""
    code = child.run(child.command(config, overrides | keys, folder / name), name)
    if code:
        console.complain(f"{child.exit_sentence(name, code)}: the same command goes on from here")
    return code if code >= 0 else 128 - code


def work(config: str, overrides: dict[str, str], runs: dict[str, dict[str, str]], folder: Path) -> int:
    """Do the runs one after the other, and summarise them."""
    for name, keys in runs.items():
        if code := _do(config, overrides, name, keys, folder):
            return code
    scores = [child.scores(folder / name) for name in runs]
    summary = summarise({key: [score.get(key) for score in scores] for key in scores[0]})
    what = {"schema": 1, "config": config, "overrides": [f"{key}={value}" for key, value in overrides.items()], "runs": runs}
    write_json(folder / "summary.json", what | {"scores": summary})
    say(table(summary, list(runs)))
    child.report([folder / name for name in runs], folder / "report")
    return 0


if __name__ == "__main__":
    define_flags()
    console.run(main, console.parse_flags)
