"""The script that writes a corpus in the layout of MUSAN: what is joined in a file, which splits speakers get, without recordings."""

import csv

import musan_corpus
import numpy as np
import pytest
import soundfile

from genre_jax.datasets import DATASETS


def tone(path, hertz, seconds=4.0, rate=22_050):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate), rate)


@pytest.fixture
def audio(tmp_path):
    """Return a folder in the layout of shared/audio: two artists, a piece, three sources of noise, three speakers."""
    folder = tmp_path / "audio"
    songs = [("rock/a.ogg", "Ann"), ("rock/b.ogg", "Ann"), ("pop/c.ogg", "Bob")]
    for number, (song, _) in enumerate(songs):
        tone(folder / "genres" / song, 300 + 200 * number, seconds=40.0)
    with open(folder / "genres" / "tracks.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "labels", "track", "artist")] + [(s, "x", s, artist) for s, artist in songs])
    tone(folder / "music" / "some_one_piece.ogg", 900)
    for name in ("rain/1-7-A", "rain/1-7-B", "rain/2-9-A", "dog/1-7-A"):
        tone(folder / "noise" / f"{name}.ogg", 2_000)
    for name in ("x", "y", "z"):
        tone(folder / "speech" / f"{name}.ogg", 150, rate=16_000)
    return folder


def test_an_artist_a_source_and_a_speaker_is_one_file(audio, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(musan_corpus, "FILES", 6)
    musan_corpus.main(tmp_path / "corpus", audio)
    seconds = {}
    for path in sorted((tmp_path / "corpus").rglob("*.wav")):
        about = soundfile.info(path)
        assert (about.samplerate, about.channels, about.subtype) == (16_000, 1, "PCM_16")
        seconds[path.relative_to(tmp_path / "corpus").as_posix()] = about.duration
    recorded = {
        label: [v for k, v in seconds.items() if k.startswith(f"{label}/recorded")]
        for label in DATASETS["musan"](tmp_path / "corpus").labels
    }
    assert recorded["music"] == pytest.approx([30.0, 15.0, 4.0], abs=0.01)  # Ann's two songs, Bob's song, the piece
    assert recorded["noise"] == pytest.approx([4.0, 8.0, 4.0], abs=0.01)  # dog 1-7; rain 1-7 with two takes; rain 2-9
    assert recorded["speech"] == pytest.approx([sum(4.0 / speed for speed in musan_corpus.VOICES)] * 3, abs=0.01)
    assert sum("embedded" in name for name in seconds) == 9
    assert capsys.readouterr().out.splitlines()[0].startswith("music     3 recorded files (0.8 min),   3 embedded (")


def test_two_speakers_train_and_the_third_is_tested(audio, tmp_path, monkeypatch):
    monkeypatch.setattr(musan_corpus, "FILES", 6)
    musan_corpus.main(tmp_path / "corpus", audio)
    items = DATASETS["musan"](tmp_path / "corpus").items
    spoken = sorted((item.name, item.split) for item in items if item.name.startswith("speech/recorded"))
    assert [split for _, split in spoken] == ["train", "train", "test"]


def test_without_recordings_all_files_are_embedded(tmp_path, monkeypatch):
    monkeypatch.setattr(musan_corpus, "FILES", 3)
    musan_corpus.main(tmp_path, None)
    assert [len(list((tmp_path / label).glob("embedded_*.wav"))) for label in ("music", "noise", "speech")] == [3, 3, 3]
    assert not list(tmp_path.rglob("recorded_*"))


def test_the_chain_removes_what_is_above_its_filter():
    audio = np.random.default_rng(0).normal(0, 0.5, 32_000)
    sound = musan_corpus.written(audio)
    power = np.abs(np.fft.rfft(sound)) ** 2
    assert np.abs(sound).max() <= 1.0 and len(sound) == 32_000
    assert power[-400:].mean() < 1e-3 * power[:8000].mean()  # above 7.8 kHz
