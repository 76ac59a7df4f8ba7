"""More figures: labels of a data set, calibration, spectrograms, and class scores over time. `figures.py` explains `Draw`.

The figures of audio have a transparent background and grey axes, which are legible on light and dark pages.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from genre_jax.report import figures
from genre_jax.report.figures import NARROW, Draw, Theme
from genre_jax.report.formats import shorten

GREY: dict[Any, Any] = {"text.color": "#808080", "xtick.color": "#808080", "ytick.color": "#808080", "text.parse_math": False}


def distribution(counts: Mapping[str, np.ndarray], classes: Sequence[str]) -> Draw:
    """Horizontal bars with the clips of each class, the most frequent class first, and a panel for each split.

    `counts` is split → int `(classes,)`. Narrow figures have the panels below each other.
    """
    order = np.argsort(-sum(counts.values(), np.zeros(len(classes))), kind="stable")
    names = [shorten(classes[i], 26) for i in order]

    def draw(theme: Theme) -> Figure:
        across = 1 if theme.narrow else min(len(counts), 4)
        down = -(-len(counts) // across)
        height = down * (0.6 + (0.16 if len(classes) > 12 else 0.22) * len(classes))
        figure = Figure(figsize=(NARROW if theme.narrow else min(11, 2.2 + 3.2 * across), height), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
        for axes in panels[len(counts) :]:
            axes.set_visible(False)
        for axes, (split, values) in zip(panels, counts.items(), strict=False):
            title = f"{shorten(split, 16 if theme.narrow else 26)}: {int(values.sum()):,}{'' if theme.narrow else ' labels'}"
            bars = axes.barh(np.arange(len(classes)), values[order], color=theme.colours[0], height=0.72)
            axes.bar_label(bars, [f"{value:,}" for value in values[order]], padding=3, fontsize=7)
            axes.set_yticks(np.arange(len(classes)), names, fontsize=7.5 if len(classes) > 12 else 8.5)
            axes.set(ylim=(len(classes) - 0.4, -0.6), title=title)
            axes.margins(x=0.18)
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.grid(axis="x")
            axes.spines["left"].set_visible(False)
        return figure

    return draw


def reliability(confidence: np.ndarray, share: np.ndarray, count: np.ndarray) -> Draw:
    """A reliability diagram: the share of right predictions against the mean confidence in bins, and the examples by bin.

    `confidence`, `share` and `count` are `(bins,)`; bins without examples are left out.
    """
    used = np.flatnonzero(count)

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(NARROW if theme.narrow else 5.25, 4.2 if theme.narrow else 4.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], "--", color=theme.colours[5], linewidth=1, label="calibrated")
        above.plot(confidence[used], share[used], "o-", color=theme.colours[0], markersize=5, clip_on=False, label="this run")
        above.vlines(confidence[used], confidence[used], share[used], color=theme.colours[1], linewidth=1.5, label="gap")
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
        above.legend(loc="upper left")
        edges = np.linspace(0, 1, len(count) + 1)
        below.bar(edges[:-1], count, width=np.diff(edges), align="edge", color=theme.colours[0], alpha=0.6)
        below.set(xlabel="confidence", ylabel="examples")
        below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        for axes in (above, below):
            axes.grid(True)
        above.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        below.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        return figure

    return draw


def distances(matrix: np.ndarray, linked: np.ndarray, classes: Sequence[str]) -> Draw:
    """The distances `(classes, classes)` of classes, and the tree `linked` (a linkage matrix of SciPy) beside them.

    The classes must be in the order of the leaves of the tree.
    """
    from scipy.cluster import hierarchy

    branches = hierarchy.dendrogram(linked, no_plot=True)
    count = len(classes)

    def draw(theme: Theme) -> Figure:
        names = [shorten(name, 14 if theme.narrow else 26) for name in classes]
        margin, roots = 0.4 + 0.075 * max(map(len, names)), 0.7 if theme.narrow else 1.8
        cell = min(0.55, (NARROW if theme.narrow else 10.5) / count - (margin + roots) / count)
        letters = min(8.5, 60 * cell)
        figure = Figure(figsize=(cell * count + margin + roots, cell * count + margin + 0.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(roots, cell * count), sharey=True)
        for x, y in zip(branches["dcoord"], branches["icoord"], strict=True):
            left.plot(x, (np.array(y) - 5) / 10, color=theme.ink, linewidth=1)  # SciPy has leaves at 5, 15, …
        left.set(xlim=(1.02 * linked[:, 2].max(), 0), xlabel="distance")
        left.xaxis.set_major_locator(MaxNLocator(2 if theme.narrow else 4))
        left.spines["left"].set_visible(False)
        left.tick_params(axis="y", left=False, labelleft=False)
        right.imshow(-matrix, cmap=theme.ramp, vmin=-max(matrix.max(), 1e-9), vmax=0, aspect="auto")
        right.set_xticks(range(count), names, rotation=90, fontsize=letters)
        right.set_yticks(range(count), names, fontsize=letters)
        right.yaxis.tick_right()
        right.tick_params(labelright=True)
        for row, column in np.ndindex(matrix.shape) if cell > 0.34 else ():
            strong = matrix[row, column] < 0.45 * matrix.max()
            text = f"{matrix[row, column]:.2f}"
            right.text(column, row, text, ha="center", va="center", fontsize=7.5, color=theme.paper if strong else theme.ink)
        return figure

    return draw


# ---------------------------------------------------------------- audio


def spectrogram(path: Path, audio: np.ndarray, sr: int) -> None:
    """Write a mel spectrogram of `audio` (float, `(samples,)`) as a PNG."""
    with matplotlib.rc_context(GREY):
        figure = Figure(figsize=(3.5, 1.45))
        _show_mel(figure.add_axes((0.135, 0.13, 0.825, 0.84)), _mel(audio, sr), len(audio), sr, 0.0)
        figure.savefig(path, dpi=figures.DPI, transparent=True)


def _mel(audio: np.ndarray, sr: int) -> np.ndarray:
    """Mel spectrogram in decibels below its maximum, `(64, frames)`."""
    from librosa import feature, power_to_db

    n_fft = 2048 if sr >= 16_000 else 1024
    hop = max(64, len(audio) // 900)
    padded = np.pad(audio.astype(np.float32), (0, max(0, n_fft - len(audio))))
    power = feature.melspectrogram(y=padded, sr=sr, n_fft=n_fft, hop_length=hop, n_mels=64)
    return power_to_db(power, ref=max(float(power.max()), 1e-10), top_db=70)


def _show_mel(axes, decibels: np.ndarray, samples: int, sr: int, first: float) -> None:
    """Draw a mel spectrogram; `first` is the time in seconds at which the audio begins."""
    from librosa import hz_to_mel

    ticks = [hertz for hertz in (500, 2000, 5000, 10_000) if hertz < 0.45 * sr]
    seconds = max(samples, 1) / sr
    axes.imshow(decibels, origin="lower", aspect="auto", cmap="magma", extent=(first, first + seconds, 0, 64))
    places = [64 * hz_to_mel(hertz) / hz_to_mel(sr / 2) for hertz in ticks]
    axes.set_yticks(places, [f"{hertz / 1000:g} kHz" for hertz in ticks])
    _in_seconds(axes)


def _in_seconds(axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:g} s")
    axes.tick_params(labelsize=7, length=0)
    axes.spines[:].set_visible(False)


def scores_over_time(
    path: Path, probabilities: np.ndarray, winner: np.ndarray, start: np.ndarray, seconds: float,
    classes: Sequence[str], audio: np.ndarray | None, sr: int,
) -> dict:  # fmt: skip
    """Draw the class scores of the windows of a clip as a heat map, below the mel spectrogram on the same axis of time.

    Args:
      path: the PNG file NAME.png; NAME-narrow.png fits a phone.
      probabilities: of the classes to show, `(windows, classes)` in [0, 1].
      winner: the class that each window predicts, a row of `classes`, or -1 if it is not shown, `(windows,)`.
      start: start of each window in seconds, ascending, `(windows,)`.
      seconds: length of a window.
      classes: names of the classes.
      audio: the samples from the first window on, float; None: no spectrogram.
      sr: sample rate.

    Returns the names and sizes of both files, as `figures.save` does. A dot marks the class that a window predicts.
    """
    edges, values = _cells(probabilities, start, seconds)
    names = [shorten(name, 18) for name in classes]
    shown = winner >= 0
    mel = None if audio is None else _mel(audio, sr)
    left = 0.15 + 0.062 * max(6, *map(len, names))  # inches
    heat, above = 0.2 * len(classes), 0.0 if mel is None else 1.4
    height = heat + above + (0.3 if mel is None else 0.55)

    def draw(width: float) -> Figure:
        figure = Figure(figsize=(width, height))
        inside = 1 - (left + 0.1) / width
        axes = figure.add_axes((left / width, 0.25 / height, inside, heat / height))
        axes.pcolormesh(edges, np.arange(len(classes) + 1) - 0.5, values.T, cmap="viridis", vmin=0, vmax=1)
        axes.plot((start + seconds / 2)[shown], winner[shown], "o", color="#ffffff", markeredgecolor="#000000", markersize=4)
        axes.set_yticks(range(len(classes)), names)
        axes.set_ylim(len(classes) - 0.5, -0.5)
        _in_seconds(axes)
        if mel is not None and audio is not None:
            place = (left / width, (heat + 0.5) / height, inside, above / height)
            _show_mel(figure.add_axes(place), mel, len(audio), sr, float(start[0]))
            figure.axes[1].set_xlim(axes.get_xlim())
        return figure

    picture: dict = {}
    with matplotlib.rc_context(GREY), figures.without_font_messages():
        for width, file in ((NARROW, path.with_stem(f"{path.stem}-narrow")), (10.9, path)):
            figure = draw(width)
            figure.savefig(file, dpi=figures.DPI, transparent=True)
            size = {"width": round(100 * width), "height": round(100 * height)}
            picture = {"light": file.name, "dark": file.name} | size | ({"narrow": picture} if picture else {})
    return picture


def _cells(probabilities: np.ndarray, start: np.ndarray, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges `(cells + 1,)` in seconds and values `(cells, classes)` of the heat map.

    Windows that overlap share their common time in the middle. A gap between windows is a cell of NaN.
    """
    centres = start + seconds / 2
    middle = (centres[1:] + centres[:-1]) / 2
    left = np.maximum(start, np.concatenate([[-np.inf], middle]))
    right = np.minimum(start + seconds, np.concatenate([middle, [np.inf]]))
    edges = np.stack([left, right], axis=1).ravel()
    cells = np.full((2 * len(start) - 1, probabilities.shape[1]), np.nan)
    cells[::2] = probabilities
    return np.maximum.accumulate(edges), cells
