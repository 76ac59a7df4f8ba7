"""Tag audio: `python -m genre_jax.tag FILE|FOLDER|-… [--list=FILE] [--workdir=DIR|NAME] [--json|--csv] [--embeddings=FILE]`.

Without --workdir, the published taggers musicnn and musicnn-mtt give genres, eras, moods, voices and instruments; they are
fetched on first use. --workdir takes a trained run, one of them alone, a file of `genre_jax.save_pretrained` or of
`genre_jax.export`, or hf://….

A folder stands for all audio below it, and - for standard input, which is held in memory. All arguments after -- are files; a
file that exists needs no --, also if its name begins with a dash. Output: the --top labels of each file over the whole file and
over time, or one JSON object (--json) or one CSV row (--csv) per file. A file that cannot be read or is silent is one line on
standard error; the others are tagged, and the exit status is 1.

With --output=FOLDER the tags of many files are written as Parquet (`tag_files.py`). `tagger.py` holds the Python API.
"""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from genre_jax import console, tag_files, tag_inputs
from genre_jax.atomic import write_whole
from genre_jax.console import UserError, say
from genre_jax.logbook import clock
from genre_jax.tagger import Tagger, Tags

TOP = {"single": 5, "multi": 10}  # labels that are shown, by task
_COLUMNS = 100  # of the console
_CELLS = 12, 40  # least and most blocks of a row over time; the axis needs 12
_BLOCKS = "▁▂▃▄▅▆▇█"


def as_text(name: str, tags: Tags, top: int | None = None) -> str:
    """Format the `top` labels of a file (None: `TOP`) with bars, and the labels over time.

    Over time, task "single" has the segments in which the most probable label stays the same, and task "multi" a row of blocks
    for each label: its mean probability in equal parts of the file. The largest of all rows is a full block.
    """
    overall = list(tags.overall().items())[: top or TOP[tags.task]]
    head = f"{name}  ({clock(tags.seconds)}, {len(tags.starts)} windows of {tags.window_seconds:g} s)"
    if tags.task == "single":
        lines = _bars(overall) + _segments(tags)
    elif len(tags.starts) == 1:
        lines = _bars(overall)
    else:
        lines = _rows(tags, [label for label, _ in overall], _bars(overall, _COLUMNS - 34 - _CELLS[0]))
    return "\n".join(map(console.printable, [head, *lines]))


def _bars(overall: list[tuple[str, float]], longest: int | None = None) -> list[str]:
    """A line for each (label, probability). Labels of more than `longest` characters are cut."""
    names = [console.printable(label) for label, _ in overall]
    names = [name if longest is None or len(name) <= longest else f"{name[: longest - 1]}…" for name in names]
    width = max(map(len, names))
    return [
        f"  {name:<{width}}  {probability:6.1%}  {'█' * round(20 * probability)}"
        for name, (_, probability) in zip(names, overall, strict=True)
    ]


def _segments(tags: Tags) -> list[str]:
    segments = tags.segments()
    lines = [f"    {clock(a)}-{clock(b)}  {label} {probability:.0%}" for a, b, label, probability in segments]
    return lines if len(lines) > 1 else []


def _rows(tags: Tags, labels: list[str], bars: list[str]) -> list[str]:
    """The bars, each with its row of blocks, and the axis of time."""
    indent = bars[0].index("%") + 25
    cells = min(_CELLS[1], max(_CELLS[0], _COLUMNS - indent), len(tags.starts))
    columns = [tags.labels.index(label) for label in labels]
    means = np.array([part.mean(0) for part in np.array_split(tags.probabilities[:, columns], cells)]).T
    levels = np.ceil(means / means.max() * len(_BLOCKS)).clip(1).astype(int) - 1
    lines = [f"{bar:<{indent}}{''.join(_BLOCKS[n] for n in row)}" for bar, row in zip(bars, levels, strict=True)]
    scale, start, end = f"█ = {means.max():.0%}", clock(0), clock(tags.seconds)
    return [*lines, f"{scale:>{indent - 2}}  {start} {end.rjust(cells - len(start) - 1)}"]


