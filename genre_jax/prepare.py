"""Audio files to shards: `python -m genre_jax.prepare --source=DIR` makes a data set that `genre_jax.main` trains on.

Files are decoded, down-mixed, resampled and written as 16-bit PCM; what cannot be used goes to `quarantine.csv` beside
the shards, and `passport.json` tells what became of every file. The module is light on purpose: worker processes import
it again.
"""

import inspect
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from genre_jax import audio, console, records
from genre_jax.console import UserError, say
from genre_jax.datasets import DATASETS, builder
from genre_jax.datasets.rendering import Limits, cores

NAME = re.compile(r"[a-z][a-z0-9_]*")
_SHOWN = 5  # quarantined files and empty classes that the summary names


def prepare(
    dataset: str,
    data_dir: str | Path,
    sample_rate: int,
    source: str | Path | None = None,
    name: str | None = None,
    *,
    validation: float = 0.1,
    test: float = 0.1,
    workers: int | None = None,
    timeout: float = 60.0,
    memory_gb: float = 4.0,
    overwrite: bool = False,
    beam: Sequence[str] | None = None,
    **options: str,
) -> Path:
    """Make a data set at `sample_rate` Hz in `data_dir` and return its folder; one that is there already is kept.

    `dataset` is a key of `datasets.DATASETS`; `validation` and `test` are the shares of the tracks whose split the
    source leaves open; a file may take `timeout` seconds and `memory_gb` GiB in one of `workers` processes. These
    import `__main__` anew: from a program whose main module is heavy, call `prepare_apart`. `options` are the data set's
    own (`split`, `labels`, `subset`), `beam` those of an Apache Beam pipeline that does the work in their place.
    Raises `UserError` where an argument is not legal, the source is not what it should be, or no clip can be used.
    """
    if dataset not in DATASETS:
        raise console.unknown("data set", dataset, DATASETS)
    path = None if source is None else Path(source)
    _check_options(dataset, options)
    name = name or default_name(dataset, path, options)
    _check(name, sample_rate, validation, test, workers, timeout, memory_gb)
    folder = records.directory(data_dir, name, sample_rate)
    if (folder / "passport.json").exists() and not overwrite:
        say(f"{folder} is there already and stays as it is (--overwrite makes it again, with these flags)")
        return folder
    found = DATASETS[dataset](path, **options)
    builder.build(
        found,
        Path(data_dir),
        name,
        sample_rate,
        validation=validation,
        test=test,
        workers=workers or cores(),
        limits=Limits(timeout, memory_gb),
        beam=beam,
    )
    return folder


def prepare_apart(dataset: str, data_dir: str | Path, sample_rate: int) -> Path:
    """`prepare` an embedded data set in a process of its own, so that TensorFlow never enters this one."""
    command = [sys.executable, "-m", "genre_jax.prepare", f"--dataset={dataset}", f"--data_dir={data_dir}"]
    done = subprocess.run([*command, f"--sample_rate={sample_rate}"], check=False)
    if done.returncode:
        raise UserError(f"data set {dataset!r} could not be prepared in {str(data_dir)!r} (see above)")
    return records.directory(data_dir, dataset, sample_rate)


def default_name(dataset: str, source: Path | None, options: Mapping[str, str] | None = None) -> str:
    """The data set's own name, with its options where there are any, so that no two protocols share a folder; for your own
    music the folder's (or the CSV's) in lower snake case.
    """
    if dataset != "folder" or source is None:
        words = [dataset]
        for key, value in sorted((options or {}).items()):
            if value != _defaults(dataset)[key]:
                words.append(_snake({"labels": Path(value).stem, "subset": f"subset {value}"}.get(key, value)))
        return "_".join(words)
    snake = _snake(source.resolve().stem if source.suffix.lower() == ".csv" else source.resolve().name)
    return snake if NAME.fullmatch(snake) else f"data_{snake}".rstrip("_")


def _snake(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _defaults(dataset: str) -> dict[str, str | None]:
    """The options of a data set of its own, with their defaults."""
    parameters = inspect.signature(DATASETS[dataset]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def _check_options(dataset: str, options: Mapping[str, str]) -> None:
    legal = _defaults(dataset)
    for key, value in options.items():
        if key not in legal:
            takes = ", ".join(f"--{name}" for name in legal) or "no options of its own"
            raise UserError(f"--{key}={value} means nothing to data set {dataset!r}, which takes {takes}")


def _check(
    name: str, sample_rate: int, validation: float, test: float, workers: int | None, timeout: float, memory_gb: float
) -> None:
    if not NAME.fullmatch(name):
        raise UserError(f"--name={name} is no data set name: use lower-case letters, digits and _, a letter first")
    low, high = audio.RATES
    if not low <= sample_rate <= high:
        raise UserError(f"--sample_rate={sample_rate} is not between {low} and {high} Hz")
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise UserError(f"--validation={validation} and --test={test} are no shares: both 0 or more, together below 1")
    if workers is not None and workers < 1:
        raise UserError(f"--workers={workers} is not a number of processes: 1 or more")
    if not (timeout > 0 and memory_gb > 0):
        raise UserError(f"--timeout={timeout:g} (seconds) and --memory_gb={memory_gb:g} (GiB) must be above 0")


# ---------------------------------------------------------------- the command


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
        from genre_jax import check

        return check.command(Path((argv[1:] or [args.data_dir])[0]), args.name, args.workers, args.strict)
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
    passport = records.read_passport(folder)
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
