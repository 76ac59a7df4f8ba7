"""Audio files to shards: `python -m genre_jax.prepare --source=DIR` makes a data set that `genre_jax.main` trains on.

Files are decoded, down-mixed, resampled and written as 16-bit PCM; what cannot be used goes to `quarantine.csv` beside
the shards, and `passport.json` tells what became of every file. The module is light on purpose: worker processes import
it again.
"""

from pathlib import Path

from absl import flags

from genre_jax import console
from genre_jax.console import UserError, say
from genre_jax.data import locate
from genre_jax.datasets import DATASETS
from genre_jax.prepare.build import prepare

_SHOWN = 5  # quarantined files and empty classes that the summary names


def define_flags() -> None:
    """The flags of this command; not at import, because other commands import this module."""
    flags.DEFINE_string("dataset", None, f"One of {', '.join(DATASETS)}; with --source alone: folder.")
    flags.DEFINE_string("source", None, "Folder with one sub-folder per class, or a CSV path,labels[,track,split,...].")
    flags.DEFINE_string("name", None, "What the data set is called; by default as the source folder is.")
    flags.DEFINE_string("data_dir", "data", "Where prepared data sets lie.")
    flags.DEFINE_integer("sample_rate", 16000, "Rate in Hz; part of the data set's identity.")
    flags.DEFINE_string("split", None, "How the splits are made, such as random:0; a wrong one shows the data set's own.")
    flags.DEFINE_string("labels", None, "AudioSet: a CSV of classes (column mid), in place of the 67 of music.")
    flags.DEFINE_string("subset", None, "AudioSet: N[:SEED], so many clips of the unbalanced list, drawn by the seed.")
    flags.DEFINE_string("beam_runner", None, "Render on Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner.")
    flags.DEFINE_multi_string(
        "beam_option", [], "One option of the Beam pipeline, such as --project=P; may be given repeatedly."
    )
    flags.DEFINE_float("validation", 0.1, "Share of the tracks for validation, where the source gives no split.")
    flags.DEFINE_float("test", 0.1, "Share of the tracks for the test, where the source gives no split.")
    flags.DEFINE_integer("workers", None, "Processes that decode; by default one per core.")
    flags.DEFINE_float("timeout", 60.0, "Seconds that one file may take.")
    flags.DEFINE_float("memory_gb", 4.0, "GiB of memory that decoding one file may take.")
    flags.DEFINE_bool("strict", False, "Exit with 1 where a file had to be quarantined.")
    flags.DEFINE_bool("overwrite", False, "Make the data set again where it is there already.")
    flags.DEFINE_bool(
        "check", False, "Check what is prepared in --data_dir (or the folder that follows): counts, audio, leaks."
    )


def main(argv: list[str]) -> int:
    """Prepare what the flags ask for, and say what came of it."""
    args = flags.FLAGS
    if args.check and len(argv) <= 2:
        from genre_jax.prepare import audit

        return audit.command(Path((argv[1:] or [args.data_dir])[0]), args.name, args.workers, args.strict)
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: give the folder as --source={argv[1]}")
    dataset = args.dataset or ("folder" if args.source else None)
    if dataset is None:
        raise UserError(f"give --source=DIR with your music, or --dataset= one of {', '.join(sorted(DATASETS))}")
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
        beam=None if args.beam_runner is None else [f"--runner={args.beam_runner}", *args.beam_option],
        **{key: value for key in ("split", "labels", "subset") if (value := args[key].value) is not None},
    )
    passport = locate.read_passport(folder)
    say(summary(passport, folder))
    say(f"next: {_next_command(passport, args.data_dir)}")
    quarantined = passport["totals"]["quarantined"]
    if args.strict and quarantined:
        raise UserError(f"{quarantined} files are in {folder / 'quarantine.csv'} and --strict allows none")
    return 0


def summary(passport: dict, folder: Path) -> str:
    """The counts of a prepared data set for people: by split and class, and what was left out."""
    splits, totals = passport["splits"], passport["totals"]
    width = max(map(len, [*passport["labels"], "clips"]))
    rows = [("", *splits)]
    rows += [(label, *(str(split["classes"][label]) for split in splits.values())) for label in passport["labels"]]
    rows.append(("clips", *(str(split["clips"]) for split in splits.values())))
    rows.append(("minutes", *(f"{split['seconds'] / 60:.1f}" for split in splits.values())))
    lines = ["  ".join([row[0].ljust(width), *(cell.rjust(10) for cell in row[1:])]) for row in rows]
    lines.append(
        f"{totals['clips']} clips, {totals['seconds'] / 3600:.2f} h at {passport['sample_rate']} Hz in {folder}; "
        f"{totals['quarantined']} quarantined, {totals['scaled']} scaled because of peaks over 1.0"
    )
    lines += passport["notes"]
    lines += _empty_classes(passport)
    if totals["quarantined"]:
        with open(folder / "quarantine.csv", encoding="utf-8") as file:
            reasons = file.read().splitlines()[1:]
        lines += ["quarantined:", *(f"  {line}" for line in reasons[:_SHOWN])]
        if len(reasons) > _SHOWN:
            lines.append(f"  and {len(reasons) - _SHOWN} more in {folder / 'quarantine.csv'}")
    return "\n".join(lines)


def _empty_classes(passport: dict) -> list[str]:
    lines = [
        f"warning: no clip fell into {split!r}: with so few tracks, place them by the split column of a CSV"
        for split in passport["empty_splits"]
    ]
    for split, content in passport["splits"].items():
        empty = [label for label, count in content["classes"].items() if not count]
        if empty:
            shown = ", ".join(empty[:_SHOWN]) + (f" and {len(empty) - _SHOWN} more" if len(empty) > _SHOWN else "")
            lines.append(f"warning: {split!r} has no clip of {shown} (a CSV with a split column places tracks by hand)")
    return lines


def _next_command(passport: dict, data_dir: str) -> str:
    options = {"name": passport["name"], "data_dir": data_dir, "sample_rate": passport["sample_rate"]}
    keys = " ".join(f"--config.data.{key}={value}" for key, value in options.items())
    there = passport["splits"]
    if passport["dataset"] == "audioset_music":
        return f"python -m genre_jax.main --config=configs/bytenet.py {keys}"
    if passport["dataset"] == "hunonspeech":
        return f"as a bank of noises beside other data: --config.augment.noise.data_set={passport['name']}"
    if not {"train", "test"} <= there.keys():
        if passport["dataset"] != "folder":
            return f"training needs a train and a test split: most of {passport['dataset']} is missing from the source"
        return "training needs a train and a test split: list the files in a CSV with a split column, and prepare that"
    if "validation" not in there:
        keys += " --config.data.validation="
    several = any(sum(split["classes"].values()) != split["clips"] for split in passport["splits"].values())
    return f"python -m genre_jax.main --config=configs/resnet34_spectrogram.py:{'multi' if several else 'single'} {keys}"


if __name__ == "__main__":
    define_flags()
    console.run(main)
