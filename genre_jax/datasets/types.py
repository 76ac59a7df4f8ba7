"""What a data set tells the builder: its labels, its clips, and how the audio of one clip is had."""

import dataclasses
from collections.abc import Callable

from genre_jax.prepare.audio import Audio, load


@dataclasses.dataclass(frozen=True)
class Item:
    """One clip before it is decoded; small and picklable, because it travels to a worker process.

    `name` is unique in the data set: the path below the source, with its start where it is cut from a longer file.
    `track` keeps together what must not straddle splits. `split` None: by hash of the track. Times are in seconds.
    `member` says where in the container `path` the clip lies: (byte, bytes) in a tar or TFRecord file, (row group, row) in
    a parquet file.
    """

    name: str
    track: str
    labels: tuple[str, ...]
    split: str | None = None
    path: str | None = None
    start: float = 0.0
    duration: float | None = None
    member: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Render:
    """The audio of one clip, and its labels where only rendering tells them (else those of the item hold)."""

    audio: Audio
    labels: tuple[str, ...] | None = None


def load_file(item: Item, sample_rate: int) -> Render:
    """Decode the file of an item; what `Source.render` is wherever clips are files."""
    assert item.path is not None
    return Render(load(item.path, sample_rate, item.start, item.duration))


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set as found: `labels` in the order of the class numbers, `items`, and what was left out.

    `render` is a top-level function (worker processes import it). `missing` are the clips, with their splits, that the
    lists name and no file holds; `refused` is what could be no clip at all (a row of a list, a member of an archive), with
    the reason, for the quarantine; `protocol` is how the splits were made; `notes` are sentences for the summary.
    """

    kind: str
    labels: tuple[str, ...]
    items: tuple[Item, ...]
    render: Callable[[Item, int], Render] = load_file
    missing: tuple[Item, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    protocol: str = ""
    notes: tuple[str, ...] = ()


Finder = Callable[..., Source]  # a data set: from the place given as --source, and its own options, to what lies there
