"""A synthetic source of AudioSet: official lists, and clips in every supported layout."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
HEADER = "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=1, num_segs=1\n# YTID, start_seconds, end_seconds, positive_labels\n"
LISTS = {"balanced": "balanced_train_segments.csv", "eval": "eval_segments.csv", "unbalanced": "unbalanced_train_segments.csv"}
OUTSIDE = ("/m/09x0r", "/t/dd00088")  # speech and gunshot, which are not music classes
SECONDS = 0.5  # length of a segment

# layout → path of a segment below the source folder, without extension
LAYOUTS = {
    "id": "id/{id}",
    "y_id": "y_id/Y{id}",
    "start": "start/{id}_{start:g}",
    "start_ms": "start_ms/{id}_{start_ms}",
    "start_end": "start_end/{id}_{start:.3f}_{end:.3f}",
    "start_end_ms": "start_end_ms/Y{id}_{start_ms}_{end_ms}",
    "nested": "nested/{id[0]}/{id[1]}/{id}",
    "video": "video/{id}",
    "tar": "shards/{shard:02d}.tar/{id}",
    "tar_json": "shards/json{shard:02d}.tar/{number:06d}",
    "parquet": "data/{shard:02d}.parquet/{id}",
}


@dataclass(frozen=True)
class Clip:
    """A row of an official list. `state` is "present", "missing" or "broken"."""

    layout: str
    number: int
    split: str
    start: float
    mids: tuple[str, ...]
    state: str

    @property
    def id(self) -> str:
        return f"-{list(LAYOUTS).index(self.layout):x}_{self.number:08d}"

    @property
    def stem(self) -> str:
        end = self.start + SECONDS
        return LAYOUTS[self.layout].format(
            id=self.id, start=self.start, end=end, start_ms=round(1000 * self.start), end_ms=round(1000 * end),
            shard=self.number % 3, number=self.number,
        )  # fmt: skip

    @property
    def extension(self) -> str:
        return ".flac" if self.layout in ("tar", "tar_json", "parquet") else ".wav"

    @property
    def name(self) -> str:
        """The name of the clip in the data set."""
        return self.stem + (self.extension if self.layout != "parquet" else "")

    def row(self) -> str:
        return f'{self.id}, {self.start:.3f}, {self.start + SECONDS:.3f}, "{",".join(self.mids)}"'

    def pcm(self) -> np.ndarray:
        """The samples of the segment, int16."""
        rng = np.random.default_rng(list(self.id.encode()))
        return rng.integers(-9000, 9000, round(SECONDS * RATE)).astype(np.int16)

    def file(self) -> bytes:
        """The bytes of the file or member. In the layout "video" it is longer than the segment."""
        if self.state == "broken":
            return b"<html>HTTP 429</html>"
        samples = self.pcm()
        if self.layout == "video":
            before = np.full(round(self.start * RATE), 100, np.int16)
            samples = np.concatenate([before, samples, np.full(3 * RATE, -100, np.int16)])
        held = io.BytesIO()
        soundfile.write(held, samples, RATE, subtype="PCM_16", format=self.extension[1:].upper())
        return held.getvalue()


def clips(mids: tuple[str, ...], each: int = 100) -> list[Clip]:
    """Returns `each` clips per layout.

    Of 100 clips, 5 are missing and 2 are broken. Of 5 clips, 3 are in unbalanced, 1 in balanced and 1 in eval.
    """
    made = []
    for place, layout in enumerate(LAYOUTS):
        rng = np.random.default_rng(place)
        for number in range(each):
            chosen = [mids[i] for i in rng.choice(len(mids), rng.integers(1, 4), replace=False)]
            if number % 3 == 0:
                chosen.insert(int(rng.integers(0, 2)), OUTSIDE[number % 2])
            state = "missing" if number % 21 == 7 else "broken" if number % 53 == 11 else "present"
            split = ("unbalanced", "unbalanced", "unbalanced", "balanced", "eval")[number % 5]
            made.append(Clip(layout, number, split, number % 4 * 1.5, tuple(chosen), state))
    return made


def write(top: Path, made: list[Clip]) -> None:
    """Write the lists, and the audio of the clips that are not missing."""
    (top / "csv").mkdir(parents=True)
    for split, name in LISTS.items():
        rows = [clip.row() for clip in made if clip.split == split]
        speech = f'0_speech_{split[:2]}, 0.000, 10.000, "{OUTSIDE[0]}"'
        (top / "csv" / name).write_text(HEADER + "\n".join([speech, *rows]) + "\n")
    there = [clip for clip in made if clip.state != "missing"]
    for clip in there:
        if clip.extension == ".wav":
            path = top / (clip.stem + clip.extension)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(clip.file())
    for layout in ("tar", "tar_json", "parquet"):
        shards: dict[str, list[Clip]] = {}
        for clip in there:
            if clip.layout == layout:
                shards.setdefault(clip.stem.rpartition("/")[0], []).append(clip)
        for name, members in shards.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (_write_parquet if layout == "parquet" else _write_tar)(top / name, members)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _write_tar(path: Path, members: list[Clip]) -> None:
    with tarfile.open(path, "w") as tar:
        for clip in members:
            name = clip.stem.rpartition("/")[2]
            told = {"tags": ["music"]} | ({"video_id": clip.id} if clip.layout == "tar_json" else {})
            add(tar, f"{name}.json", json.dumps(told).encode())
            add(tar, name + clip.extension, clip.file())


def _write_parquet(path: Path, members: list[Clip]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"video_id": clip.id, "audio": {"bytes": clip.file(), "path": clip.id + clip.extension}, "labels": list(clip.mids)}
        for clip in members
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10)
