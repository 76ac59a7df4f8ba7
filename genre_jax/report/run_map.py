"""The genre map of a run: its test tracks, and its training tracks if the run has predictions of them, with sounds to play."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from genre_jax.report import clips, formats, genre_map, tracks
from genre_jax.report.genre_map import Song
from genre_jax.report.runs import Run

MOST_SOUNDS = 40  # songs of the map that can be played
SECONDS = 8  # played of a song that the page has no other player for
LARGEST = 1e15  # of an embedding, so that squares stay exact
Table = dict[str, np.ndarray]


def section(run: Run, audio: Mapping[str, clips.Audio], worst: Mapping[str, list[dict]], folder: Path, most: int) -> dict:
    """Return {"map": the template's values, "without_map": ""}, or {"map": None, "without_map": the reason}.

    Args:
      run: the run.
      audio: "test" and "train" → the clips of the split.
      worst: "test" and "train" → the clips with players on the page, which the map plays as well.
      folder: where the figure and the sounds `map/NN.wav` are written.
      most: songs that can be played.
    """
    sounds = clips.fresh(folder / "map", ("[0-9][0-9].wav",))
    test = run.predictions
    if not test or "embedding" not in test:
        return {"map": None, "without_map": "the run has no embeddings of its tracks"}
    tables = {"test": test} | ({"train": run.trained} if run.trained and _fits(run.trained, test) else {})
    parts = [
        (split, number, *found)
        for split, table in tables.items()
        if len(table["track"])
        for number, *found in _songs(table, split, run.task)
    ]
    if len(parts) < 2:
        return {"map": None, "without_map": "fewer than two tracks have a label and an embedding"}
    splits, numbers, songs, vectors, weights = map(list, zip(*parts, strict=True))
    heard = {(split, clip["track"]): f"{clip['files']}.wav" for split in worst for clip in worst[split] if clip["files"]}
    for place, row in enumerate(_in_turn(genre_map.drawn(len(songs)), [song.shown for song in songs])[:most], 1):
        split = splits[row]
        sound = heard.get((split, songs[row].name), "")
        if not sound:
            sound = _write(tables[split], numbers[row], audio[split], sounds / f"{place:02d}.wav")
        songs[row] = dataclasses.replace(songs[row], sound=sound)
    classes = [str(name) for name in test["classes"]]
    return {"map": genre_map.draw(songs, np.array(vectors), np.array(weights), classes, folder), "without_map": ""}


def _fits(table: Table, test: Table) -> bool:
    """Whether a table has embeddings of the same network and the same classes as that of the test tracks."""
    same = "embedding" in table and table["embedding"].shape[1] == test["embedding"].shape[1]
    return same and np.array_equal(table["classes"], test["classes"])


def _songs(table: Table, split: str, task: str) -> list[tuple[int, Song, np.ndarray, np.ndarray]]:
    """(number, song, embedding, labels) of each track with a label and an embedding."""
    ranking = tracks.rank(table, task)
    classes = [formats.text(name) for name in table["classes"]]
    found = []
    for number, truth, probabilities in zip(ranking.numbers, ranking.truth, ranking.probabilities, strict=True):
        embedding = table["embedding"][number].astype(np.float64)
        if not truth.any() or not np.all(np.abs(embedding) < LARGEST):  # false for NaN
            continue
        answer = int(probabilities.argmax())
        true = np.flatnonzero(truth)
        facts = f"True: {', '.join(classes[c] for c in true)}. Most probable: {classes[answer]} "
        facts += f"({formats.percent(float(probabilities[answer]), 0)})."
        kind = "" if truth[answer] else "wrong"
        if split == "train":
            facts, kind = f"{facts} Training track.", f"{kind} training".strip()
        shown = int(true[probabilities[true].argmax()])
        found.append((int(number), Song(str(table["track_names"][number]), facts, shown, "", kind), embedding, truth))
    return found


def _in_turn(rows: np.ndarray, shown: list[int]) -> list[int]:
    """The rows in the order in which each class gets its first song, then each its second one, and so on."""
    seen: dict[int, int] = {}
    rank = {}
    for row in rows:
        rank[int(row)] = seen[shown[row]] = seen.get(shown[row], 0) + 1
    return sorted(rank, key=lambda row: rank[row])


def _write(table: Table, number: int, audio: clips.Audio, path: Path) -> str:
    """Write the middle of the first clip of a track as a WAV file. Returns its address, or "" if there is no audio."""
    rows = np.flatnonzero(table["track"] == number)
    rows = rows[table["clip"][rows] == table["clip"][rows[0]]]
    start, stop = int(table["start"][rows].min()), int(table["start"][rows].max()) + int(table["samples"])
    length = SECONDS * int(table["sample_rate"])
    first = max(start, (start + stop - length) // 2)
    found = audio.cut(str(table["clip_names"][table["clip"][rows[0]]]), (first, min(stop, first + length)))
    if not found or not len(found[0]):
        return ""
    clips.write_wave(path, *found)
    return f"{path.parent.name}/{path.name}"
