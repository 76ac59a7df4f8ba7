"""The figures of a report, drawn with matplotlib without a display, for light and dark pages, and again for narrow screens.

`curves`, `panels`, `confusion` and `per_class` return a `Draw`: a function that makes a `matplotlib.figure.Figure` for a
theme. `charts.py` has more of them. The figures bypass pyplot and need not be closed. The colours are those of Okabe and Ito,
which colour-blind readers can distinguish, and lines also differ in style or marker.
"""

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from genre_jax.report.formats import shorten
from genre_jax.report.runs import finite

LEGIBLE = 16  # classes of a confusion matrix on a phone; a larger one scrolls
NARROW = 3.4  # width in inches of a figure on a phone
DPI = 160  # of the files; the page shows 100 pixels per inch, and the figures therefore stay sharp on dense screens


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of the light or the dark page.

    Attributes:
      suffix: suffix of the file names.
      paper: background.
      ink: text.
      grid: grid lines and axes.
      colours: lines and markers, in order of use.
      narrow: whether the figure must fit a phone (`NARROW` inches).
    """

    suffix: str
    paper: str
    ink: str
    grid: str
    colours: tuple[str, ...]
    narrow: bool = False

    @property
    def name(self) -> str:
        """The theme of a browser that shows the page with this theme."""
        return "dark" if self.suffix else "light"

    @property
    def on_a_phone(self) -> "Theme":
        """This theme for a narrow screen."""
        return dataclasses.replace(self, narrow=True)

    @property
    def ramp(self) -> LinearSegmentedColormap:
        """Colour map from the background to the first colour, with monotonic lightness."""
        return LinearSegmentedColormap.from_list("ramp", [self.paper, self.colours[0]])

    @property
    def settings(self) -> dict:
        """Settings of matplotlib for this theme."""
        return {
            "figure.facecolor": self.paper,
            "axes.facecolor": self.paper,
            "savefig.facecolor": self.paper,
            "axes.edgecolor": self.grid,
            "axes.labelcolor": self.ink,
            "axes.titlecolor": self.ink,
            "axes.titlelocation": "left",
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.labelsize": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.color": self.grid,
            "grid.linewidth": 0.6,
            "xtick.color": self.ink,
            "ytick.color": self.ink,
            "xtick.labelsize": 8.5,
            "ytick.labelsize": 8.5,
            "xtick.major.size": 0,
            "ytick.major.size": 0,
            "legend.frameon": False,
            "legend.labelcolor": self.ink,
            "legend.fontsize": 8.5,
            "text.color": self.ink,
            "text.parse_math": False,  # a class name may contain "$"
        }


LIGHT = Theme("", "#ffffff", "#30343b", "#d9dce1", ("#0072B2", "#D55E00", "#009E73", "#B8578F", "#B97F00", "#444444"))
DARK = Theme("-dark", "#191c22", "#d5d9e0", "#3a3f49", ("#56B4E9", "#F0903C", "#2CC79A", "#E39AC4", "#F0E442", "#bbbbbb"))
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CROWD = 6  # runs; more of them have no training curves in the figure that compares them
LEGEND = 40  # characters of the name of a run in a legend
Draw = Callable[[Theme], Figure]
Metrics = Sequence[Mapping]


def save(path: Path, draw: Draw, narrow: bool = False) -> dict[str, Any]:
    """Draw `path` (NAME.png) and NAME-dark.png; return both file names and the size on the page in pixels.

    With `narrow`, the entry "narrow" has the same of NAME-narrow.png and NAME-narrow-dark.png, which fit a phone.
    """
    picture: dict[str, Any] = {}
    for theme in (LIGHT, DARK):
        with matplotlib.rc_context(theme.settings), without_font_messages():
            figure = draw(theme)
            width, height = (round(100 * inches) for inches in figure.get_size_inches())
            file = path.with_name(path.stem + theme.suffix + path.suffix)
            figure.savefig(file, dpi=DPI)
        picture |= {theme.name: file.name, "width": width, "height": height}
    if narrow:
        picture["narrow"] = save(path.with_stem(f"{path.stem}-narrow"), lambda theme: draw(theme.on_a_phone))
    return picture


@contextlib.contextmanager
def without_font_messages() -> Iterator[None]:
    """Silence matplotlib if no font has the script of a class name; the caller's settings return afterwards."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            yield
    finally:
        logger.setLevel(level)


