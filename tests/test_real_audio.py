"""Leave-one-speaker-out test on real recordings. It runs the commands of a user, from audio files to tags.

The data are three LibriSpeech speakers, five pieces of music and 100 ESC-10 noises of `shared/audio`. Each of three folds
tests one speaker, one or two pieces of music and a third of the sources of noise, and trains on the other recordings.
docs/benchmarks/real_audio.md lists the results over all folds.
"""

import csv
import json
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT, run_module

from genre_jax import metrics

AUDIO = ROOT.parent / "shared" / "audio"
CLASSES = ["music", "noise", "speech"]
FOLDS = 3
ROW_SECONDS = 5.0
STEP_SECONDS = {"music": 2.0, "noise": ROW_SECONDS, "speech": 0.35}  # small steps repeat short recordings often
LEAST_RECALL = 0.8
FAST_MALLOC = {  # Otherwise glibc returns and requests the large buffers again in each step.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TOP_PAD_": str(1 << 28),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
}
TRAINING = (
    "--config.data.validation=",  # no validation split: the training split has only two speakers
    "--config.evaluate.weights=last",
    "--config.evaluate.hop=8000",
    "--config.train.duration=240 steps",
    "--config.train.checkpoint_every=240 steps",
    "--config.ema=0.95",
    "--config.frontend.n_fft=2048",  # 128 ms resolve the partials of notes
    "--config.optimizer.weight_decay=1e-3",
    "--config.augment.shift=1.0",
    "--config.augment.polarity=0.5",
    "--config.augment.speed=0.4",  # simulates other speakers and musical keys
    "--config.augment.equalise_db=12",  # simulates other microphones and rooms
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not AUDIO.is_dir(), reason="needs ../shared/audio")]


def recordings() -> dict[str, dict[str, list[Path]]]:
    """Return class → track → files. An ESC-10 name is FOLD-SOURCE-TAKE. All takes of a source form one track."""
    found: dict[str, dict[str, list[Path]]] = {label: defaultdict(list) for label in CLASSES}
    for label, tracks in found.items():
        for path in sorted((AUDIO / label).rglob("*.ogg")):
            tracks[path.stem.rpartition("-")[0] if label == "noise" else path.stem].append(path)
    return found


def held_out(fold: int) -> dict[Path, str]:
    """Return file → class of the test recordings of `fold`: every third track of each class, or of each kind of noise."""
    files = {}
    for label, tracks in recordings().items():
        place: Counter[Path] = Counter()
        for paths in tracks.values():
            if place[paths[0].parent] % FOLDS == fold:
                files.update(dict.fromkeys(paths, label))
            place[paths[0].parent] += 1
    return files


def cuts(seconds: float, step: float | None) -> list[tuple[float, float]]:
    """Return (start, duration) of the rows of a recording: every `step` seconds, or without overlap if `step` is None."""
    if step is None:
        rows = max(1, round(seconds / ROW_SECONDS))
        return [(row * seconds / rows, seconds / rows) for row in range(rows)]
    span = max(0.0, seconds - ROW_SECONDS)
    return [(start, ROW_SECONDS) for start in np.linspace(0, span, round(span / step) + 1)]


def write_table(path: Path, fold: int) -> None:
    """Write the CSV of a fold. A row has about five seconds; a track is in one split; test rows do not overlap."""
    testing = held_out(fold)
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "labels", "track", "split", "start", "duration"])
        for label, tracks in recordings().items():
            for track, paths in tracks.items():
                for audio in paths:
                    split, step = ("test", None) if audio in testing else ("train", STEP_SECONDS[label])
                    for start, duration in cuts(soundfile.info(audio).duration, step):
                        table.writerow([audio, label, track, split, f"{start:.3f}", f"{duration:.3f}"])


def succeed(module: str, *arguments: object) -> tuple[str, float]:
    """Run a command, and return its output and its duration in seconds."""
    started = time.monotonic()
    process = run_module(module, *map(str, arguments))
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, f"{module}: exit {process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
    return out, time.monotonic() - started


