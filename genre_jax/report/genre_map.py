"""A map of songs and their classes by embedding: places of songs, distances of classes, and arithmetic on classes.

It takes plain arrays, and serves the page of a run (`run_map.py`) and that of an index (`index_map.py`). All distances are
cosine distances of standardised embeddings, from 0 (same direction) over 1 (unrelated) to 2 (opposite). The vectors of classes
are those of `tag_arithmetic.py`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genre_jax import console, tag_arithmetic
from genre_jax.report import formats
from genre_jax.report.formats import shorten
from genre_jax.report.tables import Column, Table

MOST_SONGS = 2_000  # dots; t-SNE of more takes minutes, and a browser draws them slowly
MOST_CLASSES = 60  # of the figure and the map, those with the most songs
MOST_LABELS = 20  # names of classes on the map; the legend has all
ANALOGIES = 3
FEW = 15  # songs and classes; t-SNE of fewer shows mostly its start, and the map is then this start, a PCA
COLOURS, SHAPES = 6, 4  # of the style sheet
LETTERS = 20  # of a name on the map
LINE, LETTER = 0.05, 0.022  # height of a name on the map of a phone, and width of its letters, as shares of the map


@dataclasses.dataclass(frozen=True)
class Song:
    """A dot of the map.

    Attributes:
      name: name of the song.
      facts: what the tooltip says after the name.
      shown: number of the class that gives the dot its colour and shape.
      sound: address of a sound file, or "".
      kind: what the style sheet distinguishes: "wrong" (hollow), "training" (pale), both, or "".
    """

    name: str
    facts: str
    shown: int
    sound: str = ""
    kind: str = ""


def drawn(songs: int) -> np.ndarray:
    """The rows of the songs that the map shows: all, or `MOST_SONGS` that are evenly spaced."""
    return np.unique(np.linspace(0, songs - 1, min(songs, MOST_SONGS)).round().astype(int))


def draw(songs: Sequence[Song], vectors: np.ndarray, weights: np.ndarray, classes: Sequence[str], folder: Path) -> dict:
    """Return the template's values for a map, and write the figure of the distances to `folder`.

    Args:
      songs: the songs.
      vectors: embedding of each song, finite, `(songs, dimensions)`.
      weights: labels 0 and 1, or the probability of each class, `(songs, classes)`. A class without weight is left out.
      classes: names of the classes.
      folder: where `genre-map.png` is written.
    """
    from genre_jax.report import charts, figures

    standard = tag_arithmetic.standardised(vectors)
    means = tag_arithmetic.tag_vectors(standard, weights)
    count = weights.sum(0)
    present = np.flatnonzero(means.any(axis=1))
    kept = present[np.argsort(-count[present], kind="stable")][:MOST_CLASSES]
    linked = tree(distances(means[kept]))
    kept = kept[leaves(linked, len(kept))]
    matrix, names = distances(means[kept]), [formats.text(classes[c]) for c in kept]
    style = styles(matrix)
    rows = drawn(len(songs))
    places = scatter(np.concatenate([standard[rows], means[kept]]))
    named = np.sort(np.argsort(-count[kept], kind="stable")[:MOST_LABELS])
    several = len(kept) > 1
    picture = charts.distances(matrix, tree(matrix), names) if several else None
    return {
        "dots": _dots([songs[row] for row in rows], places, dict(zip(kept.tolist(), style, strict=True))),
        "labels": _apart(places[len(rows) :][named], [names[i] for i in named], [style[i] for i in named]),
        "legend": list(zip(names, style, np.round(count[kept]).astype(int).tolist(), strict=True)),
        "left_out": len(present) - len(kept),
        "songs": len(songs),
        "method": "PCA" if len(places) < FEW else "t-SNE",
        "picture": figures.save(folder / "genre-map.png", picture, narrow=len(kept) <= figures.LEGIBLE) if picture else None,
        "nearest": nearest_table(matrix, names, count[kept]) if several else None,
        "analogies": analogy_table(means[kept[named]], [names[i] for i in named], standard, [song.name for song in songs]),
    }


# ---------------------------------------------------------------- classes


def distances(vectors: np.ndarray) -> np.ndarray:
    """Return the cosine distances `(classes, classes)` of vectors of length 1, `(classes, dimensions)`."""
    matrix = 1 - vectors @ vectors.T
    np.fill_diagonal(matrix, 0)
    return np.clip((matrix + matrix.T) / 2, 0, 2)


def tree(matrix: np.ndarray) -> np.ndarray:
    """Return the linkage matrix of SciPy of classes with these distances, by average linkage, similar classes side by side."""
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    if len(matrix) < 2:
        return np.zeros((0, 4))
    return hierarchy.linkage(squareform(matrix, checks=False), "average", optimal_ordering=True)


def leaves(linked: np.ndarray, classes: int) -> np.ndarray:
    """Return the order of the classes at the leaves of a tree."""
    from scipy.cluster import hierarchy

    return hierarchy.leaves_list(linked) if classes > 1 else np.arange(classes)


def styles(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Return (colour, shape) of each class, in the order of the leaves.

    Up to `COLOURS` classes have different colours. More classes share the colour with similar ones, by the tree.
    """
    from scipy.cluster import hierarchy

    count = len(matrix)
    family = np.arange(count)
    if count > COLOURS:
        groups = hierarchy.fcluster(tree(matrix), COLOURS, "maxclust")
        family = np.unique(groups, return_inverse=True)[1]
    return [(int(colour), place % SHAPES) for place, colour in enumerate(family)]


