"""Write a folder in the layout of MUSAN: `python tests/musan_corpus.py [--audio=FOLDER] TARGET`.

The folders music, noise and speech of TARGET get the embedded sounds of `synthetic_musan`, and the recordings below `--audio` if
it is given: `music/` and `genres/` (with `tracks.csv`), `noise/KIND/SOURCE-TAKE.ogg`, `speech/`, one speaker a file.

The data set `musan` splits by file. Therefore all cuts of one artist, of one source of noise and of one speaker are joined in one
file. There are few speakers, and each is also heard faster and slower, as other voices. Their files are named so that the
split with seed 0 trains on two of three speakers and tests the third. All files pass the same low-pass filter and
the same codec, so that no class is told by what was recorded and what was synthesised.
"""

import argparse
import csv
import io
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
from scipy import signal

from genre_jax.datasets.musan import SHARES
from genre_jax.datasets.synthetic import MUSAN_CLASSES
from genre_jax.datasets.synthetic.musan import render
from genre_jax.prepare import splits
from genre_jax.prepare.audio import load

RATE = 16_000
LOW_PASS = 7_000.0  # Hz
FILES = 80  # embedded files fill a class up to this number, and are at least a half of it
ARTIST_SECONDS, SONG_SECONDS = 60.0, 15.0  # at most, of an artist and of a song
VOICES = (0.85, 0.92, 1.0, 1.09, 1.18)  # speeds of a speaker
SPEAKERS = ("train", "train", "test")


def recordings(audio: Path) -> dict[str, dict[str, list[Path]]]:
    """Return class → artist, source of noise or speaker → files, from a folder such as shared/audio."""
    found: dict[str, dict[str, list[Path]]] = {name: defaultdict(list) for name in MUSAN_CLASSES}
    with open(audio / "genres" / "tracks.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found["music"][row["artist"]].append(audio / "genres" / row["path"])
    for path in sorted((audio / "music").glob("*.ogg")):
        found["music"]["_".join(path.stem.split("_")[:2])].append(path)
    for path in sorted((audio / "noise").glob("*/*.ogg")):
        found["noise"][f"{path.parent.name}_{path.stem.rpartition('-')[0]}"].append(path)
    for path in sorted((audio / "speech").glob("*.ogg")):
        found["speech"][path.stem].append(path)
    return found


def joined(label: str, paths: list[Path]) -> np.ndarray:
    """Return the cuts of one artist, source or speaker, one after the other, float32 (samples,) at 16 kHz."""
    if label == "speech":
        heard = [load(path, RATE).samples for path in paths]
        return np.concatenate([signal.resample(part, round(len(part) / speed)) for part in heard for speed in VOICES])
    longest = min(SONG_SECONDS, ARTIST_SECONDS / len(paths))
    cuts = []
    for path in paths:
        seconds = soundfile.info(path).duration
        cuts.append(load(path, RATE, max(0.0, (seconds - longest) / 2), longest).samples)
    return np.concatenate(cuts)


def written(audio: np.ndarray) -> np.ndarray:
    """Return a sound after the low-pass filter and Ogg Vorbis, with a peak of at most 0.95."""
    audio = signal.sosfiltfilt(signal.butter(6, LOW_PASS, fs=RATE, output="sos"), audio)
    audio = audio / max(1.0, np.abs(audio).max() / 0.95)
    coded = io.BytesIO()
    with soundfile.SoundFile(coded, "w", RATE, 1, format="OGG", subtype="VORBIS") as file:
        for begin in range(0, len(audio), RATE):
            file.write(audio[begin : begin + RATE])
    coded.seek(0)
    return np.clip(soundfile.read(coded)[0], -1.0, 1.0)


def named(label: str, real: list[str], embedded: list[str]) -> dict[str, str]:
    """Return recording → name of its file. The names of speakers are chosen for `SPEAKERS`; see the head of this file."""
    for number in itertools.count():
        names = {name: f"{label}/recorded_{place:03d}_{number}.wav" for place, name in enumerate(real)}
        placed = splits.stratified(dict.fromkeys([*names.values(), *embedded], label), SHARES["65_10_25"], 0)
        if label != "speech" or all(placed[names[name]] == split for name, split in zip(real, SPEAKERS, strict=False)):
            return names
    raise AssertionError("itertools.count has no end")


def main(target: Path, audio: Path | None) -> None:
    """Write all files, and print for each class the files and minutes that were recorded and synthesised."""
    found = recordings(audio) if audio else {name: {} for name in MUSAN_CLASSES}
    for label, groups in found.items():
        (target / label).mkdir(parents=True, exist_ok=True)
        count = max(FILES - len(groups), FILES // 2)
        embedded = [f"{label}/embedded_{number:03d}.wav" for number in range(count)]
        seconds = {"recorded": 0.0, "embedded": 0.0}
        for recording, name in named(label, list(groups), embedded).items():
            sound = written(joined(label, groups[recording]))
            soundfile.write(target / name, sound, RATE, subtype="PCM_16")
            seconds["recorded"] += len(sound) / RATE
        for number, name in enumerate(embedded):
            sound = written(render(label, number))
            soundfile.write(target / name, sound, RATE, subtype="PCM_16")
            seconds["embedded"] += len(sound) / RATE
        print(
            f"{label:<7}{len(groups):>4} recorded files ({seconds['recorded'] / 60:.1f} min), "
            f"{count:>3} embedded ({seconds['embedded'] / 60:.1f} min)"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--audio", type=Path, help="folder with music, genres, noise and speech; without it: embedded sounds alone"
    )
    parser.add_argument("target", type=Path, help="folder to write")
    arguments = parser.parse_args()
    main(arguments.target, arguments.audio)
