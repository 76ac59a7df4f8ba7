"""Printed scores beside ours: the rows of third_party/published_results.csv, and the runs that repeat them.

A run repeats a row if it was made by the config file of the row with at least the presets of the row. If rows of the same file
have presets that contain each other, a run counts for those with the most presets: a run of `schindler.py:shallow,exp`
does not repeat the row of `schindler.py:shallow`.
"""

import csv
import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from genre_jax import shipped
from genre_jax.console import UserError
from genre_jax.data.locate import read_passport
from genre_jax.explain import kernels
from genre_jax.report import bounds, formats
from genre_jax.report.runs import Run
from genre_jax.report.systems import NOT_THE_PROTOCOL, settings
from genre_jax.report.tables import INTERVAL, Column, Table

FILE = shipped.THIRD_PARTY / "published_results.csv"
DOCUMENTS = {
    "000": "Pollack 2018",
    "001": "Folmer & Lung 2021",
    "002": "Burrows, Jackson & Zamora",
    "003": "Wang",
    "004": "Wyborn, Butt & Klas",
}
TEXTS = ("document", "table", "system", "front_end", "loss", "data", "variant", "metric", "value", "unit", "config", "ours")


@dataclasses.dataclass(frozen=True)
class Row:
    """A printed score: the columns of the file, with `config` as a file and its presets, and `ours` as a path of keys."""

    document: str
    table: str
    system: str
    front_end: str
    loss: str
    data: str
    variant: str
    metric: str
    value: float
    unit: str
    file: PurePosixPath
    presets: frozenset[str]
    ours: tuple[str, ...]

    @property
    def details(self) -> str:
        """What distinguishes the row from others of its system, on one line."""
        return " · ".join(filter(None, (self.front_end, self.loss, self.data, self.variant)))

    @property
    def printed(self) -> str:
        """The printed value with its unit, as in "85.6 %"."""
        return f"{formats.significant(self.value)} {self.unit}".strip()


@dataclasses.dataclass(frozen=True)
class Ours:
    """The runs that repeat a row.

    Attributes:
      runs: rows of the page's runs, in their order; the last one is shown.
      values: score of each of them, as a share, or in the unit of the row if that is not %; NaN if it is not in results.json.
      seeds: runs that differ from the last one in the seed only, and the last one.
      interval: 95 % interval of the last run, as shares, or None.
      protocol: facts about the last run, each a short text.
      unit: unit of the row.
    """

    runs: tuple[int, ...]
    values: tuple[float, ...]
    seeds: tuple[float, ...]
    interval: tuple[float, float] | None
    protocol: tuple[str, ...]
    unit: str = "%"

    @property
    def mean(self) -> float:
        """Mean of the runs that differ in the seed only."""
        return float(np.mean(self.seeds)) if self.seeds else math.nan

    @property
    def deviation(self) -> float:
        """Their standard deviation (with n - 1); NaN for a single run."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else math.nan

    def text(self, value: float) -> str:
        """A value as text: "84.0 %", or in another unit "580 ms"."""
        if self.unit == "%" or not math.isfinite(value):
            return formats.percent(value)
        return f"{value:,.0f} {self.unit}"

    @property
    def shown(self) -> str:
        """The score as text: "84.0 %", or "84.0 % ± 0.8 % (5 seeds)". A size does not depend on the seed."""
        if len(self.seeds) < 2 or self.unit != "%":
            return self.text(self.mean)
        return f"{self.text(self.mean)} ± {self.text(self.deviation)} ({len(self.seeds)} seeds)"


def read(path: Path) -> list[Row]:
    """Read the file of printed scores. Raises `UserError` if it is missing or damaged."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing, the file of the printed scores: install genre_jax again") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8: {error}") from error
    missing = sorted(set(TEXTS) - set(lines[0] if lines else ()))
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}")
    rows = []
    for number, line in enumerate(lines, 2):
        texts = {key: formats.text(line[key] or "") for key in TEXTS}
        try:
            value = float(texts.pop("value"))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: the value {line['value']!r} is not a number") from error
        file_name, presets = split_spec(texts.pop("config"))
        rows.append(Row(value=value, file=file_name, presets=presets, ours=tuple(texts.pop("ours").split("/")), **texts))
    return rows


def split_spec(spec: str) -> tuple[PurePosixPath, frozenset[str]]:
    """Split the value of --config, FILE:preset,preset or NAME:preset,preset, into the file and its presets."""
    file, _, argument = spec.partition(":")
    if shipped.is_name(file):
        file = f"configs/{file}.py"
    return PurePosixPath(file), frozenset(filter(None, argument.split(",")))


def matches(rows: Sequence[Row], runs: Sequence[Run]) -> list[Ours | None]:
    """Return the runs that repeat each row; None for a row that no run repeats."""
    found: list[list[int]] = [[] for _ in rows]
    for number, run in enumerate(runs):
        made_by = run.config.get("made_by")
        spec = made_by.get("config") if isinstance(made_by, dict) else None
        if not isinstance(spec, str) or not run.results:
            continue
        file, presets = split_spec(spec)
        fitting = [i for i, row in enumerate(rows) if _ends_with(file, row.file) and row.presets <= presets]
        for i in fitting:
            if not any(rows[i].presets < rows[j].presets for j in fitting):
                found[i].append(number)
    return [_ours(row, chosen, runs) if chosen else None for row, chosen in zip(rows, found, strict=True)]