def nearest_table(matrix: np.ndarray, names: Sequence[str], count: np.ndarray) -> Table:
    """The table of the two classes nearest to each class."""
    columns = [Column("Class"), Column("Songs", formats.number), Column("Nearest"), Column("Distance", formats.decimal)]
    columns += [Column("Second"), Column("Distance of the second", formats.decimal)]
    rows = []
    for number, name in enumerate(names):
        others = [other for other in np.argsort(matrix[number], kind="stable") if other != number][:2]
        near: list = [value for other in others for value in (names[other], float(matrix[number, other]))]
        rows.append((name, float(round(count[number])), *(near + [None] * 4)[:4]))
    return Table("nearest-classes", "Nearest classes", columns, rows)


def analogy_table(means: np.ndarray, names: Sequence[str], standard: np.ndarray, songs: Sequence[str]) -> Table | None:
    """The table of the clearest analogies "a − b + c": the nearest other class, and the nearest songs; None if there are none.

    Clear means: the answer is nearer to the result than to a and to c, by the largest difference of cosines. Each analogy has
    another answer.
    """
    rows = []
    for a, b, c, answer, cosine in _analogies(means):
        vector = tag_arithmetic.unit(means[a] - means[b] + means[c])
        order = np.argsort(-(tag_arithmetic.unit(standard) @ vector), kind="stable")[:3]
        found = (names[answer], cosine) if cosine > 0 else (None, None)  # all other classes lie in opposite directions
        rows.append((f"{names[a]} − {names[b]} + {names[c]}", *found, ", ".join(songs[i] for i in order)))
    columns = (Column("Expression"), Column("Nearest other class"), Column("Cosine", formats.decimal), Column("Nearest songs"))
    return Table("analogies", "Arithmetic on classes", columns, rows) if rows else None


def _analogies(means: np.ndarray) -> list[tuple[int, int, int, int, float]]:
    """(a, b, c, answer, cosine) of the analogies of `analogy_table`."""
    gram = means @ means.T
    np.fill_diagonal(gram, 1)
    count = len(gram)
    if count < 4:
        return []
    a, c = np.triu_indices(count, 1)  # a − b + c is c − b + a
    a, c, b = np.repeat(a, count), np.repeat(c, count), np.tile(np.arange(count), len(a))
    a, b, c = (side[(b != a) & (b != c)] for side in (a, b, c))
    length = np.sqrt(np.maximum(3 - 2 * gram[a, b] - 2 * gram[b, c] + 2 * gram[a, c], 1e-12))
    cosine = (gram[a] - gram[b] + gram[c]) / length[:, None]
    row = np.arange(len(a))
    for used in (a, b, c):
        cosine[row, used] = -np.inf
    answer = cosine.argmax(1)
    order = np.argsort(np.maximum(gram[a, answer], gram[c, answer]) - cosine[row, answer], kind="stable")
    first = order[np.sort(np.unique(answer[order], return_index=True)[1])][:ANALOGIES]
    return [(int(a[i]), int(b[i]), int(c[i]), int(answer[i]), float(cosine[i, answer[i]])) for i in first]


# ---------------------------------------------------------------- map


def scatter(vectors: np.ndarray) -> np.ndarray:
    """Return the places of vectors on the map, in [0, 1], `(vectors, 2)`. The result is deterministic.

    t-SNE of cosine distances keeps the neighbours of each song together, which a linear projection of hundreds of dimensions
    does not. It starts from a PCA; fewer than `FEW` vectors are shown by the PCA.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    points = tag_arithmetic.unit(vectors)
    if np.ptp(points, axis=0).max() < 1e-9:
        return np.full((len(points), 2), 0.5)
    size = min(50, *points.shape)
    points = np.pad(PCA(size, random_state=0).fit_transform(points), ((0, 0), (0, max(0, 2 - size))))
    if len(points) >= FEW:
        if len(points) > 500:
            console.note(f"genre map: t-SNE of {len(points):,} songs and classes; 2,000 take about half a minute")
        # The exact gradient of few points is faster than threads that wait for each other.
        method = "exact" if len(points) < 250 else "barnes_hut"
        perplexity = min(30, (len(points) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=0, method=method).fit_transform(points)
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    return (points[:, :2] - low) / np.where(high - low > 1e-9, high - low, 1)


def _dots(songs: Sequence[Song], places: np.ndarray, style: dict[int, tuple[int, int]]) -> list[dict]:
    """The dots in the order of their classes, which is the order of the keyboard."""
    rank = {number: place for place, number in enumerate(style)}
    order = sorted(range(len(songs)), key=lambda row: rank.get(songs[row].shown, len(rank)))
    return [
        {
            "x": _percent(places[row, 0]),
            "y": _percent(places[row, 1]),
            "style": style.get(songs[row].shown, ("other", 0)),
            "title": f"{formats.text(songs[row].name)}. {formats.text(songs[row].facts)}",
            "sound": songs[row].sound,
            "kind": songs[row].kind,
        }
        for row in order
    ]


def _percent(share: float) -> str:
    """A place on the map with a margin of 4 %."""
    return f"{4 + 92 * float(share):.2f}%"


def _apart(places: np.ndarray, names: Sequence[str], style: Sequence[tuple[int, int]]) -> list[dict]:
    """The names of classes at their places, moved down where they would cover another name on a phone."""
    set_down: list[tuple[float, float, float]] = []
    labels = []
    for row in np.argsort(places[:, 1], kind="stable"):
        name = shorten(names[row], LETTERS)
        half = LETTER * (len(name) + 1) / 2
        x, y = min(max(places[row, 0], half - 0.04), 1.04 - half), places[row, 1]
        for other_x, other_y, other_half in sorted(set_down, key=lambda other: other[1]):
            if abs(x - other_x) < half + other_half and abs(y - other_y) < LINE:
                y = other_y + LINE
        y = min(y, 1.02)
        set_down.append((x, y, half))
        labels.append({"x": _percent(x), "y": _percent(y), "name": name, "style": style[row]})
    return labels
