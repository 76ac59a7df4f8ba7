"""Clips with planted duplicates for the leak audit: real recordings, if they are beside the checkout, and synthetic music."""

import csv
import io
from pathlib import Path

import numpy as np
import soundfile

from genre_jax.datasets.synthetic import music
from genre_jax.prepare import audio, passport, tfrecord

KINDS = ("exact", "shifted", "mp3", "louder", "noisy")
SHIFT, LOUDER_DB, SNR_DB = 2.0, 3.0, 10.0


def real(folder: Path, rate: int, seconds: float = 10.0) -> dict[str, np.ndarray]:
    """Returns {name: samples} of every recording of `folder`, cut without gaps into clips of about `seconds`.

    A name has the form RECORDING/NUMBER. Several songs of `genres` are excerpts of one recording: they share artist and title.
    """
    with open(folder / "genres" / "tracks.csv", encoding="utf-8", newline="") as file:
        titles = {Path(row["path"]).stem: f"{row['artist']}, {row['title']}" for row in csv.DictReader(file)}
    found = {}
    for path in sorted(folder.rglob("*.ogg")):
        whole = audio.load(path, rate).samples
        count = max(1, round(len(whole) / rate / seconds))
        # Noises of one source differ only in the part after the last "-".
        stem = path.stem.rpartition("-")[0] if path.parent.parent.name == "noise" else titles.get(path.stem, path.stem)
        stem = stem.replace("/", " ")
        for number, part in enumerate(np.array_split(whole, count)):
            found[f"{stem}/{path.stem}.{number}"] = part
    return found


def tracks(count: int, rate: int, seconds: float = 10.0) -> dict[str, np.ndarray]:
    """Returns {name: samples} of `count` synthetic tracks, with the genres in turn."""
    genres = music.GENRES
    return {
        f"{genres[n % len(genres)]}-{n}/0": music.render(
            genres[n % len(genres)], n // len(genres), sample_rate=rate, seconds=seconds
        )
        for n in range(count)
    }


def changed(kind: str, samples: np.ndarray, rate: int, seed: int) -> np.ndarray:
    """Returns a duplicate of this kind.

    It is exact, or begins `SHIFT` seconds later and ends with noise, or went through mp3, or is louder, or has added noise.
    """
    if kind == "shifted":
        fill = music.noise(seed, sample_rate=rate, seconds=SHIFT, colour="pink") * np.std(samples)
        return np.concatenate([samples[round(SHIFT * rate) :], fill])
    if kind == "mp3":
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format="MP3", subtype="MPEG_LAYER_III")
        return soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")[0]
    if kind == "louder":
        return samples * 10 ** (LOUDER_DB / 20)
    if kind == "noisy":
        colour = ("white", "pink", "brown")[seed % 3]
        noise = music.noise(seed, sample_rate=rate, seconds=len(samples) / rate, colour=colour)[: len(samples)]
        return samples + noise * np.sqrt(np.mean(samples**2) / np.mean(noise**2) / 10 ** (SNR_DB / 10))
    return samples


def plant(clips: dict[str, np.ndarray], rate: int, each: int, seed: int = 0) -> dict[str, tuple[str, np.ndarray]]:
    """Returns {name: (name of the original, samples)} with `each` duplicates of every kind, all of different originals."""
    names = np.random.default_rng(seed).permutation(sorted(clips))[: each * len(KINDS)]
    return {
        f"copy-{kind}/{number}": (str(name), changed(kind, clips[str(name)], rate, number))
        for number, (name, kind) in enumerate(zip(names, KINDS * each, strict=True))
    }


def write(folder: Path, rate: int, splits: dict[str, dict[str, np.ndarray]]) -> Path:
    """Write a data set with one class from {split: {name: samples}}, and return its folder."""
    for split, clips in splits.items():
        rows = []
        for name, samples in clips.items():
            pcm = np.round(np.clip(samples, -1, 32767 / 32768) * 32768).astype(np.int16)
            rows.append(tfrecord.Clip(name, name.partition("/")[0], (0,), pcm, float(pcm.max()) / 32768))
        tfrecord.write_shards(folder, "audit", split, rows)
    facts = {"name": "audit", "dataset": "folder", "sample_rate": rate, "labels": ["all"], "splits": {s: {} for s in splits}}
    passport.write(folder, facts)
    return folder