def as_json(name: str, tags: Tags) -> dict[str, Any]:
    """Return the probabilities of the file and of each window as values that JSON can represent."""
    ends = np.minimum(tags.starts + tags.window_seconds, tags.seconds)
    return {
        "file": name,
        "seconds": round(tags.seconds, 3),
        "labels": tags.overall(),
        "windows": [
            {"start": round(float(a), 3), "end": round(float(b), 3), "labels": dict(zip(tags.labels, row, strict=True))}
            for a, b, row in zip(tags.starts, ends, tags.probabilities.tolist(), strict=True)
        ],
    }


def as_csv(cells: Iterable[object]) -> str:
    """Format the cells as one line of CSV, without its end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([console.printable(str(cell)) for cell in cells])
    return line.getvalue()


def define_flags() -> None:
    """Define the flags of this command. Not at import, because programs with flags of their own import this module."""
    flags.DEFINE_string(
        "workdir", None, "Workdir of a trained run, a file of it, or published weights; default: musicnn and musicnn-mtt."
    )
    flags.DEFINE_bool("json", False, "Print one JSON object per file, with the probabilities of the file and of each window.")
    flags.DEFINE_bool("csv", False, "Print one CSV row per file: file, seconds, and the probability of each label.")
    flags.DEFINE_string(
        "embeddings", None, "Write path, start (s) and embedding of each window to this .npz file; with --output: mean or none."
    )
    flags.DEFINE_integer("top", None, "Number of labels shown per file; default 10, or 5 of exclusive classes.", lower_bound=1)
    flags.DEFINE_float("hop", 0.0, "Hop between windows in seconds; 0: the hop of the run's evaluation.", lower_bound=0.0)
    tag_files.define_flags()


class _Table:
    """The embeddings of all windows that were tagged."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._starts: list[float] = []
        self._embeddings: list[np.ndarray] = []

    def add(self, name: str, tags: Tags) -> None:
        self._paths += [name] * len(tags.starts)
        self._starts += tags.starts.tolist()
        self._embeddings += list(tags.embeddings)

    def write(self, target: Path) -> None:
        with write_whole(target) as file:
            np.savez(file, path=np.array(self._paths), start=np.array(self._starts), embedding=np.array(self._embeddings))


def main(argv: list[str]) -> int:
    """Tag the files. A file that cannot be read is reported on standard error, and the exit status is then 1."""
    args, names = flags.FLAGS, argv[1:]
    if args.list:
        names = [*names, *tag_inputs.listed(args.list)]
    if args.output:
        return tag_files.main(args, names)
    if not names:
        raise UserError("at least one audio file or folder is needed: python -m genre_jax.tag SONG.mp3")
    if args.json and args.csv:
        raise UserError("--json and --csv were both given: choose one of them")
    target = tag_inputs.check_folder(args.embeddings) if args.embeddings else None
    files, failed = tag_inputs.all_audio_files(names)
    if not files:
        return 1
    tagger, table = Tagger(*([args.workdir] if args.workdir else [])), _Table()
    if args.csv:
        say(as_csv(("file", "seconds", *tagger.labels)))
    with console.silent_libraries(), tag_inputs.Progress(len(files)) as progress:
        for name in files:
            try:
                tags = tagger.tags(tag_inputs.content(name), hop=args.hop, progress=progress.within)
            except UserError as error:
                progress.clear()
                console.complain(error)
                failed += 1
            else:
                progress.clear()
                _print(name, tags)
                if target:
                    table.add(name, tags)
            progress.next()
    if target:
        table.write(target)
    return 1 if failed else 0


def _print(name: str, tags: Tags) -> None:
    """Print the result of a file as the flags say."""
    args = flags.FLAGS
    if args.json:
        say(json.dumps(as_json(name, tags), allow_nan=False))
    elif args.csv:
        mean = tags.probabilities.mean(0)
        say(as_csv((name, round(tags.seconds, 3), *(f"{probability:.6g}" for probability in mean))))
    else:
        say(as_text(name, tags, args.top))


if __name__ == "__main__":
    define_flags()
    console.run(main, tag_inputs.parse_flags)
