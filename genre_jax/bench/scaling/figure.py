"""The figure of `bench scaling`: measured steps with the model, and the prediction."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from genre_jax.atomic import read_json
from genre_jax.console import UserError
from genre_jax.report import figures

KINDS = {"weak": "batch grows with the devices", "strong": "fixed batch"}


def plot(path: Path) -> Path:
    """Draw a record beside its file; return the path of the light version."""
    record = read_json(path, dict)
    if record.get("benchmark") != "scaling":
        raise UserError(f"--plot must name a JSON file that this benchmark wrote; {str(path)!r} is not one")
    out = path.with_suffix(".png")
    figures.save(out, draw(record))
    return out


def draw(record: dict[str, Any]) -> figures.Draw:
    """Return a figure with a panel of measured steps, and two panels of the prediction: weak and strong scaling."""
    measured = [row for row in record["rows"] if row["status"] == "ok"]
    predicted = record["prediction"]["rows"]

    def draw(theme: figures.Theme) -> Figure:
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        steps, weak, strong = figure.subplots(1, 3)
        _steps(steps, theme, measured)
        _bands(weak, theme, [row for row in predicted if row["kind"] == "weak"], "efficiency")
        weak.set(title="predicted: efficiency, batch grows", xlabel="devices", ylim=(0, 1.03))
        weak.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _bands(strong, theme, [row for row in predicted if row["kind"] == "strong"], "clips_per_second")
        strong.set(title="predicted: clips/s, fixed batch", xlabel="devices", yscale="log")
        strong.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        for axes in (steps, weak, strong):
            axes.grid(True)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), handlelength=3)
        return figure

    return draw


def _ticks(axes: Any, devices: set[int], every: int = 1) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(devices)[::every], [str(count) for count in sorted(devices)[::every]])
    axes.set_xticks([], minor=True)


def _steps(axes: Any, theme: figures.Theme, rows: list[dict[str, Any]]) -> None:
    """Draw the measured steps as markers and the model as lines."""
    for number, (kind, hosts) in enumerate(dict.fromkeys((row["kind"], row["hosts"]) for row in rows)):
        line = [row for row in rows if (row["kind"], row["hosts"]) == (kind, hosts)]
        x, style = [row["devices"] for row in line], {"color": theme.colours[number % 6]}
        label = f"{KINDS[kind]}, {hosts} process{'es' if hosts > 1 else ''}"
        axes.plot(x, [1e3 * row["step_s"] for row in line], figures.MARKERS[number % 7], markersize=6, label=label, **style)
        if all("model_s" in row for row in line):
            axes.plot(x, [1e3 * row["model_s"] for row in line], "--", linewidth=1.2, **style)
    axes.set(title="measured step, ms (dashed: model)", xlabel="devices", ylim=(0, None))
    _ticks(axes, {row["devices"] for row in rows})


def _bands(axes: Any, theme: figures.Theme, rows: list[dict[str, Any]], key: str) -> None:
    """Draw a band per network and link: from the all-reduce after the backward pass to that hidden behind it."""
    networks = list(dict.fromkeys(row["config"] for row in rows))
    links = list(dict.fromkeys(row["link"] for row in rows))
    for network, link in dict.fromkeys((row["config"], row["link"]) for row in rows):
        after, behind = (
            [row for row in rows if (row["config"], row["link"], row["overlap"]) == (network, link, overlap)]
            for overlap in (False, True)
        )
        x = [row["devices"] for row in after]
        colour, dash = theme.colours[networks.index(network) % 6], figures.STYLES[links.index(link) % 4]
        low, high = ([row[key] for row in line] for line in (after, behind))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, low, dash, color=colour, linewidth=1.6, label=f"{network.removesuffix('_spectrogram')}, {link}")
        axes.plot(x, high, dash, color=colour, linewidth=0.7)
    _ticks(axes, {row["devices"] for row in rows}, every=2)
