"""Read predictions.npz and predictions-train.npz. A damaged or hostile file is one sentence, and takes little memory.

The header of each column states its type and shape. Both are compared with the size of the column before any memory is
allocated, and a column of Python objects, which NumPy would unpickle, is refused.
"""

import math
import zipfile
from pathlib import Path

import numpy as np

from genre_jax.console import printable

MOST_BYTES = 1 << 30  # of all columns together
LARGEST = 1e30  # of logits and losses, so that sums of them stay finite
MOST_CLASSES = 600  # the figures of more classes would take gigabytes; AudioSet has 527
COLUMNS = {  # name → legal kinds of its type (NumPy's dtype.kind), number of dimensions
    "logits": ("f", 2),
    "labels": ("iub", 2),
    "target": ("i", 1),
    "loss": ("f", 1),
    "clip": ("iu", 1),
    "track": ("iu", 1),
    "start": ("iu", 1),
    "classes": ("U", 1),
    "clip_names": ("U", 1),
    "track_names": ("U", 1),
    "sample_rate": ("iu", 0),
    "samples": ("iu", 0),
    "embedding": ("f", 2),
}
OPTIONAL = ("embedding",)  # runs of earlier versions lack it


class Damaged(Exception):
    """The file cannot be used; the text is the reason."""


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the columns of predictions.npz, described in `docs/workdir.md`. Raises `Damaged` with the reason."""
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
            if total > MOST_BYTES:
                raise Damaged(f"its columns take {total:,} bytes, and {MOST_BYTES:,} are legal")
            held = archive.namelist()
            columns = {name: _column(archive, name) for name in COLUMNS if name not in OPTIONAL or f"{name}.npy" in held}
        for name in ("classes", "clip_names", "track_names"):
            columns[name] = np.array([printable(text) for text in columns[name].tolist()], np.str_)
    except (Damaged, MemoryError):
        raise
    except Exception as error:  # zipfile and NumPy raise a dozen kinds of errors for damaged bytes
        raise Damaged("it is cut off or damaged") from error
    _check(columns)
    return columns


def _column(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Read one column, after a check of its header."""
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise Damaged(f"it has no column {name}") from None
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        kinds, dimensions = COLUMNS[name]
        if dtype.hasobject or dtype.kind not in kinds or len(shape) != dimensions:
            raise Damaged(f"its column {name} has {len(shape)} dimensions of {dtype}")
        size = math.prod(shape) * dtype.itemsize
        held = member.file_size - file.tell()
        if size != held or min(shape, default=0) < 0:
            raise Damaged(f"its column {name} states the shape {shape}, and holds {held} bytes")
        data = file.read()
    return np.ndarray(shape, dtype, data, order="F" if fortran else "C")


def _check(columns: dict[str, np.ndarray]) -> None:
    """Raise `Damaged` unless the columns fit together."""
    windows, classes = columns["logits"].shape
    if not 1 <= classes <= MOST_CLASSES:
        raise Damaged(f"it has {classes} classes, and the report shows 1 to {MOST_CLASSES}")
    expected = {"labels": (windows, classes), "classes": (classes,)} | dict.fromkeys(
        ("target", "loss", "clip", "track", "start"), (windows,)
    )
    for name, shape in expected.items():
        if columns[name].shape != shape:
            raise Damaged(f"its column {name} has the shape {columns[name].shape}, where {shape} fits to the logits")
    for name in ("clip", "track"):
        rows = len(columns[f"{name}_names"])
        if windows and not 0 <= columns[name].min() <= columns[name].max() < rows:
            raise Damaged(f"its column {name} points outside the {rows} names of {name}s")
    tracks = len(columns["track_names"])
    if "embedding" in columns and (len(columns["embedding"]) != tracks or not columns["embedding"].shape[1]):
        raise Damaged(f"its column embedding has the shape {columns['embedding'].shape}, and there are {tracks} tracks")
    for name in ("logits", "loss"):
        if not np.all(np.abs(columns[name]) < LARGEST):  # false for NaN
            raise Damaged(f"its column {name} contains numbers that are not finite, or {LARGEST:g} and more")
    if columns["labels"].max(initial=0) > 1 or columns["labels"].min(initial=0) < 0:
        raise Damaged("its column labels contains other numbers than 0 and 1")
    if columns["target"].min(initial=0) < -1 or columns["target"].max(initial=0) >= classes:
        raise Damaged(f"its column target contains numbers outside -1 to {classes - 1}")
    for name in ("start", "sample_rate", "samples"):
        if columns[name].min(initial=0) < 0 or columns[name].max(initial=0) >= 2**31:
            raise Damaged(f"its column {name} contains numbers outside 0 to 2147483647")
