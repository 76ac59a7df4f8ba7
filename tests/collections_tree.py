"""Write small copies of the collections in their layouts: a few seconds of sound per file, so that `prepare` and training run.

`audioset_tree.py` does the same for AudioSet. Every function writes below `top` and returns it as the --source of `prepare`.
`each` is the number of files per class, where nothing else is said.
"""

from pathlib import Path

import audio_files
import numpy as np

from genre_jax.datasets import DATASETS
from genre_jax.datasets.gtzan import GENRES

FMA_GENRES = ("Electronic", "Experimental", "Folk", "Hip-Hop", "Instrumental", "International", "Pop", "Rock")
FMA_HEADER = (
    ",album,album,artist,set,set,track,track",
    ",comments,title,id,split,subset,genre_top,title",
    "track_id,,,,,,,",
)


def gtzan(top: Path, split: str = "fault_filtered", each: int = 1, seconds: float = 4.0) -> Path:
    """Write `each` tracks of each genre for each split of the protocol `split`, at 22,050 Hz in `genres_original/GENRE`."""
    write(top, "genres_original/blues/blues.00000.wav", "music", 22050, seconds)
    found = DATASETS["gtzan"](top, split=split)
    chosen: dict[tuple[str, str | None], list[str]] = {}
    for item in (*found.items, *found.missing):
        tracks = chosen.setdefault((item.labels[0], item.split), [])
        track = item.track.split("@")[0]
        if len(tracks) < each and track not in tracks:
            tracks.append(track)
    for track in sorted(track for tracks in chosen.values() for track in tracks):
        genre = track.split(".")[0]
        write(top, f"genres_original/{genre}/{track}.wav", "music", 22050, seconds, GENRES.index(genre))
    return top


def fma_small(top: Path, each: int = 4, seconds: float = 15.5) -> Path:
    """Write `each` clips of each of the eight genres as mp3, at 44.1 kHz in `fma_small/NNN`, and `fma_metadata/tracks.csv`.

    In the official split the last two of a genre are validation and test. The first two of a genre are by one artist. `prepare`
    refuses clips of less than 15 seconds.
    """
    rows = []
    for genre in FMA_GENRES:
        for number in range(each):
            track = 2 + len(rows)
            split = {each - 1: "test", each - 2: "validation"}.get(number, "training")
            artist = track - 1 if number == 1 else track
            rows.append(f'{track},0,"An album,\nin two lines",{artist},{split},small,{genre},x')
            write(top, f"fma_small/000/{track:06d}.mp3", "music", 44100, seconds, FMA_GENRES.index(genre))
    write_tracks(top, *rows)
    return top


def write_tracks(top: Path, *rows: str) -> None:
    """Write `fma_metadata/tracks.csv` with these rows (track, comments, album, artist, split, subset, genre, title)."""
    (top / "fma_metadata").mkdir(parents=True, exist_ok=True)
    (top / "fma_metadata/tracks.csv").write_text("\n".join([*FMA_HEADER, *rows]) + "\n")


def musan(top: Path, each: int = 8, seconds: float = 3.0) -> Path:
    """Write `music/fma`, `noise/free-sound` and `speech/librivox` at 16 kHz, and the texts that lie beside them.

    With 8 files the default protocol gives each class 5 / 1 / 2 files.
    """
    for kind, corpus in (("music", "fma"), ("noise", "free-sound"), ("speech", "librivox")):
        for number in range(each):
            write(top, f"{kind}/{corpus}/{kind}-{corpus}-{number:04d}.wav", kind, 16000, seconds)
        for name in ("ANNOTATIONS", "LICENSE"):
            (top / kind / corpus / name).touch()
    (top / "README").touch()
    return top


def gtzan_music_speech(top: Path, each: int = 8, seconds: float = 3.0) -> Path:
    """Write `music_wav` and `speech_wav` at 22,050 Hz."""
    for kind in ("music", "speech"):
        for number in range(each):
            write(top, f"{kind}_wav/{kind}{number}.wav", kind, 22050, seconds)
    return top


def hunonspeech(top: Path, each: int = 4, seconds: float = 2.0) -> Path:
    """Write the noises `Nonspeech/n1.wav` and so on, at 20 kHz."""
    for number in range(1, each + 1):
        write(top, f"Nonspeech/n{number}.wav", "noise", 20000, seconds)
    return top


def write(top: Path, name: str, kind: str, rate: int, seconds: float, pitch: int = 0) -> None:
    """Write a mono file of "music" (tones; `pitch` in semitones moves them), "noise", or "speech" (noise in syllables).

    It begins with 150 ms of quiet noise. Every name has other samples.
    """
    rng = np.random.default_rng(list(name.encode()))
    time = np.arange(round(seconds * rate)) / rate
    samples = rng.normal(0, 1e-3, len(time))
    if kind == "music":
        chord = audio_files.chord(min(seconds, 2.0), rate, 1, int(rng.integers(1 << 30)))[:, 0]
        sound = np.resize(chord, len(time)) + 0.2 * np.sin(2 * np.pi * 220 * 2 ** (pitch / 12) * time)
    else:
        sound = rng.normal(0, 0.2, len(time)) * (1 if kind == "noise" else np.clip(np.sin(2 * np.pi * 3 * time), 0, 1))
    samples += np.where(time < 0.15, 0, sound)
    path = top / name
    path.parent.mkdir(parents=True, exist_ok=True)
    audio_files.write(path, "mp3" if path.suffix == ".mp3" else "wav16", samples[:, None].astype(np.float32), rate)