def _ends_with(file: PurePosixPath, end: PurePosixPath) -> bool:
    """Whether `file` is `end`, with or without folders before it."""
    return bool(end.parts) and file.parts[-len(end.parts) :] == end.parts


def _ours(row: Row, chosen: list[int], runs: Sequence[Run]) -> Ours:
    last = runs[chosen[-1]]
    values = [_value(row, runs[number]) for number in chosen]
    same = settings(last.config)
    seeds = [value for number, value in zip(chosen, values, strict=True) if settings(runs[number].config) == same]
    return Ours(
        tuple(chosen),
        tuple(values),
        tuple(value for value in seeds if math.isfinite(value)),
        bounds.interval(last, row.ours),
        tuple(protocol(last, row)),
        row.unit,
    )


def _value(row: Row, run: Run) -> float:
    """The score of a run for a row: a number of results.json, or for a row of "kernel" a size that follows from the config."""
    if row.ours[0] == "kernel":
        return kernels.effective_size(run.config, row.ours)
    return bounds.lookup(run.results or {}, row.ours)


def protocol(run: Run, row: Row) -> list[str]:
    """Facts that say how a run differs from the printed experiment: data, clips, windows, weights, presets and overrides."""
    results = run.results or {}
    expected = expected_clips(run)
    clips = formats.number(results.get("clips"))
    start = run.config.get("init_from")
    made_by = run.config.get("made_by") or {}
    overrides = made_by.get("overrides")
    given = list(map(str, overrides)) if isinstance(overrides, list) else []
    extra = sorted(split_spec(str(made_by.get("config")))[1] - row.presets)
    changes = [change for change in (*extra, *given) if change.partition("=")[0] not in NOT_THE_PROTOCOL]
    facts = [
        f"data {results.get('data_set', formats.DASH)}, split {results.get('split', formats.DASH)}",
        f"{clips} of {formats.number(expected)} clips" if expected else f"{clips} clips",
        f"{formats.number(results.get('windows'))} windows",
        f"weights of {start}" if start else "from scratch",
        f"changed: {', '.join(changes)}" if changes else "no preset or key changed",
    ]
    return list(map(formats.text, facts))


def expected_clips(run: Run) -> int | None:
    """How many clips the evaluated split would have if none were missing or excluded; None if the passport does not say it."""
    try:
        splits = read_passport(run.folder)["splits"] if run.folder and run.results else {}
        parts = [splits[part] for part in run.results["split"].split("+")] if splits and run.results else []
        return sum(int(part["clips"]) + int(part.get("missing", 0)) for part in parts) or None
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def section(runs: Sequence[Run], always: bool) -> dict | None:
    """The printed scores beside ours, by document, and their table; None if no run repeats a row and `always` is false."""
    try:
        rows = read(FILE)
    except UserError as error:
        if always:
            raise
        return {"fault": formats.text(error)} if FILE.exists() else None
    ours = matches(rows, runs)
    if not always and not any(ours):
        return None
    documents = []
    for document in dict.fromkeys(row.document for row in rows):
        pairs = [(row, found) for row, found in zip(rows, ours, strict=True) if row.document == document]
        run, not_run = ([pair for pair in pairs if bool(pair[1]) is has] for has in (True, False))
        facts = {"number": document, "name": DOCUMENTS.get(document, ""), "rows": len(pairs), "done": len(run)}
        documents.append(facts | {"run": _groups(run), "not_run": _groups(not_run), "missing": len(not_run)})
    return {"documents": documents, "done": sum(map(bool, ours)), "rows": len(rows), "table": as_table(rows, ours, runs)}


def _groups(pairs: list[tuple[Row, Ours | None]]) -> list[list[tuple[Row, Ours | None]]]:
    """Put neighbouring rows that differ in their metric only, and have the same runs, into one group."""

    def key(pair: tuple[Row, Ours | None]) -> tuple:
        row, found = pair
        return row.table, row.system, row.details, found and (found.runs, found.protocol)

    return [list(group) for _, group in itertools.groupby(pairs, key)]


def _mean(value: object) -> str:
    """A share as a percentage. Values in other units are texts already."""
    return value if isinstance(value, str) else formats.percent(value)


def as_table(rows: Sequence[Row], ours: Sequence[Ours | None], runs: Sequence[Run]) -> Table:
    """All rows in one table, with "not run" where no run repeats a row."""
    names = ("Document", "Table", "System", "Front end", "Loss", "Data", "Variant", "Metric")
    columns = (
        *map(Column, names),
        *(Column("Printed", formats.significant), Column("Unit"), Column("Ours", _mean)),
        *(Column("s.d.", formats.percent), Column("Seeds", formats.number), INTERVAL, Column("Protocol"), Column("Runs")),
    )
    lines: list[tuple] = []
    for row, found in zip(rows, ours, strict=True):
        texts = (row.document, row.table, row.system, row.front_end, row.loss, row.data, row.variant, row.metric)
        if found is None:
            lines.append((*texts, row.value, row.unit, None, None, None, None, "not run", None))
            continue
        all_runs = "; ".join(
            f"{runs[number].name}: {formats.percent(value)}" for number, value in zip(found.runs, found.values, strict=True)
        )
        mean = found.mean if row.unit == "%" else found.text(found.mean)
        deviation = found.deviation if row.unit == "%" else None
        scores = (mean, deviation, len(found.seeds), found.interval)
        lines.append((*texts, row.value, row.unit, *scores, "; ".join(found.protocol), all_runs))
    return Table("published", "Printed scores and ours", columns, lines)
