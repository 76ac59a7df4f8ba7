"""Tag many files into Parquet: `python -m genre_jax.tag --output=FOLDER [--list=FILE] [FILE|FOLDER…] [--beam_runner=…]`.

The files are divided into parts. A part is one Parquet file with one row per audio file, and is written whole or not at all.
The same command tags only the parts that are not there yet. `_manifest.json` says what the folder is made from, and `_paths`
holds the names of all files; programs that read a folder of Parquet files skip names that begin with an underscore.

Processes of `prepare/workers.py` decode the files ahead of the network. A file that crashes its decoder, hangs or needs too
much memory is a row with an error, as is every other file that cannot be tagged.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

import genre_jax
from genre_jax import beam, cache, checksum, console, lock, tag_inputs
from genre_jax.atomic import read_json, write_json, write_whole
from genre_jax.console import UserError, say
from genre_jax.datasets.types import Item, load_file
from genre_jax.prepare.workers import Limits, Result, cores, renderer

if TYPE_CHECKING:
    import pyarrow as pa

    from genre_jax.tagger import Tagger

VERSION = 1  # of the manifest and the columns
PUBLISHED = "musicnn and musicnn-mtt"  # the weights without --workdir
PER_PART = 500  # audio files of a part, unless --files_per_part says another number
NONE, MEAN = "none", "mean"  # values of --embeddings
COLUMNS = ("path", "seconds", "windows", "error", "embedding")  # beside the labels
_MANIFEST, _PATHS = "_manifest.json", "_paths"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What the parts of a folder are made from. A folder takes only commands with the same values, except for `base`.

    Attributes:
      files: number of audio files.
      files_per_part: number of audio files in each part; the last part may have fewer.
      base: folder that relative names start from.
      paths_sha256: checksum of the absolute paths.
      weights: workdir, file or name of the weights.
      weights_sha256: checksum of the weights, their config and their labels.
      labels: the labels, in the order of their columns.
      task: "single" if a window has one label, "multi" if it may have several.
      sample_rate: sample rate of the networks' input, in Hz.
      hop: hop between windows in seconds.
      embeddings: whether the parts have the column "embedding".
      version: `VERSION`.
    """

    files: int
    files_per_part: int
    base: str
    paths_sha256: str
    weights: str
    weights_sha256: str
    labels: tuple[str, ...]
    task: str
    sample_rate: int
    hop: float
    embeddings: bool
    version: int = VERSION

    @property
    def parts(self) -> int:
        """The number of parts."""
        return math.ceil(self.files / self.files_per_part)


@dataclasses.dataclass(frozen=True)
class Job:
    """Tagging the parts of `folder` with the networks of `sources` (none: the published taggers), as `manifest` says."""

    folder: Path
    sources: tuple[str, ...]
    manifest: Manifest

    def part(self, number: int) -> Path:
        """Return the Parquet file of a part; the first part has the number 0."""
        return self.folder / f"part-{number:05d}-of-{self.manifest.parts:05d}.parquet"

    def rows(self, number: int) -> int:
        """Return the number of audio files in a part."""
        return min(self.manifest.files_per_part, self.manifest.files - number * self.manifest.files_per_part)

    def failed(self, number: int) -> int | None:
        """Return the number of files of a part that could not be tagged, or None if the part is not there or is damaged."""
        import pyarrow as pa
        from pyarrow import parquet

        try:
            errors = parquet.read_table(self.part(number), columns=["error"])["error"]
        except (OSError, pa.ArrowException):
            return None
        return len(errors) - errors.null_count if len(errors) == self.rows(number) else None

    def items(self, number: int) -> list[Item]:
        """Return the files of a part; the name of an item is the path as the user wrote it."""
        from pyarrow import parquet

        with parquet.ParquetFile(self.folder / _PATHS) as file:
            names = [os.fsdecode(name) for name in file.read_row_group(number)["path"].to_pylist()]
        return [Item(name, name, (), path=os.path.join(self.manifest.base, name)) for name in names]

    def schema(self) -> "pa.Schema":
        """Return the columns of a part: `COLUMNS` and one for each label; with the manifest as metadata."""
        import pyarrow as pa

        types = (pa.string(), pa.float64(), pa.int32(), pa.string(), pa.list_(pa.float32()))
        columns = dict(zip(COLUMNS, types, strict=True)) | dict.fromkeys(self.columns(), pa.float32())
        if not self.manifest.embeddings:
            del columns["embedding"]
        return pa.schema(columns, metadata={"genre_jax": json.dumps(dataclasses.asdict(self.manifest))})

    def columns(self) -> list[str]:
        """Return the names of the columns of the labels. A label that has the name of another column is put into quotes."""
        return [f'"{label}"' if label in COLUMNS else label for label in self.manifest.labels]


