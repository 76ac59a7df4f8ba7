"""The figure of `bench dilation`: memory and speed against the largest dilation, with one line per policy."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from genre_jax.console import UserError
from genre_jax.report import figures

# Keys that distinguish lines of the same policy if the rows have several values of them.
VARIED = ("target", "backend", "dtype", "seconds", "batch", "micro_batch", "time_shards")
MARKERS = ("o", "s", "D", "^", "v", "P")


def plot(paths: list[Path]) -> Path:
    """Draw the rows of all files into one figure beside the first file; return the path of the light version."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        try:
            record = json.loads(path.read_text())
            if record["benchmark"] != "dilation":
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"--plot must name JSON files that this benchmark wrote; {str(path)!r} is not one") from error
        rows += record["rows"]
    rows = [row for row in rows if row["predicted_bytes"] is not None]
    if not rows:
        raise UserError(f"there is nothing to draw in {', '.join(str(path) for path in paths)}: no row was compiled")
    out = paths[0].with_suffix(".png")
    figures.save(out, memory_and_speed(rows))
    return out


def _lines(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return label → rows of a line, sorted by dilation; of two rows with equal settings the later one counts."""
    varied = [key for key in VARIED if len({row.get(key) for row in rows}) > 1]
    if "batch" in varied and all(row["micro_batch"] == row["batch"] for row in rows):
        varied.remove("micro_batch")
    units = {"seconds": "{} s", "batch": "batch {}", "micro_batch": "micro-batch {}", "time_shards": "{} shards"}
    lines: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        label = ", ".join([row["remat"], *(units.get(key, "{}").format(row.get(key) or "here") for key in varied)])
        lines.setdefault(label, {})[row["max_dilation"]] = row
    return {label: [line[dilation] for dilation in sorted(line)] for label, line in lines.items()}


def memory_and_speed(rows: list[dict[str, Any]]) -> figures.Draw:
    """Return a figure of predicted bytes and, if measured, clips per second. A cross marks a row that ran out of memory."""
    lines = _lines(rows)
    dilations = sorted({row["max_dilation"] for row in rows})
    policies = list(dict.fromkeys(row["remat"] for row in rows))
    panels: dict[str, tuple[str, float]] = {"memory per device (GB)": ("predicted_bytes", 1e9)}
    if any(row["clips_per_second"] is not None for row in rows):  # not with --plan_only
        panels["clips per second"] = ("clips_per_second", 1)
    short = any(row["status"] == "out of memory" for row in rows)

    def draw(theme: figures.Theme) -> Figure:
        figure = Figure(figsize=(2 + 4.5 * len(panels), 4.2), layout="constrained")
        drawn: dict[str, int] = {}
        for axes, (title, (key, unit)) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            drawn.clear()
            for label, line in lines.items():
                policy = policies.index(line[0]["remat"])
                number = drawn[line[0]["remat"]] = drawn.get(line[0]["remat"], -1) + 1
                style = {"color": theme.colours[policy % 6], "linestyle": figures.STYLES[number % 4], "linewidth": 1.8}
                measured = [row for row in line if row[key] is not None]
                x, y = [row["max_dilation"] for row in measured], [row[key] / unit for row in measured]
                axes.plot(x, y, marker=MARKERS[policy % 6], markersize=5, label=label, **style)
                lost = [row for row in line if row["status"] == "out of memory"]
                at = [(row[key] or 0) / unit for row in lost]
                cross = {"s": 110, "linewidth": 2.2, "zorder": 3, "clip_on": False}
                axes.scatter([row["max_dilation"] for row in lost], at, marker="x", color=style["color"], **cross)
            axes.set_xscale("log", base=2)
            axes.set_xticks(dilations, [str(dilation) for dilation in dilations])
            axes.set_xticks([], minor=True)
            axes.tick_params("x", pad=9)  # below the crosses at 0
            axes.set(title=title, xlabel="largest dilation", ylim=(0, None))
            axes.margins(x=0.06)
            axes.grid(True)
        handles, labels = axes.get_legend_handles_labels()
        if short:
            handles.append(axes.scatter([], [], marker="x", s=60, linewidth=2, color=theme.ink))
            labels.append("out of memory")
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(handles), 6))
        return figure

    return draw
