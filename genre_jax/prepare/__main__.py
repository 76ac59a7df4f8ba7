"""Make a data set that `genre_jax.main` can train on: `python -m genre_jax.prepare --source=DIR`.

Each file is decoded, mixed down to mono, resampled and written as 16-bit PCM into shards. Beside the shards,
`passport.json` describes every clip, and `quarantine.csv` lists the files that could not be used. With `--check`, the
command checks data sets that are already prepared (`prepare/audit.py`).

Worker processes import this module again. Therefore it imports no decoder and no framework.
"""

import collections
import csv
import json
import re
from pathlib import Path

from absl import flags

from genre_jax import beam, console
from genre_jax.console import UserError, say
from genre_jax.data import locate
from genre_jax.datasets import DATASETS
from genre_jax.prepare import condition, silence
from genre_jax.prepare.build import prepare

_SHOWN = 5  # the most quarantined files, and the most empty classes, that the summary lists


def define_flags() -> None:
    """Define the flags of this command. They are not defined at import, because worker processes import this module."""
    flags.DEFINE_string(
        "dataset", None, f"Kind of the data set: one of {', '.join(DATASETS)}. The default is folder if --source is set."
    )
    flags.DEFINE_string(
        "source",
        None,
        "Path of the source files. For the kind folder: a folder with one sub-folder per class, or a CSV file with the "
        "columns path,labels[,track,artist,split,start,duration].",
    )
    flags.DEFINE_string(
        "name",
        None,
        "Name of the prepared data set. The default is the name of the source folder, or --dataset with its options.",
    )
    flags.DEFINE_string("data_dir", "data", "Folder of all prepared data sets.")
    flags.DEFINE_integer("sample_rate", 16000, "Sample rate of the shards in Hz. Each rate is a data set of its own.")
    flags.DEFINE_string(
        "split", None, "Split protocol, such as random:0. An unknown protocol prints the legal ones of the data set."
    )
    flags.DEFINE_string(
        "condition",
        "",
        f"Steps that condition each whole file before it becomes a clip, in this order, separated by commas: "
        f"{', '.join(condition.STEPS)}.",
    )
    flags.DEFINE_string("labels", None, "AudioSet only: a CSV file of classes (column mid) that replaces the 67 music classes.")
    flags.DEFINE_string("subset", None, "AudioSet only: N[:SEED] keeps N clips of the unbalanced list, drawn with this seed.")
    beam.define_flags("Decode")
    flags.DEFINE_float("validation", 0.1, "Share of the tracks in the validation split, if the source defines no split.")
    flags.DEFINE_float("test", 0.1, "Share of the tracks in the test split, if the source defines no split.")
    flags.DEFINE_integer("workers", None, "Number of processes that decode. The default is one per core.")
    flags.DEFINE_float("timeout", 60.0, "Time limit for one clip in seconds.")
    flags.DEFINE_float("memory_gb", 4.0, "Memory limit for one decoding process in GiB.")
    flags.DEFINE_bool(
        "strict", False, "Exit with 1 if a file is quarantined or has a warning, or with --check if a clip leaks across splits."
    )
    flags.DEFINE_bool("overwrite", False, "Make the data set again if it already exists.")
    flags.DEFINE_bool(
        "check",
        False,
        "Check the prepared data sets in --data_dir, or in the folder after this flag: count clips, find faulty audio "
        "and find leaks between splits.",
    )


def main(argv: list[str]) -> int:
    """Prepare or check a data set as the flags say, print a summary, and return the exit code."""
    args = flags.FLAGS
    if args.check and len(argv) <= 2:
        from genre_jax.prepare import audit

        return audit.command(Path((argv[1:] or [args.data_dir])[0]), args.name, args.workers, args.strict)
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: set the source folder with --source={argv[1]}")
    dataset = args.dataset or ("folder" if args.source else None)
    if dataset is None:
        raise UserError(
            f"no source was given: set --source=DIR to a folder of music, or --dataset to one of {', '.join(sorted(DATASETS))}"
        )
    folder = prepare(
        dataset,
        args.data_dir,
        args.sample_rate,
        args.source,
        args.name,
        validation=args.validation,
        test=args.test,
        workers=args.workers,
        timeout=args.timeout,
        memory_gb=args.memory_gb,
        overwrite=args.overwrite,
        condition=condition.parse(args.condition),
        beam=beam.options(args),
        **{key: value for key in ("split", "labels", "subset") if (value := args[key].value) is not None},
    )
    passport = locate.read_passport(folder)
    say(summary(passport, folder))
    say(f"next: {_next_command(passport, args.data_dir)}")
    quarantined, warned = passport["totals"]["quarantined"], passport["totals"].get("warned", 0)
    if args.strict and quarantined:
        raise UserError(f"{quarantined} files are quarantined in {folder / 'quarantine.csv'}, and --strict allows none")
    if args.strict and warned:
        raise UserError(f"{warned} clips have a warning (listed above), and --strict allows none")
    return 0


