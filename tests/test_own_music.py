"""README's three commands on very small, wide and multi-label collections, with the published weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import genre_jax

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("published_weights")]
RATE = 16_000


def song(genre: int, number: int) -> np.ndarray:
    """4 s of a chord and a beat that the genre decides, in a key that the number decides."""
    rng = np.random.default_rng([genre, number])
    t = np.arange(4 * RATE) / RATE
    chord = sum(np.sin(2 * np.pi * 110 * 2 ** ((12 * octave + number + genre % 7) / 12) * t) for octave in range(1 + genre % 4))
    beat = np.exp(-(3 + genre % 5) * 4 * (t % (0.2 + 0.05 * (genre % 11)))) * rng.standard_normal(len(t))
    return (0.08 * chord + (0.05 + 0.02 * (genre % 6)) * beat).astype(np.float32)


def collection(folder: Path, classes: int, songs: int, several: bool = False) -> Path:
    """A CSV of songs; with `several`, every second song has the next class too."""
    lines = ["path,labels"]
    for genre in range(classes):
        for number in range(songs):
            soundfile.write(folder / f"{genre}_{number}.wav", song(genre, number), RATE)
            more = f"|c{(genre + 1) % classes}" if several and number % 2 else ""
            lines.append(f"{genre}_{number}.wav,c{genre}{more}")
    (folder / "songs.csv").write_text("\n".join(lines) + "\n")
    return folder / "songs.csv"


@pytest.mark.parametrize(
    ("classes", "songs", "several", "task"), [(2, 3, False, "single"), (60, 3, False, "single"), (4, 6, True, "multi")]
)
def test_it_works_without_any_option(tmp_path, monkeypatch, call_main, classes, songs, several, task):
    monkeypatch.chdir(tmp_path)
    prepare_folder(tmp_path, classes, songs, several)
    call_main("--config=own_music", "--config.train.duration=30 steps")
    results = json.loads(Path("runs/own_music/results.json").read_text())
    assert (results["task"], results["tracks"] > 0) == (task, True)
    tags = genre_jax.load("runs/own_music").tags(song(1, 0), RATE)
    assert len(tags.labels) == classes
    assert list(tags.overall())[:3].count("c1") == 1


def test_one_song_a_class_is_one_sentence(tmp_path, monkeypatch, call_main):
    monkeypatch.chdir(tmp_path)
    prepare_folder(tmp_path, 5, 1, False)
    _, err = call_main("--config=own_music", code=1)
    assert err == (
        "error: split 'validation' of data set 'my_music' is empty: prepare at least three songs of each class, or name the splits "
        "in the column split of a CSV file\n"
    )


def prepare_folder(folder: Path, classes: int, songs: int, several: bool) -> None:
    from genre_jax.prepare.build import prepare

    prepare("folder", "data", RATE, source=collection(folder, classes, songs, several), name="my_music")