def define_flags() -> None:
    """Define the flags that `tag` has for many files. The help lists them with those of the caller."""
    flags.disclaim_key_flags()
    flags.DEFINE_string(
        "list", None, "Text file with one path of an audio file or folder per line, to be tagged as well; -: standard input."
    )
    flags.DEFINE_string("output", None, "Write Parquet files into this folder; the same command resumes after an interruption.")
    flags.DEFINE_integer("files_per_part", None, f"Audio files per Parquet file of --output; {PER_PART}.", lower_bound=1)
    flags.DEFINE_integer("workers", None, "Processes that decode for --output. The default is one per core.", lower_bound=1)
    beam.define_flags("Write the Parquet files of --output")


def main(args: Any, names: Sequence[str]) -> int:
    """Tag the files `names` into `args.output`, as the flags say. Without names, continue with the files of the folder.

    Raises `UserError` if the folder was begun with other files, weights or options, and at the end if a file could not be
    tagged. Returns 1 if a folder among the names holds no audio, otherwise 0.
    """
    folder = Path(os.path.abspath(args.output))
    _check_pyarrow()
    _check(args, names, folder)
    files, empty = tag_inputs.all_audio_files(names)
    if names and not files:
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with lock.hold(folder / ".lock", f"another process tags into {folder}: wait until it ends"):
        sources = (os.path.abspath(args.workdir) if os.path.exists(args.workdir) else args.workdir,) if args.workdir else ()
        tagger = genre_jax.load(*sources)
        job = Job(folder, sources, _begin(folder, files, tagger, sources, args))
        todo = [number for number in range(job.manifest.parts) if job.failed(number) is None]
        if len(todo) < job.manifest.parts:
            say(f"resuming: {job.manifest.parts - len(todo)} of {job.manifest.parts} parts are done")
        try:
            if todo and (options := beam.options(args)):
                task = f"tags {sum(map(job.rows, todo))} files in {len(todo)} parts"
                beam.run(todo, tag_part, job, options=options, task=task)
            elif todo:
                _tag_parts(todo, job, tagger, args.workers or cores())
        except BaseException:
            say(f"the finished parts are kept in {folder}: run the same command again to resume")
            raise
        failures = [job.failed(number) for number in range(job.manifest.parts)]
        if missing := failures.count(None):
            raise beam.lost(missing, len(todo), "parts", folder)
    failed = sum(number or 0 for number in failures)
    say(f"{folder}: {job.manifest.files - failed} of {job.manifest.files} files are tagged, in {job.manifest.parts} parts")
    if failed:
        raise UserError(f"{failed} files could not be tagged: the column error in {folder} says why")
    return 1 if empty else 0


