"""The pictures of the page of explanations."""

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from genre_jax.report import figures
from genre_jax.report.charts import GREY
from genre_jax.report.formats import shorten

SIZE = 3.5, 1.45  # inches


def cells(path: Path, values: np.ndarray, seconds: float, top: float, signed: bool = False) -> None:
    """Write a picture of values (frames, bins) over time and linear frequency up to `top` Hz.

    With `signed` the colours are symmetric about 0: red is positive, blue negative.
    """
    largest = float(np.abs(values).max(initial=0)) or 1.0
    style = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest} if signed else {"cmap": "magma"}
    with matplotlib.rc_context(GREY):
        figure = Figure(figsize=SIZE)
        axes = figure.add_axes((0.155, 0.15, 0.815, 0.82))
        axes.imshow(values.T, origin="lower", aspect="auto", extent=(0, seconds, 0, top / 1000), **style)
        axes.yaxis.set_major_formatter("{x:g} kHz")
        axes.xaxis.set_major_formatter("{x:g} s")
        axes.locator_params(axis="y", nbins=4)
        axes.locator_params(axis="x", nbins=6)
        axes.tick_params(labelsize=7.5)
        figure.savefig(path, dpi=figures.DPI, transparent=True)


def decibels(magnitude: np.ndarray) -> np.ndarray:
    """Return magnitudes (frames, bins) in dB below the largest, at least -70."""
    return 20 * np.log10(np.maximum(magnitude / max(float(magnitude.max(initial=0)), 1e-10), 10**-3.5))


def correlations(matrices: Mapping[str, np.ndarray], groups: list[str]) -> figures.Draw:
    """Draw matrices of correlations, title → (chords, chords); `groups` names equal parts of the axes.

    Red is positive and blue negative. Matrices that follow each other in pairs stand side by side.
    """

    def draw(theme: figures.Theme) -> Figure:
        columns = min(len(matrices), 2 if theme.narrow else 4)
        rows = math.ceil(len(matrices) / columns)
        width = figures.NARROW if theme.narrow else 2.75 * columns
        names = 0.9  # inches for the names of the groups below a panel, and its title
        side = (width - names) / columns
        height = rows * (side + names) + 0.6
        layout = ConstrainedLayoutEngine(h_pad=0.06, rect=(0, 0, 1, 1 - 0.2 / height))  # it forgets titles at the left edge
        figure = Figure(figsize=(width, height), layout=layout)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(matrices) :]:
            axes.set_visible(False)
        for number, (axes, (title, matrix)) in enumerate(zip(panels, matrices.items(), strict=False)):
            image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
            each = len(matrix) / len(groups)
            places = (np.arange(len(groups)) + 0.5) * each - 0.5
            axes.set_title("\n".join(shorten(line, 20) for line in title.split("\n")), fontsize=7 if theme.narrow else 9.5)
            axes.set_xticks(places, groups, rotation=90, fontsize=6.5)
            axes.set_yticks(places, groups if number % columns == 0 else [], fontsize=6.5)
        figure.colorbar(
            image, ax=panels.tolist(), orientation="horizontal", fraction=0.2 / height, aspect=40, label="correlation"
        )
        return figure

    return draw