def clip_decisions(path: Path) -> list[tuple[str, str]]:
    """Return (true, predicted) class of each clip of predictions.npz, from the mean probability of its windows."""
    with np.load(path) as file:
        table = dict(file)
    names, probabilities = table["classes"].tolist(), metrics.softmax(table["logits"])
    decisions = []
    for clip in np.unique(table["clip"]):
        rows = table["clip"] == clip
        decisions.append((names[table["labels"][rows][0].argmax()], names[probabilities[rows].mean(0).argmax()]))
    return decisions


def confusion(decisions: list[tuple[str, str]]) -> np.ndarray:
    """Return the confusion matrix (true class, predicted class)."""
    counts = Counter(decisions)
    return np.array([[counts[true, predicted] for predicted in CLASSES] for true in CLASSES])


def shown(title: str, counts: np.ndarray) -> str:
    """Return the confusion matrix and the recalls as text."""
    lines = [f"{title:<16}" + "".join(f"{label:>8}" for label in CLASSES) + "  recall"]
    for label, row in zip(CLASSES, counts, strict=True):
        lines.append(
            f"{label:<16}" + "".join(f"{count:>8}" for count in row) + f"  {row[CLASSES.index(label)] / row.sum():.3f}"
        )
    return "\n".join(lines)


def test_no_track_straddles_splits_and_every_file_is_tested_once(tmp_path):
    tested: Counter[str] = Counter()
    for fold in range(FOLDS):
        write_table(tmp_path / "fold.csv", fold)
        with open(tmp_path / "fold.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        splits = defaultdict(set)
        for row in rows:
            splits[row["track"]].add(row["split"])
        assert all(len(each) == 1 for each in splits.values())
        assert {row["labels"] for row in rows if row["split"] == "train"} == set(CLASSES)
        assert len({row["track"] for row in rows if (row["labels"], row["split"]) == ("speech", "test")}) == 1
        tested.update({row["path"] for row in rows if row["split"] == "test"})
    assert len(tested) == 108 and set(tested.values()) == {1}


def test_music_noise_and_an_unheard_speaker_are_told_apart(tmp_path, monkeypatch):
    for name, value in FAST_MALLOC.items():
        monkeypatch.setenv(name, value)
    clips, files = [], []
    for fold in range(FOLDS):
        name, workdir = f"fold{fold}", tmp_path / f"run{fold}"
        data = (f"--config.data.name={name}", f"--config.data.data_dir={tmp_path / 'data'}")
        write_table(tmp_path / f"{name}.csv", fold)
        _, preparing = succeed(
            "genre_jax.prepare", f"--source={tmp_path / name}.csv", f"--name={name}", f"--data_dir={tmp_path / 'data'}",
            "--sample_rate=16000", "--strict",
        )  # fmt: skip
        _, training = succeed(
            "genre_jax.main", "--config=configs/resnet34_spectrogram.py:demo", f"--workdir={workdir}", *data, *TRAINING
        )
        testing = held_out(fold)
        out, tagging = succeed("genre_jax.tag", f"--workdir={workdir}", "--json", *testing)
        print(f"fold {fold}: prepare {preparing:.0f} s, train {training:.0f} s, tag {tagging:.0f} s ({len(testing)} files)")
        clips += clip_decisions(workdir / "predictions.npz")
        tags = [json.loads(line) for line in out.splitlines()]
        assert [tag["file"] for tag in tags] == [str(path) for path in testing]
        decided = [(testing[Path(tag["file"])], max(tag["labels"], key=tag["labels"].get)) for tag in tags]
        files += decided
        for tag, (true, predicted) in zip(tags, decided, strict=True):
            if true != predicted:
                print(f"  {Path(tag['file']).relative_to(AUDIO)} is taken for {predicted}: {tag['labels']}")
        assert (workdir / "report" / "index.html").exists()
    for title, decisions in (("clips", clips), ("whole files", files)):
        counts = confusion(decisions)
        print(shown(title, counts))
        assert (counts.diagonal() >= LEAST_RECALL * counts.sum(1)).all(), shown(title, counts)
