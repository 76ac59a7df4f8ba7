"""Speech, music and noise: MUSAN (Snyder, Chen & Povey 2015, arXiv 1510.08484), GTZAN music/speech, folders of noises.

These data sets have no official split. The default draws 65 / 10 / 25 % of the files of each class, as Hussain & Haque do
for SwishNet (arXiv 1812.00149). They fine-tune on 25 % of the files of GTZAN music/speech, which is the protocol 25_75. The
passport lists the split of every file.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from genre_jax.console import UserError
from genre_jax.datasets.folder import printable, walk
from genre_jax.datasets.types import Item, Source
from genre_jax.prepare import splits, tfds_records
from genre_jax.prepare.audio import EXTENSIONS, KNOWN

SHARES = {"65_10_25": {"train": 0.65, "validation": 0.1, "test": 0.25}, "25_75": {"train": 0.25, "test": 0.75}}
PROTOCOLS = {**dict.fromkeys(SHARES, "[:SEED]"), "folds": ":K[:SEED]"}
MUSIC_SPEECH = {"music": "music", "music_wav": "music", "speech": "speech", "speech_wav": "speech"}  # folder → label


def musan(source: Path | None, *, split: str = "65_10_25") -> Source:
    """Returns the recordings below folders with the names music, noise and speech; the label is the name of the folder."""
    return _by_folder("musan", source, {name: name for name in ("music", "noise", "speech")}, split)


def gtzan_music_speech(source: Path | None, *, split: str = "65_10_25") -> Source:
    """Returns the tracks of GTZAN music/speech below folders with the names music_wav and speech_wav, or music and speech.

    `source` can also be `gtzan_music_speech` as prepared by tensorflow-datasets.
    """
    records = None
    if source is not None and source.is_dir():
        records = tfds_records.find(source, "gtzan_music_speech", ("music", "speech"))
    if records is None:
        return _by_folder("gtzan_music_speech", source, MUSIC_SPEECH, split)
    return dataclasses.replace(_drawn("gtzan_music_speech", records, split), render=tfds_records.render)


def hunonspeech(source: Path | None, *, split: str = "all") -> Source:
    """Returns all audio files of a folder as the class noise, by default in one split, train.

    An example is the folder of HuNonspeech with n1.wav to n100.wav.
    """
    protocol, _ = splits.parse(split, {"all": "", **PROTOCOLS})
    if source is None or not source.is_dir():
        raise UserError(f"data set 'hunonspeech' needs --source=FOLDER with audio files of noise (got {source})")
    items = [_item(source, path, "noise") for path in walk(source) if path.suffix.lower() in EXTENSIONS]
    if not items:
        raise UserError(f"found no audio below {source}, expected {KNOWN}")
    if protocol != "all":
        return _drawn("hunonspeech", items, split)
    whole = tuple(dataclasses.replace(item, split="train") for item in items)
    return Source("hunonspeech", ("noise",), whole, protocol=split)


def _by_folder(kind: str, source: Path | None, label_of: dict[str, str], split: str) -> Source:
    """Returns the audio files below folders with the names in `label_of` (folder name → label), at any depth."""
    splits.parse(split, PROTOCOLS)
    expected = ", ".join(label_of)
    if source is None or not source.is_dir():
        raise UserError(f"data set {kind!r} needs --source=FOLDER with the folders {expected} (got {source})")
    items, ignored = [], 0
    for path in walk(source):
        named = [part for part in path.relative_to(source).parts[:-1] if part in label_of]
        if named and path.suffix.lower() in EXTENSIONS:
            items.append(_item(source, path, label_of[named[0]]))
        else:
            ignored += path.suffix.lower() in EXTENSIONS
    lacking = sorted(set(label_of.values()) - {item.labels[0] for item in items})
    if lacking:
        raise UserError(f"found no audio of {', '.join(lacking)} below {source}, expected folders with the names {expected}")
    notes = (f"{ignored} audio files outside folders with the names {expected} were ignored",) if ignored else ()
    drawn = _drawn(kind, items, split)
    return dataclasses.replace(drawn, notes=drawn.notes + notes)


def _item(source: Path, path: Path, label: str) -> Item:
    name = printable(path.relative_to(source).as_posix())
    return Item(name, name, (label,), path=str(path))


def _drawn(kind: str, items: Iterable[Item], split: str) -> Source:
    """Returns the items as a source with the splits of a protocol; every item is a track."""
    protocol, numbers = splits.parse(split, PROTOCOLS)
    classes = {item.track: item.labels[0] for item in items}
    if protocol == "folds":
        placed = splits.folds({track: [label] for track, label in classes.items()}, *numbers)
    else:
        placed = splits.stratified(classes, SHARES[protocol], *numbers)
    labels = tuple(sorted(set(classes.values())))
    placed_items = tuple(dataclasses.replace(item, split=placed[item.track]) for item in items)
    empty = sorted(SHARES.get(protocol, {}).keys() - placed.values())
    notes = tuple(f"warning: split {name!r} is empty, because there are too few files for {split}" for name in empty)
    return Source(kind, labels, placed_items, protocol=split, notes=notes)