def _check_pyarrow() -> None:
    """Raise `UserError` if pyarrow is missing. A machine that tags with a file of `genre_jax.export` may lack it."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError("--output needs pyarrow, which is not installed: pip install pyarrow") from error


def _check(args: Any, names: Sequence[str], folder: Path) -> None:
    """Raise `UserError` unless the flags go together."""
    for flag in ("json", "csv", "top"):
        if getattr(args, flag):
            raise UserError(f"--{flag} and --output were both given: --output writes Parquet, with all labels of each file")
    if args.embeddings not in (None, NONE, MEAN):
        raise UserError(f"with --output, --embeddings must be {MEAN}, for a column with the mean over the windows of a file, "
                        f"or {NONE}, and was given {args.embeddings!r}")  # fmt: skip
    if tag_inputs.STANDARD_INPUT in names:
        raise UserError("--output needs files with a path, and - stands for audio on standard input")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output={folder} is a file: choose a folder")
    if not (folder / _MANIFEST).exists():
        if not names:
            raise UserError("at least one audio file or folder is needed: --list=FILE, or as an argument")
        if folder.is_dir() and any(not path.name.startswith((".", _PATHS)) for path in folder.iterdir()):
            raise UserError(f"--output={folder} is not empty and holds no {_MANIFEST}: choose another folder")


def _begin(folder: Path, files: Sequence[str], tagger: "Tagger", sources: Sequence[str], args: Any) -> Manifest:
    """Return the manifest of a folder; without one, write it and the paths. Raises `UserError` if it does not fit.

    A flag that is not given has the value of the folder's manifest.
    """
    stored = _read(folder / _MANIFEST)
    base = os.getcwd()
    hop = (round(args.hop * tagger.sample_rate) or tagger.network.hop) / tagger.sample_rate
    ours = Manifest(
        files=len(files) or (stored.files if stored else 0),
        files_per_part=args.files_per_part or (stored.files_per_part if stored else PER_PART),
        base=base,
        paths_sha256=_paths_sha256(files, base) if files else stored.paths_sha256 if stored else "",
        weights=sources[0] if sources else PUBLISHED,
        weights_sha256=weights_sha256(tagger, sources),
        labels=tuple(tagger.labels),
        task=tagger.task,
        sample_rate=tagger.sample_rate,
        hop=stored.hop if stored and not args.hop else hop,
        embeddings=stored.embeddings if stored and not args.embeddings else args.embeddings == MEAN,
    )
    if stored:
        _check_same(folder, stored, ours)
        return dataclasses.replace(ours, base=stored.base)
    _write_paths(folder / _PATHS, files, ours.files_per_part)
    write_json(folder / _MANIFEST, dataclasses.asdict(ours))
    return ours


def _read(path: Path) -> Manifest | None:
    """Return the manifest at `path`, or None if there is none. Raises `UserError` if it cannot be used."""
    if not path.exists():
        return None
    values = read_json(path, dict)
    if (version := values.get("version")) != VERSION:
        raise UserError(f"{path} has version {version}, and this genre_jax reads {VERSION}: choose another --output")
    try:
        return Manifest(**values)
    except TypeError as error:
        raise UserError(f"{path} was changed or damaged ({error}): choose another --output") from error


def _check_same(folder: Path, stored: Manifest, ours: Manifest) -> None:
    """Raise `UserError` if a folder was begun with other files, weights or options."""
    if stored.paths_sha256 != ours.paths_sha256:
        difference = f"another list of {stored.files} files, and this command lists {ours.files}"
    elif stored.weights_sha256 != ours.weights_sha256:
        old, new = (f"{one.weights} (sha256 {one.weights_sha256[:12]}…)" for one in (stored, ours))
        difference = f"the weights {old}, and this command has {new}"
    else:
        before, now = (
            {"files_per_part": one.files_per_part, "hop": one.hop, "embeddings": MEAN if one.embeddings else NONE}
            for one in (stored, ours)
        )
        changed = [name for name in now if before[name] != now[name]]
        if not changed:
            return
        old, new = (", ".join(f"--{name}={values[name]}" for name in changed) for values in (before, now))
        difference = f"{old}, and this command has {new}"
    raise UserError(f"{folder} was begun with {difference}: run the first command again, or choose another --output")


def _paths_sha256(files: Sequence[str], base: str) -> str:
    """Return the checksum of the absolute paths of the files in their order."""
    digest = hashlib.sha256()
    for name in files:
        digest.update(os.fsencode(os.path.join(base, name)) + b"\0")
    return digest.hexdigest()


def weights_sha256(tagger: "Tagger", sources: Sequence[str]) -> str:
    """Return the checksum of the file of `genre_jax.export`, or of the weights, configs and labels, that `tagger` uses."""
    from genre_jax.export import runtime

    if isinstance(tagger.network, runtime.Exported):
        return checksum.of_file(sources[0])
    from genre_jax.trained import Networks
    from genre_jax.weights import pretrained

    assert isinstance(tagger.network, Networks)
    return checksum.of_json([pretrained.sha256(run) for run in tagger.network.runs])


def _write_paths(path: Path, files: Sequence[str], files_per_part: int) -> None:
    """Write the names of the files as Parquet; a row group holds the names of a part, and is read alone."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema({"path": pa.binary()})  # a name on Linux need not be UTF-8
    with write_whole(path) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, len(files), files_per_part):
            names = [os.fsencode(name) for name in files[start : start + files_per_part]]
            writer.write_table(pa.table([names], schema=schema))