def series(lines: Metrics, split: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values `(lines,)` float64 of one key of metrics.jsonl; a value that is not a number is NaN."""
    chosen = [(line["step"], line[key]) for line in lines if line.get("split") == split and key in line]
    return np.array([step for step, _ in chosen], np.float64), np.array([finite(value) for _, value in chosen], np.float64)


def smooth(values: np.ndarray) -> np.ndarray:
    """Return a Gaussian moving average (standard deviation: 1/40 of the points) that ignores values that are not finite."""
    width = len(values) // 40
    if width < 1:
        return values
    kernel = np.exp(-0.5 * (np.arange(-3 * width, 3 * width + 1) / width) ** 2)
    finite = np.isfinite(values)
    weight = np.convolve(finite, kernel, "same")
    total = np.convolve(np.where(finite, values, 0), kernel, "same")
    return np.where(finite, total / np.maximum(weight, 1e-9), np.nan)


# ---------------------------------------------------------------- curves


def curves(runs: Mapping[str, Metrics], keys: Mapping[str, str]) -> Draw:
    """Learning curves, one panel for each of `keys` (key → title): training raw and smoothed, validation with markers.

    With several runs the colour and the style show the run, and the raw training values are omitted. With more than `CROWD`
    runs the training curves of the runs that have a validation curve are omitted as well.
    """

    def draw(theme: Theme) -> Figure:
        several = len(runs) > 1
        columns = 1 if theme.narrow else min(len(keys), 3)
        rows = -(-len(keys) // columns)
        names = list(runs) if several else ["training, raw", "training, smoothed", "validation"]
        per_row = _legend_columns(names, theme)
        legend = 0.2 * -(-len(names) // per_row)
        width, height = (NARROW, 2.5) if theme.narrow else (11, 3.9 if several else 3.4)
        figure = Figure(figsize=(width, height * rows + legend), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(keys) :]:
            axes.set_visible(False)
        for axes, (key, title) in zip(panels, keys.items(), strict=False):
            for number, (run, lines) in enumerate(runs.items()):
                _curve(axes, theme, lines, key, number, run if several else "", len(runs) > CROWD)
            axes.set(title=title, xlabel="step")
            axes.grid(True)
            axes.xaxis.set_major_locator(MaxNLocator(4 if theme.narrow else 6, integer=True))
            if key != "loss":
                axes.yaxis.set_major_formatter(PercentFormatter(1))  # as many decimals as the range needs
            _limits(axes, [series(lines, split, key) for lines in runs.values() for split in ("train", "validation")])
        handles, labels = max((axes.get_legend_handles_labels() for axes in panels), key=lambda legend: len(legend[1]))
        if handles:
            shown = [shorten(label, LEGEND) for label in labels]
            figure.legend(handles, shown, loc="outside lower center", ncols=min(len(handles), per_row), handlelength=3.2)
        return figure

    return draw


def _legend_columns(names: Sequence[str], theme: Theme) -> int:
    """How many names fit beside each other in the legend."""
    longest = max(min(len(name), LEGEND) for name in names)
    return max(1, int((NARROW if theme.narrow else 10.5) / (0.75 + 0.075 * longest)))


def _curve(axes, theme: Theme, lines: Metrics, key: str, number: int, run: str, crowded: bool) -> None:
    """Draw the lines of one run in one panel; `run` is its name for the legend, or "" if it is the only run."""
    colour = theme.colours[number % len(theme.colours)]
    dash = STYLES[number // len(theme.colours) % len(STYLES)]
    marker = MARKERS[number % len(MARKERS)] if run else "o"
    steps, values = series(lines, "train", key)
    single = {"marker": "o", "markersize": 4} if np.isfinite(values).sum() == 1 else {}
    checked, checks = series(lines, "validation", key)
    name = run or "validation"
    if run and not (crowded and len(checked)):
        axes.plot(steps, smooth(values), dash, color=colour, alpha=0.45, linewidth=1.2, **single)
    elif len(steps) and not run:
        axes.plot(steps, values, color=colour, alpha=0.35, linewidth=0.8, label="training, raw")
        axes.plot(steps, smooth(values), color=colour, linewidth=1.8, label="training, smoothed", **single)
    if len(checked):
        style = {"color": colour if run else theme.colours[1], "linewidth": 1.8, "markersize": 4}
        axes.plot(checked, checks, dash, marker=marker if len(checked) < 60 else None, label=name, **style)
    elif run:
        axes.plot([], [], dash, color=colour, marker=marker, markersize=4, label=name)


def _limits(axes, lines: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Limit the y axis to 99 % of the raw values, because a few spikes would otherwise flatten the curves."""
    values = [smooth(values) for _, values in lines]
    finite = np.concatenate([v[np.isfinite(v)] for v in values])
    if finite.size > 1 and (spread := finite.max() - finite.min()) > 0:
        raw = np.concatenate([v[np.isfinite(v)] for _, v in lines])
        low, high = np.percentile(raw, [0.5, 99.5])
        axes.set_ylim(min(finite.min(), low) - 0.04 * spread, max(finite.max(), high) + 0.04 * spread)


def panels(columns: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str, percent: Sequence[str] = ()) -> Draw:
    """One panel with one line for each of `columns` (title → (x, y)); the titles in `percent` have an axis of 0 to 100 %."""

    def draw(theme: Theme) -> Figure:
        shape = (len(columns), 1) if theme.narrow else (1, len(columns))
        figure = Figure(figsize=(NARROW, 2.2 * len(columns)) if theme.narrow else (11, 2.7), layout="constrained")
        for axes, (title, (x, y)) in zip(np.ravel(figure.subplots(*shape)), columns.items(), strict=True):
            single = {"marker": "o", "markersize": 4} if len(x) == 1 else {}
            axes.plot(x, y, color=theme.colours[0], linewidth=1.5, **single)
            axes.set(title=title, xlabel=xlabel)
            axes.grid(True)
            if title in percent:
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
                axes.set_ylim(0, 1)
            elif np.isfinite(y).any():
                axes.set_ylim(0, 1.08 * np.nanmax(y[np.isfinite(y)]) or 1)
        return figure

    return draw


# ---------------------------------------------------------------- classes


def confusion(matrix: np.ndarray, classes: Sequence[str], rates: bool) -> Draw:
    """A confusion matrix (rows are true classes) of counts, or with `rates` of percentages of the true class."""
    count = len(classes)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    values = shares if rates else matrix

    def draw(theme: Theme) -> Figure:
        names = [shorten(name, 14 if theme.narrow else 26) for name in classes]
        margin = 0.5 + 0.075 * max(map(len, names), default=0)
        space = NARROW - 0.1 if theme.narrow else max(10.7 if count > 12 else 5.25, 0.15 * count + margin)
        cell = min(40.0, space - margin) / max(count, 1)
        letters = min(8.5, 60 * cell)
        digits = min(8.5, 72 * cell * (0.42 if rates or matrix.max(initial=0) < 100 else 0.34))
        side = cell * count + margin
        figure = Figure(figsize=(side + 0.1, side + 0.3), layout="constrained")
        axes = figure.add_subplot()
        largest = max(float(values.max(initial=0)), 1e-9)
        axes.imshow(values, cmap=theme.ramp, vmin=0, vmax=1 if rates else largest)
        title = ("Share in %" if theme.narrow else "Share of each true class (%)") if rates else "Clips"
        axes.set(title=title, xlabel="predicted", ylabel="true")
        axes.set_xticks(range(count), names, rotation=90, fontsize=letters)
        axes.set_yticks(range(count), names, fontsize=letters)
        axes.set_xticks(np.arange(1, count) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, count) - 0.5, minor=True)
        axes.grid(which="minor", linewidth=0.4)
        axes.tick_params(which="minor", length=0)
        for spine in axes.spines.values():
            spine.set_visible(True)
        for row, column in zip(*np.nonzero(matrix), strict=True) if digits > 3.4 else ():
            value = values[row, column]
            strong = value > 0.55 * (1 if rates else largest)
            text = f"{100 * value:.0f}" if rates else str(value)
            colour = theme.paper if strong else theme.ink
            axes.text(column, row, text, ha="center", va="center_baseline", fontsize=digits, color=colour)
        return figure

    return draw


