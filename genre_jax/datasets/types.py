"""The description of a data set that `prepare/build.py` turns into shards: classes, clips, and a function to decode a clip."""

import dataclasses
from collections.abc import Callable

from genre_jax.prepare.audio import Audio, load

LONGEST = 1e6  # seconds (11 days); no list may place the end of a clip later, so that its samples can be counted


@dataclasses.dataclass(frozen=True)
class Item:
    """One clip before it is decoded. It is small and can be pickled, because it is sent to a worker process.

    Attributes:
      name: unique name in the data set: the path below the source, with the start if the clip is cut from a longer file.
      track: name of the recording; all clips of one track are in the same split.
      labels: names of the classes.
      artist: all tracks of an artist are in the same split of a data set whose splits `prepare` makes; "" if it is unknown.
      split: name of the split; None: chosen by a hash of the artist, or of the track if the artist is unknown.
      path: the audio file, or the container that holds it; None if the clip is missing or is synthesised.
      start: start of the clip in the file, in seconds.
      duration: length of the clip in seconds; None: to the end of the file.
      member: position in the container: (first byte, number of bytes) in a tar or TFRecord file, (row group, row) in a
        parquet file; None if `path` is an audio file.
    """

    name: str
    track: str
    labels: tuple[str, ...]
    split: str | None = None
    path: str | None = None
    start: float = 0.0
    duration: float | None = None
    member: tuple[int, int] | None = None
    artist: str = ""


@dataclasses.dataclass(frozen=True)
class Render:
    """The audio of one clip, and its labels if they are known only after rendering (None: the labels of the item)."""

    audio: Audio
    labels: tuple[str, ...] | None = None


def load_file(item: Item, sample_rate: int) -> Render:
    """Decode the file of an item. This is the default of `Source.render`."""
    assert item.path is not None
    return Render(load(item.path, sample_rate, item.start, item.duration))


@dataclasses.dataclass(frozen=True)
class Source:
    """The clips of a data set, as its finder found them.

    Attributes:
      kind: name of the data set in `DATASETS`.
      labels: names of the classes in the order of the class numbers.
      items: the clips.
      render: function that decodes an item at a sample rate in Hz; a top-level function, because worker processes import it.
      missing: clips that the lists name and that have no audio file.
      refused: (name, reason) of malformed rows of a list and unusable members of an archive, for quarantine.csv.
      protocol: how the splits were made.
      notes: sentences for the summary that `prepare` prints.
      conditioning: steps of `prepare/condition.py` that `prepare` applies to each decoded clip, in this order.
    """

    kind: str
    labels: tuple[str, ...]
    items: tuple[Item, ...]
    render: Callable[[Item, int], Render] = load_file
    missing: tuple[Item, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    protocol: str = ""
    notes: tuple[str, ...] = ()
    conditioning: tuple[str, ...] = ()


Finder = Callable[..., Source]  # from the path of --source, and the options of the data set, to its clips