# ---------------------------------------------------------------- parts


def _tag_parts(todo: Sequence[int], job: Job, tagger: "Tagger", workers: int) -> None:
    """Tag parts in this process, with a progress bar on standard error. The processes that decode do not wait between parts."""
    from tqdm import tqdm

    done = job.manifest.files - sum(map(job.rows, todo))
    failed = 0
    with (
        renderer(load_file, tagger.sample_rate, workers, Limits()) as rendered,
        tqdm(
            desc="tag", total=job.manifest.files, initial=done, unit="file", smoothing=0.02, dynamic_ncols=True,
            mininterval=console.QUIET, maxinterval=console.EVERY, delay=console.QUIET,
        ) as bar,
    ):  # fmt: skip
        results = rendered(item for number in todo for item in job.items(number))
        for position, number in enumerate(todo, job.manifest.parts - len(todo)):
            rows = []
            for row in _rows(itertools.islice(results, job.rows(number)), job, tagger):
                failed += row["error"] is not None
                rows.append(row)
                bar.set_postfix_str(f"{position} of {job.manifest.parts} parts, {failed} failed", refresh=False)
                bar.update()
            _write(rows, job, number)
            bar.set_postfix_str(f"{position + 1} of {job.manifest.parts} parts, {failed} failed", refresh=False)


def tag_part(number: int, job: Job) -> None:
    """Tag one part in a Beam worker. The process loads the networks for its first part, and keeps them."""
    cache.keep_programs()
    tagger = _tagger(job.sources, job.manifest.weights_sha256)
    with renderer(load_file, tagger.sample_rate, 1, Limits()) as rendered:
        _write(list(_rows(rendered(job.items(number)), job, tagger)), job, number)


@functools.cache
def _tagger(sources: tuple[str, ...], sha256: str) -> "Tagger":
    """Load the networks. Raises `UserError` if their weights are not those with which the command was begun."""
    tagger = genre_jax.load(*sources)
    if (found := weights_sha256(tagger, sources)) != sha256:
        raise UserError(
            f"the weights {sources[0] if sources else PUBLISHED} on this Beam worker have the sha256 {found[:12]}…, and "
            f"{sha256[:12]}… is expected: every Beam worker must see the same workdir"
        )
    return tagger


def _rows(results: Iterable[tuple[Item, Result]], job: Job, tagger: "Tagger") -> Iterator[dict[str, Any]]:
    """Yield the row of each file that was decoded: the values of its columns by name."""
    columns = job.columns()
    for item, result in results:
        row: dict[str, Any] = {"path": item.name.encode("utf-8", "backslashreplace").decode(), "error": None}
        try:
            if isinstance(result, str):
                raise UserError(result)
            tags = tagger.tags(result.pcm, tagger.sample_rate, hop=job.manifest.hop)
        except (UserError, MemoryError) as error:
            row["error"] = console.printable(str(error)) or "tagging needs more memory than this machine has free"
        else:
            row |= {"seconds": tags.seconds, "windows": len(tags.starts), "embedding": tags.embeddings.mean(0)}
            row |= zip(columns, tags.probabilities.mean(0).tolist(), strict=True)
        yield row


def _write(rows: list[dict[str, Any]], job: Job, number: int) -> None:
    """Write the Parquet file of a part, whole or not at all."""
    import pyarrow as pa
    from pyarrow import parquet

    with write_whole(job.part(number)) as file:
        parquet.write_table(pa.Table.from_pylist(rows, schema=job.schema()), file, compression="zstd")
