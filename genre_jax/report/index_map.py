"""The page of an index of songs: a map that plays the songs from their files, the distances of tags, and arithmetic on tags."""

from pathlib import Path
from typing import Any

import numpy as np

from genre_jax.atomic import write_text
from genre_jax.console import UserError
from genre_jax.report import formats, genre_map, page, tables

TAGS = 3  # of a song in its tooltip


def write_index_map(index: Any, output: str | Path) -> Path:
    """Write the map of an index to `output/index.html`, with its figure and tables beside it; return the path of the page.

    The strongest tag of a song gives the colour of its dot. The sounds are links to the files of the songs by their absolute
    paths: the page plays them when it is opened as a file on the machine that has them.

    Args:
      index: has `songs()`, of which each has an absolute `path`; `vectors()`, the mean embedding of each song
        `(songs, dimensions)`; `tags()`, the mean probability of each label `(songs, labels)`; and `network.labels`.
      output: the folder of the page.

    Raises `UserError` if the index has fewer than two songs, or if a package of the report is not installed.
    """
    page.check_packages()
    songs, tags, labels = index.songs(), index.tags(), index.network.labels
    if len(songs) < 2:
        raise UserError(f"a map needs at least 2 songs, and the index holds {len(songs)}: add songs to it")
    dots = []
    for song, probabilities in zip(songs, tags, strict=True):
        strongest = np.argsort(-probabilities, kind="stable")[:TAGS]
        facts = ", ".join(f"{labels[label]} {formats.percent(float(probabilities[label]), 0)}" for label in strongest)
        path = Path(song.path)
        dots.append(genre_map.Song(path.name, facts, int(strongest[0]), path.as_uri()))
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    values = genre_map.draw(dots, index.vectors(), tags, labels, output)
    tables.write([table for table in (values["nearest"], values["analogies"]) if table], output / "tables")
    context = {"title": f"Map of {len(songs):,} songs", "map": values, "formats": tables.FORMATS}
    target = output / "index.html"
    write_text(target, page.templates().get_template("index_map.html.j2").render(context))
    return target