def summary(passport: dict, folder: Path) -> str:
    """Returns the text that `prepare` prints at the end: clips by split and class, totals, warnings, quarantined files."""
    splits, totals = passport["splits"], passport["totals"]
    width = max(map(len, [*passport["labels"], "clips"]))
    rows = [("", *splits)]
    rows += [(label, *(str(split["classes"][label]) for split in splits.values())) for label in passport["labels"]]
    rows.append(("clips", *(str(split["clips"]) for split in splits.values())))
    rows.append(("minutes", *(f"{split['seconds'] / 60:.1f}" for split in splits.values())))
    lines = ["  ".join([row[0].ljust(width), *(cell.rjust(10) for cell in row[1:])]) for row in rows]
    lines.append(
        f"{totals['clips']} clips, {totals['seconds'] / 3600:.2f} h at {passport['sample_rate']} Hz in {folder}; "
        f"{totals['quarantined']} quarantined, {totals['scaled']} scaled down because their peak exceeded 1.0"
    )
    if passport["conditioning"]:
        lines.append(f"each whole file went through {', '.join(passport['conditioning'])}")
    lines += passport["notes"]
    lines += _few_classes(passport) + _empty_classes(passport)
    if totals["quarantined"]:
        with open(folder / "quarantine.csv", encoding="utf-8", newline="") as file:
            reasons = list(csv.reader(file))[1:]
        lines += _silent([reason for _, reason in reasons])
        lines += ["quarantined:", *(f"  {path}: {reason}" for path, reason in reasons[:_SHOWN])]
        if len(reasons) > _SHOWN:
            lines.append(f"  and {len(reasons) - _SHOWN} more in {folder / 'quarantine.csv'}")
    return "\n".join(map(console.printable, lines))


def _silent(reasons: list[str]) -> list[str]:
    """Returns a warning with the number of files whose mono mix is silent, if there are any."""
    silent, cancelled = sum(reason.startswith(silence.MIX) for reason in reasons), reasons.count(silence.CANCELLED)
    return [f"warning: the mono mix of {silent} files is silent; in {cancelled} of them the channels cancel"] if silent else []


def _few_classes(passport: dict) -> list[str]:
    """Returns a warning if all clips are of one class, unless the data set is a bank of noises."""
    counts = collections.Counter[str]()
    for split in passport["splits"].values():
        counts.update(split["classes"])
    used = [label for label, count in counts.items() if count]
    if len(used) != 1 or passport["dataset"] == "hunonspeech":
        return []
    return [f"warning: all clips are of one class, {used[0]!r}: there is nothing to tell apart, add files of another class"]


def _empty_classes(passport: dict) -> list[str]:
    """Returns a warning for each split without clips, and for each split that lacks a class."""
    own = passport["dataset"] == "folder"
    cure = "assign tracks with the split column of a CSV" if own else "add files to the source"
    why = "there are few tracks" if own else "none of its clips is there and can be used"
    lines = [f"warning: split {split!r} is empty because {why}: {cure}" for split in passport["empty_splits"]]
    for split, content in passport["splits"].items():
        empty = [label for label, count in content["classes"].items() if not count]
        if empty:
            shown = ", ".join(empty[:_SHOWN]) + (f" and {len(empty) - _SHOWN} more" if len(empty) > _SHOWN else "")
            lines.append(f"warning: split {split!r} has no clip of {shown}: {cure}")
    return lines


def _next_command(passport: dict, data_dir: str) -> str:
    """Returns the command that trains on the data set, or a sentence on what training still needs."""
    options = {"name": passport["name"], "data_dir": data_dir, "sample_rate": passport["sample_rate"]}
    keys = " ".join(f"--config.data.{key}={value}" for key, value in options.items())
    if passport["conditioning"]:
        keys += f" --config.data.conditioning='{json.dumps(passport['conditioning'])}'"
    splits = passport["splits"]
    if passport["dataset"] == "audioset_music":
        return f"python -m genre_jax.main --config=bytenet {keys}"
    if passport["dataset"] == "hunonspeech":
        return f"use it as a noise bank for other data with --config.augment.noise.data_set={passport['name']}"
    folds = [split for split in splits if re.fullmatch("fold[0-9]+", split)]
    if len(folds) > 1:
        test, validation, *train = folds if len(folds) > 2 else [folds[0], "", folds[1]]
        parts = {"train": "+".join(train), "validation": validation, "test": test}
        keys += "".join(f" --config.data.{part}={split}" for part, split in parts.items())
    elif not {"train", "test"} <= splits.keys():
        if passport["dataset"] != "folder":
            return f"training needs a train and a test split, but most of {passport['dataset']} is missing from the source"
        return "training needs a train and a test split: list the files in a CSV with a split column and prepare that CSV"
    elif "validation" not in splits:
        keys += " --config.data.validation="
    if passport["dataset"] == "folder" and passport["sample_rate"] == 16_000 and not passport["conditioning"]:
        preset = "" if "validation" in splits or len(folds) > 2 else ":frozen"
        return f"python -m genre_jax.main --config=own_music{preset} {keys}"
    several = any(sum(split["classes"].values()) != split["clips"] for split in splits.values())
    return f"python -m genre_jax.main --config=resnet34_spectrogram:{'multi' if several else 'single'} {keys}"


if __name__ == "__main__":
    define_flags()
    console.run(main)