def class_columns(classes: int) -> int:
    """In how many columns a wide figure lists the classes."""
    return 1 + (classes > 18) + (classes > 90)


def per_class(scores: Mapping[str, np.ndarray], classes: Sequence[str], support: np.ndarray, order: np.ndarray) -> Draw:
    """A dot plot with one row per class, in `order`, and one marker for each of `scores` (name → `(classes,)`)."""
    markers = ("o", "D", "|")

    def draw(theme: Theme) -> Figure:
        columns = 1 if theme.narrow else class_columns(len(classes))
        rows = -(-len(classes) // columns)
        width = NARROW if theme.narrow else 11 if columns > 1 else 7.5
        figure = Figure(figsize=(width, 0.9 + 0.22 * rows), layout="constrained")
        for column, axes in enumerate(np.atleast_1d(figure.subplots(1, columns))):
            part = order[column * rows : (column + 1) * rows]
            place = np.arange(len(part))
            drawn = np.array([scores[name][part] for name in scores])
            low, high = np.nanmin(drawn, axis=0, initial=1), np.nanmax(drawn, axis=0, initial=0)
            axes.hlines(place, low, high, color=theme.grid, linewidth=2.5, zorder=1)
            for number, name in enumerate(scores):
                style = {"s": 70 if markers[number] == "|" else 26, "zorder": 3 - 0.1 * number}
                colour = theme.colours[number]
                axes.scatter(scores[name][part], place, color=colour, marker=markers[number], label=name, **style)
            axes.set_yticks(place, [f"{shorten(classes[i], 16 if theme.narrow else 30)}  ({support[i]})" for i in part])
            axes.set(xlim=(-0.02, 1.02), ylim=(rows - 0.4, -0.6))
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.set_xticks(np.linspace(0, 1, 3 if theme.narrow else 6))
            axes.grid(axis="x")
            axes.spines["left"].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(scores))
        return figure

    return draw
