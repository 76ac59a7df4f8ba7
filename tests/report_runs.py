"""Fabricated data sets and finished runs for the tests of the report, and a reader of its pages."""

import html.parser
import json
from pathlib import Path

import numpy as np

from genre_jax import metrics
from genre_jax.data import locate, shards
from genre_jax.prepare import passport, tfrecord

RATE, WINDOW = 8_000, 2_000
EVIL = "<script>alert(1)</script>.wav"
CLASSES = ("rock & roll", 'so "called" jazz', "$cost$ <b>", "blues")


def make_data_set(data_dir: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """Write a tiny prepared data set with two clips per track; the name of the first test clip needs escaping."""
    folder = locate.directory(data_dir, "toy", RATE)
    rng = np.random.default_rng(0)
    for split, count in (("learn", 16), ("exam", 24)):
        clips = []
        for i in range(count):
            audio = np.int16(3_000 * rng.normal(size=4_000 + 100 * i))
            name = EVIL if (split, i) == ("exam", 0) else f"{split}/{i:02d}.wav"
            clips.append(tfrecord.Clip(name, f"{split}/{i // 8}/{i % 4}", (i % 4,), audio, 0.5))
        tfrecord.write_shards(folder, "toy", split, clips)
    splits = {
        split: {"clips": n, "missing": m, "classes": dict.fromkeys(classes, n // 4)}
        for split, n, m in (("learn", 16, 0), ("exam", 24, 6))
    }
    passport.write(folder, {"name": "toy", "sample_rate": RATE, "labels": classes, "splits": splits})
    return folder


def predictions_of(index: shards.Index, right: int) -> dict[str, np.ndarray]:
    """The columns of predictions.npz on a split, with two windows per clip; the last `right` clips are classified correctly."""
    clip = np.repeat(np.arange(len(index), dtype=np.int32), 2)
    labels, track = index.labels[clip], index.track[clip]
    answers = (labels.argmax(axis=1) + (clip < len(index) - right)) % len(index.classes)
    logits = np.eye(len(index.classes), dtype=np.float32)[answers] * (1 + clip[:, None] / 4)
    logits += np.random.default_rng(1).normal(size=logits.shape).astype(np.float32) * 0.01
    loss = -np.log(metrics.softmax(logits)[labels > 0]).astype(np.float32)
    names = {"classes": index.classes, "clip_names": index.names, "track_names": index.tracks}
    start, target = np.tile(np.array([0, WINDOW], np.int32), len(index)), labels.argmax(axis=1).astype(np.int32)
    table = {"logits": logits, "labels": labels, "target": target, "loss": loss, "clip": clip, "track": track, "start": start}
    rest = {"sample_rate": np.array(RATE), "samples": np.array(WINDOW)}
    return {key: np.array(value) for key, value in names.items()} | table | rest


def write_run(workdir: Path, folder: Path, task: str = "single", right: int = 20, made_by: dict | None = None) -> Path:
    """Write a finished run on the split "exam"; `right` of 24 clips are classified correctly."""
    workdir.mkdir(parents=True)
    index = shards.load_index(folder, "exam")
    table = predictions_of(index, right)
    np.savez(workdir / "predictions.npz", **table)
    results = {"schema": 1, "run": workdir.name, "step": 40, "split": "exam", "data_set": "toy", "task": task}
    results |= {"sample_rate": RATE, "directory": str(folder), "windows": 48, "clips": 24, "tracks": len(index.tracks)}
    results |= {"parameters": 8_041_219, "train_seconds": 75.0, "clips_per_second": 10.0}
    results |= metrics.summarise(table, task)
    write(workdir / "results.json", results)
    config = {"name": workdir.name, "seed": right, "data": {"train": "learn", "samples": WINDOW}}
    write(workdir / "config.json", config | ({"made_by": made_by} if made_by else {}))
    write(workdir / "environment.json", {"jax": "0.12.0", "devices": "2 x <cpu>"})
    rest = {"learning_rate": 0.1, "gradient_norm": 1.0}
    lines = [{"step": s, "split": "train", "loss": 2 - s / 40, "accuracy": s / 40} | rest for s in range(1, 41)]
    lines += [{"step": s, "split": "validation", "loss": 2 - s / 50, "accuracy": s / 50} for s in (20, 40)]
    write_lines(workdir / "metrics.jsonl", lines)
    timings = [{"step": s, "seconds": 2.0 * s, "clips_per_second": 100.0, "waiting": 0.25} for s in range(1, 41)]
    write_lines(workdir / "timings.jsonl", timings)
    return workdir


def add_embeddings(workdir: Path, name: str = "predictions") -> np.ndarray:
    """Add a random embedding of each track to predictions.npz, in which tracks of a class are alike; return the embeddings."""
    with np.load(workdir / f"{name}.npz") as file:
        table = dict(file)
    rng = np.random.default_rng(2)
    first = [np.flatnonzero(table["track"] == number)[0] for number in range(len(table["track_names"]))]
    embedding = 3 * np.eye(8)[table["target"][first]] + rng.normal(size=(len(first), 8))
    np.savez(workdir / f"{name}.npz", **table | {"embedding": embedding.astype(np.float32)})
    return embedding


def write(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values))


def write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


class Page(html.parser.HTMLParser):
    """The text, the tags and the linked files of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.folder, self.texts, self.tags, self.files = path.parent, [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.texts).split())

    def handle_data(self, data):
        self.texts.append(data)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.files += [value for key, value in attrs if key in ("src", "srcset", "href") and not value.startswith("#")]

    def check_files(self):
        assert self.files and all((self.folder / name.partition("#")[0]).is_file() for name in self.files)
