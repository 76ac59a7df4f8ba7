"""Runs that differ only in their seed are one system: which runs they are, and how far systems differ on the same tracks."""

import re
from collections.abc import Sequence

import numpy as np

from genre_jax import intervals
from genre_jax.report import formats
from genre_jax.report.comparison import flatten
from genre_jax.report.runs import Run
from genre_jax.report.tables import Column, Table

NOT_THE_PROTOCOL = ("seed", "name", "data.data_dir")  # keys that may differ between runs that are repetitions of each other
OTHER_RUNS = ("init_from", "distill.teacher")  # keys that may name a run of the same seed, as in runs/teacher/seed_0


def settings(config: dict) -> dict:
    """The keys and values of a config that are equal for runs that differ only in their seed.

    The seed at the end of a folder of the teacher, or of the weights to start from, is left out, as in runs/teacher_0.
    """
    seed = re.compile(rf"(?:[_-]|(?<=/)){re.escape(str(config.get('seed')))}(?=/|$)")
    values = {key: value for key, value in flatten(config | {"made_by": None}).items() if key not in NOT_THE_PROTOCOL}
    named = {key: seed.sub("", str(values[key])) for key in OTHER_RUNS if values.get(key)}
    return values | named


def by_seed(runs: Sequence[Run]) -> list[list[Run]]:
    """Put runs of the same settings, data set and split together, in the order of the runs. A run without config is alone."""
    groups: list[tuple[object, list[Run]]] = []
    for run in runs:
        results = run.results or {}
        key = (settings(run.config), results.get("data_set"), results.get("split")) if run.config else run.workdir
        same = [members for other, members in groups if other == key]
        if same:
            same[0].append(run)
        else:
            groups.append((key, [run]))
    return [members for _, members in groups]


def title(system: Sequence[Run]) -> str:
    """The name of the first run of a system, with the number of its seeds if there are several."""
    name = system[0].name
    if len(system) == 1:
        return name
    return f"{name[:-1]}, {len(system)} seeds)" if name.endswith(")") else f"{name} ({len(system)} seeds)"


def differences(runs: Sequence[Run], links: Sequence[str]) -> Table | None:
    """The accuracy of windows of each system minus that of the first system on the same data set and split.

    The intervals are those of `intervals.paired_bootstrap`, over the tracks that both systems were tested on. None if no two
    systems with predictions and one label per clip share a data set and a split.
    """
    link_of = {id(run): link for run, link in zip(runs, links, strict=True)}
    usable = [run for run in runs if run.task == "single" and run.results and run.predictions]
    first: dict[tuple, list[Run]] = {}
    rows, chosen = [], []
    for system in by_seed(usable):
        results = system[0].results or {}
        reference = first.setdefault((results.get("data_set"), results.get("split")), system)
        if reference is system:
            continue
        ours, theirs, tracks = _on_shared_tracks(system, reference)
        if tracks:
            found = intervals.paired_bootstrap(ours, theirs)
            rows.append((title(system), title(reference), found.value, (found.low, found.high), tracks))
            chosen.append(link_of[id(system[0])])
    columns = (
        *(Column("Run"), Column("Compared with"), Column("Difference", formats.signed)),
        *(Column("95 % interval", formats.signed_interval, ("low", "high")), Column("Tracks", formats.number)),
    )
    return Table("paired", "Differences", columns, rows, chosen) if rows else None


def _on_shared_tracks(ours: Sequence[Run], theirs: Sequence[Run]) -> tuple[list[intervals.Counts], list[intervals.Counts], int]:
    """The windows of both systems on the tracks that all their runs were tested on, and the number of these tracks."""
    tables = [run.predictions or {} for run in (*ours, *theirs)]
    named = [table["track_names"][table["track"]] for table in tables]
    shared = np.unique(named[0])
    for names in named[1:]:
        shared = np.intersect1d(shared, names)
    counts = []
    for table, names in zip(tables, named, strict=True):
        kept = np.isin(names, shared)
        target, answers = table["target"][kept], table["logits"][kept].argmax(axis=1)
        counts.append(intervals.Counts((target >= 0) & (answers == target), target >= 0, np.searchsorted(shared, names[kept])))
    return counts[: len(ours)], counts[len(ours) :], len(shared)
