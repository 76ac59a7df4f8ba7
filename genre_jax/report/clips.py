"""The clips with the worst predictions, and what the report plays: WAV files and mel spectrograms."""

import wave
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from genre_jax import metrics
from genre_jax.console import UserError
from genre_jax.data import select, shards
from genre_jax.data.bucket import is_url
from genre_jax.report import formats
from genre_jax.report.runs import Run
from genre_jax.report.tables import Column, Table

WORST = 20  # test clips with players
WORST_TRAINING = 12  # training clips with players
PLAYED_SECONDS = 60  # at most, of each clip
Columns = Mapping[str, np.ndarray]


class Audio:
    """The clips of some splits of a run's data set, by name.

    Attributes:
      missing: the reason if there are none, or "".
    """

    def __init__(self, run: Run, split: str):
        """Open the splits that the expression `split` names, such as "fold1+fold2" or "train[0:100]"."""
        self.missing, self._rows = "", {}
        if run.results is None:
            self.missing = "the run has no results yet"
        elif is_url(place := run.results.get("directory", "")):
            self.missing = f"the data set is at {place}, and the report plays clips of local folders alone"
        elif run.folder is None:
            self.missing = f"the data set is no longer at {place}"
        else:
            try:
                self._index = select.load(run.folder, split)
                self._rows = {name: row for row, name in enumerate(self._index.names)}
            except UserError as error:
                self.missing = str(error)
            except (OSError, ValueError, KeyError):
                self.missing = f"the data set at {run.folder} cannot be read"

    def cut(self, clip: str, span: tuple[int, int]) -> tuple[np.ndarray, int] | None:
        """Samples int16 of the range [start, end) of a clip, at most `PLAYED_SECONDS`, and their rate; None if missing."""
        if clip not in self._rows:
            return None
        index, row = self._index, self._rows[clip]
        start, stop = span[0], min(span[1], int(index.length[row]), span[0] + PLAYED_SECONDS * index.sample_rate)
        try:
            return index.cut(row, start, max(0, stop - start)), index.sample_rate
        except (shards.DamagedClip, OSError):
            return None


def write_wave(path: Path, audio: np.ndarray, rate: int) -> None:
    """Write int16 samples as a mono WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(audio.astype("<i2").tobytes())


def fresh(folder: Path, patterns: Iterable[str]) -> Path:
    """Make a folder, and delete the files of an earlier report in it that match `patterns`; return the folder."""
    folder.mkdir(exist_ok=True)
    for pattern in patterns:
        for old in folder.glob(pattern):
            old.unlink()
    return folder


def with_players(clips: list[dict], audio: Audio, folder: Path) -> list[dict]:
    """Write `NN.wav` and `NN.png` of each clip whose audio is there, and set its "files" to FOLDER/NN."""
    from genre_jax.report import charts

    fresh(folder, ("[0-9][0-9].png", "[0-9][0-9].wav"))
    for place, clip in enumerate(clips, 1):
        found = audio.cut(clip["clip"], clip["span"])
        if found:
            stem = folder / f"{place:02d}"
            write_wave(stem.with_suffix(".wav"), *found)
            charts.spectrogram(stem.with_suffix(".png"), found[0] / np.float32(32768), found[1])
            clip["files"] = f"{folder.name}/{stem.name}"
    return clips


def worst_clips(table: Columns, task: str, only_wrong: bool = True, most: int = WORST) -> list[dict]:
    """Return the clips with the worst predictions, worst first.

    Task "single" ranks the clips by -log of the mean probability of the true class; with `only_wrong` it leaves out the clips
    that are classified correctly. "multi" ranks all clips by the mean loss of their windows.

    Each clip is {"clip", "track", "score", "truth", "predicted", "span", "files"}. `truth` and `predicted` are lists of
    (class, mean probability), and `span` is the evaluated range (first sample, end).
    """
    groups = table["clip"]
    if not len(groups):
        return []
    numbers, first = np.unique(groups, return_index=True)
    probabilities = metrics.group_probabilities(table["logits"], groups, task)
    if task == "multi":
        labels = metrics.group_labels(table["labels"], groups)
        windows = metrics.group_sums(np.ones(len(groups)), groups)[1]
        badness = metrics.group_sums(table["loss"], groups)[1] / windows
        chosen = np.arange(len(numbers))
    else:
        truth = metrics.group_targets(table["target"], groups)
        labels = truth[:, None] == np.arange(probabilities.shape[1])
        badness = -np.log(np.maximum((probabilities * labels).sum(axis=1), 1e-300))
        wrong = truth != probabilities.argmax(axis=1)
        chosen = np.flatnonzero((truth >= 0) & (wrong | (not only_wrong)))
    chosen = chosen[np.argsort(-np.nan_to_num(badness[chosen]), kind="stable")][:most]
    names, samples = [str(name) for name in table["classes"]], int(table["samples"])
    clips = []
    for i in chosen:
        starts = table["start"][groups == numbers[i]]
        true = np.flatnonzero(labels[i])
        predicted = np.argsort(-probabilities[i], kind="stable")[: max(1, len(true) if task == "multi" else 1)]
        clips.append(
            {
                "clip": str(table["clip_names"][numbers[i]]),
                "track": str(table["track_names"][table["track"][first[i]]]),
                "score": float(badness[i]),
                "truth": [(names[c], float(probabilities[i, c])) for c in true],
                "predicted": [(names[c], float(probabilities[i, c])) for c in predicted],
                "span": (int(starts.min()), int(starts.max()) + samples),
                "files": None,
            }
        )
    return clips


def as_table(name: str, title: str, clips: list[dict]) -> Table:
    """The table of some clips of `worst_clips`; the badness is a loss in nats."""

    def names(pairs: list[tuple[str, float]]) -> str:
        return ", ".join(f"{name} ({formats.percent(probability)})" for name, probability in pairs) or "no label"

    columns = (Column("Clip"), Column("Track"), Column("True"), Column("Predicted"), Column("Loss", formats.decimal))
    rows = [(c["clip"], c["track"], names(c["truth"]), names(c["predicted"]), c["score"]) for c in clips]
    return Table(name, title, columns, rows)
