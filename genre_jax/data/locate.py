"""Where prepared data sets lie, and what their passports say. Embedded data sets are made on first use.

A data set lies in `DATA_DIR/NAME/RATEhz/1.0.0`, the layout of tensorflow-datasets, with `passport.json` beside the shards.
"""

import csv
import functools
import io
import json
import subprocess
import sys
from pathlib import Path

from ml_collections import ConfigDict

from genre_jax import checksum, console
from genre_jax.console import UserError
from genre_jax.data.bucket import Place, Remote, is_url, place

VERSION = "1.0.0"
REMEDY = "prepare the data set again, with --overwrite"


def directory(data_dir: str | Path, name: str, sample_rate: int) -> Path:
    """The local folder of the data set `name` at `sample_rate` Hz. Raises `UserError` if `data_dir` is a URL."""
    if is_url(data_dir):
        raise UserError(f"prepare writes local folders alone, and --data_dir is {data_dir!r}: copy the folder when it is whole")
    return Path(data_dir) / name / f"{sample_rate}hz" / VERSION


def folder_of(data: ConfigDict) -> Place:
    """The folder of the data set of a config's section `data`, which may be in a bucket."""
    if is_url(data.data_dir):
        return place(data.data_dir) / data.name / f"{data.sample_rate}hz" / VERSION
    return directory(data.data_dir, data.name, data.sample_rate)


def prepared(data_dir: str | Path) -> dict[str, list[int]]:
    """The data sets in `data_dir`: name → sample rates in Hz."""
    found: dict[str, list[int]] = {}
    for passport in sorted(Path(data_dir).glob(f"*/*hz/{VERSION}/passport.json")):
        found.setdefault(passport.parts[-4], []).append(int(passport.parts[-3].removesuffix("hz")))
    return found


def read_passport(folder: Place) -> dict:
    """The `passport.json` of a prepared data set. Raises `UserError` if it is missing, damaged, or has changed."""
    path = folder / "passport.json"
    try:
        if isinstance(path, Remote):  # read once by a process
            return _read_passport(path, (0, 0, 0))
        stat = path.stat()
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a prepared data set: it holds no passport.json") from error
    return _read_passport(path, (stat.st_size, stat.st_mtime_ns, stat.st_ino))


@functools.lru_cache(maxsize=8)  # the passport of AudioSet has 30 MB
def _read_passport(path: Place, stamp: tuple[int, int, int]) -> dict:
    del stamp
    try:
        passport = json.loads(path.read_bytes())
        stated = passport.pop("sha256", None)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {REMEDY}") from error
    if stated is None:
        raise UserError(f"{path} has no checksums, because an earlier genre_jax wrote it: {REMEDY}")
    if stated != checksum.of_json(passport):
        raise UserError(f"{path} has changed since prepare wrote it: {REMEDY}")
    return passport


def read_exclude(folder: Place) -> dict[str, set[str]]:
    """Split → names of the clips that `exclude.csv` excludes; empty if there is no such file beside the shards.

    The file has the columns `name` and `split`, and may have others. `prepare --check` writes it; users may edit it.
    """
    path = folder / "exclude.csv"
    if not path.exists():
        return {}
    splits = read_passport(folder)["splits"]
    left_out: dict[str, set[str]] = {}
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""))
        columns, rows = reader.fieldnames or (), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({error}): save it as UTF-8, or delete it") from error
    if not {"name", "split"} <= set(columns):
        raise UserError(f"{path} needs the columns name and split, and has {', '.join(columns) or 'none'}")
    for number, row in enumerate(rows, 2):  # row 1 holds the columns
        if row["split"] not in splits:
            raise UserError(f"{path}, row {number}: {console.unknown('split', row['split'], splits)}")
        left_out.setdefault(row["split"], set()).add(row["name"])
    return left_out


def check_name(name: str, data_dir: str) -> None:
    """Raise `UserError` unless `name` is prepared in `data_dir`, or `prepare` can make it. In a bucket, `find` looks for it."""
    if is_url(data_dir):
        return
    there = prepared(data_dir)
    if name in there:
        return
    from genre_jax.datasets import DATASETS  # imports decoders, which training does not need

    legal = {*DATASETS, *there} - {"folder"}  # "folder" is a way to make a data set
    if name not in legal and kind_of(name) == "folder":
        advice = f"your own music becomes {name!r} by `genre-jax prepare --source=MUSIC --name={name}`"
        raise UserError(f"{console.unknown('data set', name, legal)}; {advice}")


def kind_of(name: str) -> str:
    """The kind of data set that `prepare` makes under this name: with a protocol the name goes on, as in gtzan_random."""
    from genre_jax.datasets import DATASETS

    fitting = [kind for kind in DATASETS if name == kind or name.startswith(f"{kind}_")]
    return max(fitting, key=len, default="folder")


def find(config: ConfigDict) -> Place:
    """The folder of the config's data set. Raises `UserError` with the `prepare` command if it is missing."""
    data = config.data
    folder = folder_of(data)
    if (folder / "passport.json").exists():
        stated = read_passport(folder)["sample_rate"]
        if stated != data.sample_rate:
            raise UserError(f"{folder} holds a data set of {stated} Hz and not of {data.sample_rate} Hz: {REMEDY}")
        has = read_passport(folder).get("conditioning", [])
        if has != list(data.conditioning):
            raise UserError(
                f"data set {data.name!r} was prepared with conditioning {has}, and the config asks for "
                f"{list(data.conditioning)}: set --config.data.conditioning, or choose another data set"
            )
        left_out = sum(map(len, read_exclude(folder).values()))
        if left_out:
            console.say(f"exclude.csv leaves out {left_out} clips of data set {data.name!r}")
        return folder
    from genre_jax.datasets import EMBEDDED

    if is_url(data.data_dir):
        raise UserError(
            f"data set {data.name!r} at {data.sample_rate} Hz is not in {data.data_dir!r}: prepare it in a local folder, and "
            f"copy the folder {data.name} there with gsutil, aws or the like (docs/data.md)"
        )
    if data.name in EMBEDDED:
        return _prepare_embedded(data.name, data.data_dir, data.sample_rate)
    rates = prepared(data.data_dir).get(data.name)
    command = (
        f"python -m genre_jax.prepare --dataset={kind_of(data.name)} "
        f"--source=DIR --name={data.name} --data_dir={data.data_dir} --sample_rate={data.sample_rate}"
    )
    if rates:
        have = ", ".join(str(rate) for rate in rates)
        raise UserError(
            f"data set {data.name!r} in {data.data_dir!r} has {have} Hz and the config asks for {data.sample_rate} Hz: "
            f"set --config.data.sample_rate={rates[0]}, or make it with `{command}`"
        )
    raise UserError(
        f"data set {data.name!r} at {data.sample_rate} Hz is not in {data.data_dir!r}: make it with `{command}`, "
        "or try --config=bytenet:demo, which needs no data"
    )


def _prepare_embedded(name: str, data_dir: str, sample_rate: int) -> Path:
    """Prepare an embedded data set in a child process, which keeps TensorFlow out of this process."""
    command = [sys.executable, "-m", "genre_jax.prepare", f"--dataset={name}", f"--data_dir={data_dir}"]
    done = subprocess.run([*command, f"--sample_rate={sample_rate}"], check=False)
    if done.returncode:
        raise UserError(f"data set {name!r} could not be prepared in {data_dir!r} (see above)")
    return directory(data_dir, name, sample_rate)
