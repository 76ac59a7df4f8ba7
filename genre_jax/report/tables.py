"""The tables of a report: each is shown on the page, and written as Markdown, CSV and LaTeX.

A table holds the values themselves. The page, Markdown and LaTeX show them rounded; CSV has all digits.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from genre_jax.atomic import write_text
from genre_jax.report import formats

FORMATS = {"md": "Markdown", "csv": "CSV", "tex": "LaTeX"}
_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # \\ takes a bracket or an asterisk after it as its argument
    "*": "{*}",
    "–": "--",
}
# The name of every table; with several runs, those of a run begin with "run-NUMBER-".
NAMES = (
    *("published", "runs", "cost", "differences", "labels", "speech", "paired"),
    *("accuracy", "scores", "confusion", "confusions", "classes", "calibration", "thresholds"),
    *("kernels", "chords"),
    *("nearest-classes", "analogies", "worst-clips", "worst-training-clips", "tracks", "environment"),
)
_FORMULA = "=+-@＝＋－＠"  # first characters that a spreadsheet takes for a formula; the last four are full-width


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its title, the text of a value, and the names of its parts if a value has several (CSV has a column each)."""

    title: str
    show: Callable[[object], str] = formats.text
    parts: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers, which stand at the right."""
        return self.show is not formats.text


INTERVAL = Column("95 % interval", formats.interval, ("low", "high"))


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      name: name of its files, without extension.
      title: what it shows.
      columns: its columns.
      rows: the values of each row, one for each column.
      links: a link for the first cell of each row, "" for none; empty: no links.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[object]]
    links: Sequence[str] = ()

    @property
    def titles(self) -> list[str]:
        """The titles of the columns, as text on one line."""
        return [formats.text(column.title) for column in self.columns]

    @property
    def shown(self) -> list[list[str]]:
        """The text of each cell."""
        return [[column.show(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]


def write(tables: Iterable[Table], folder: Path) -> None:
    """Write `NAME.md`, `NAME.csv` and `NAME.tex` of each table, and delete those of an earlier report."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if re.fullmatch(rf"(run-\d+-)?({'|'.join(NAMES)})\.({'|'.join(FORMATS)})", old.name):
            old.unlink()
    for table in tables:
        for suffix, convert in zip(FORMATS, (markdown, comma_separated, latex), strict=True):
            write_text(folder / f"{table.name}.{suffix}", convert(table))


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown. Characters that Markdown or HTML would interpret are escaped."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |\n"

    rule = ("---:" if column.numeric else "---" for column in table.columns)
    rows = (line(map(in_markdown, row)) for row in table.shown)
    return line(map(in_markdown, table.titles)) + line(rule) + "".join(rows)


def in_markdown(text: str) -> str:
    """The text with escapes for the characters that Markdown or HTML would interpret."""
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def comma_separated(table: Table) -> str:
    """The table as CSV with a header. Numbers have all digits; a text that a spreadsheet would calculate begins with "'"."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    titles = []
    for column, title in zip(table.columns, table.titles, strict=True):
        titles += [f"{title}, {part}" for part in column.parts] or [title]
    writer.writerow(map(_in_csv, titles))
    for row in table.rows:
        cells: list[object] = []
        for column, value in zip(table.columns, row, strict=True):
            parts = value if isinstance(value, tuple) else (value,) * max(1, len(column.parts))
            cells += parts if column.parts else [value]
        writer.writerow(map(_in_csv, cells))
    return file.getvalue()


def _in_csv(value: object) -> object:
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, int | float):
        return value
    text = formats.text(value)
    return f"'{text}" if text.lstrip()[:1] in tuple(_FORMULA) else text


def latex(table: Table) -> str:
    """The table as a `tabular` of LaTeX, without any package. Special characters are escaped."""
    kinds = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = [f"% {table.title}".replace("\n", " "), f"\\begin{{tabular}}{{{kinds}}}", r"\hline"]
    lines += [f"{' & '.join(map(_in_latex, row))} \\\\" for row in (table.titles, *table.shown)]
    lines[4:4] = [r"\hline"]
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
