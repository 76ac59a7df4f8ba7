"""The Markdown tables of `bench card`, from its record. They name no figure that the record lacks."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], Any], str]  # title, value of a row (None or KeyError: empty), format


def markdown(record: dict[str, Any]) -> str:
    """Return one section per part, and a list of what was not measured."""
    facts = record["environment"]
    machine = [
        facts.get("devices"),
        f"driver: {facts['driver']}" if facts.get("driver") else None,
        f"{facts['cpus']} CPU cores",
    ]
    versions = [f"{name} {facts[name]}" for name in ("jax", "flax", "numpy", "python") if name in facts]
    versions += [f"{name} {version or 'not installed'}" for name, version in facts["peers"].items()]
    lines = [", ".join(filter(None, [*machine, *versions])) + f" ({facts.get('time', 'no time')})."]
    lines += ["", f"Command: `python {facts['command']}`"]
    if record["dry_run"]:
        lines += ["", "This is a dry run with tiny networks: its figures mean nothing."]
    for title, draw in SECTIONS:
        shown = draw(record["measurements"])
        lines += ["", f"## {title}", "", *(shown or ["Not measured."])]
    missing = [one for one in record["measurements"] if one["status"] != "ok"]
    if missing:
        lines += ["", "## Not measured", "", *(f"- `{one['name']}`: {one['status']}" for one in missing)]
    return "\n".join(lines)


def _table(columns: Sequence[Column], rows: Iterable[Row]) -> list[str]:
    """Return the lines of a Markdown table, or none without rows."""
    lines = [f"| {' | '.join(_cell(value, row, text) for _, value, text in columns)} |" for row in rows]
    if not lines:
        return []
    return [f"| {' | '.join(title for title, _, _ in columns)} |", "|---" * len(columns) + "|", *lines]


def _cell(value: Callable[[Row], Any], row: Row, text: str) -> str:
    try:
        shown = value(row)
    except KeyError:
        shown = None
    return "" if shown is None else format(shown, text)


def _rows(measurements: list[Row], command: str, key: str = "rows") -> list[Row]:
    """Return the rows of all measurements by one benchmark."""
    return [row for one in measurements if f"bench {command} " in one.get("command", "") for row in one.get(key, ())]


def _times(row: Row, key: str, factor: float) -> float | None:
    return None if row[key] is None else row[key] * factor


def _dilation(measurements: list[Row]) -> list[str]:
    columns: list[Column] = [
        ("largest dilation", lambda row: row["max_dilation"], ""),
        ("`remat`", lambda row: f"`{row['remat']}`", ""),
        ("clips × s, at a time", lambda row: f"{row['batch']} × {row['seconds']:g}, {row['micro_batch']}", ""),
        ("planned, GB", lambda row: _times(row, "predicted_bytes", 1e-9), ".2f"),
        ("measured, GB", lambda row: _times(row, "measured_bytes", 1e-9), ".2f"),
        ("measured / planned", lambda row: row["measured_bytes"] and row["measured_bytes"] / row["predicted_bytes"], ".2f"),
        ("planned on the host, GB", lambda row: _times(row, "host_temp_bytes", 1e-9), ".1f"),
        ("clips/s", lambda row: row["clips_per_second"], ",.1f"),
        ("TFLOP/s", lambda row: row["step_seconds"] and row["flops"] / row["step_seconds"] / 1e12, ".3g"),
        ("compilation, s", lambda row: row["compile_seconds"], ".1f"),
        ("status", lambda row: row["status"], ""),
    ]
    return _table(columns, _rows(measurements, "dilation"))


def _networks(measurements: list[Row]) -> list[str]:
    """Return the networks against PyTorch. Of a comparison that did not end, the second step of each contestant is shown."""
    rows = _rows(measurements, "train_step")
    complete = {(row["network"], row["library"]) for row in rows}
    for start in _rows(measurements, "train_step", "starts"):
        if (start["network"], start["library"]) not in complete:
            remark = start.get("skipped", "second step, a single one")
            rows.append(start | {"median_s": start.get("step_s"), "remark": remark})
    columns: list[Column] = [
        ("network", lambda row: f"`{row['network']}`", ""),
        ("", lambda row: row["library"], ""),
        ("batch × input", lambda row: " × ".join(map(str, (row["batch"], *row["shape"]))), ""),
        ("step, ms", lambda row: _times(row, "median_s", 1e3), ",.2f"),
        ("times ours", lambda row: row["times_ours"], ".2f"),
        ("inputs/s", lambda row: row["inputs_per_second"], ",.0f"),
        ("TFLOP/s", lambda row: _times(row, "flops_a_second", 1e-12), ".3g"),
        ("first step, s", lambda row: row["compile_s"], ".1f"),
        ("remark", lambda row: row["remark"], ""),
    ]
    return _table(columns, rows)


def _front_ends(measurements: list[Row]) -> list[str]:
    columns: list[Column] = [
        ("front end", lambda row: f"`{row['case']}`", ""),
        ("clips × s", lambda row: f"{row['clips']} × {row['seconds_a_clip']:g}", ""),
        ("", lambda row: row["library"], ""),
        ("median, ms", lambda row: _times(row, "median_s", 1e3), ",.2f"),
        ("times ours", lambda row: row["times_ours"], ".2f"),
        ("error", lambda row: row["error"], ".1e"),
        ("difference from ours", lambda row: row["difference"], ".1e"),
        ("compilation, s", lambda row: row["compile_s"], ".2f"),
    ]
    return _table(columns, _rows(measurements, "frontends"))


def _milliseconds(name: str, row: Row) -> float:
    return row[name] * 1e3


def _backends(measurements: list[Row]) -> list[str]:
    rows = _rows(measurements, "backends")
    names = list(rows[0]["first_s"]) if rows else []
    columns: list[Column] = [
        ("dilation", lambda row: row["dilation"], ""),
        ("pass", lambda row: row["pass"].replace("_", " "), ""),
    ]
    columns += [(f"`{name}`, ms", functools.partial(_milliseconds, name), ",.3f") for name in names]
    columns += [("fastest", lambda row: f"`{row['fastest']}`", "")]
    columns += [("first calls, s", lambda row: sum(row["first_s"].values()), ".1f")]
    return _table(columns, rows)


SECTIONS: tuple[tuple[str, Callable[[list[Row]], list[str]]], ...] = (
    ("ByteNet: planned and measured memory", _dilation),
    ("Training steps against PyTorch", _networks),
    ("Front ends", _front_ends),
    ("Backends of the dilated convolution", _backends),
)
