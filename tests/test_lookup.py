"""The look-up finds the recording and the offset of a clip in noise, and gives no answer for a clip of no recording."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from genre_jax import similar
from genre_jax.console import UserError
from genre_jax.datasets.synthetic import music
from genre_jax.prepare import audio, fingerprint
from genre_jax.recommend import lookup
from genre_jax.recommend.index import Index, Network
from genre_jax.recommend.segment import Segment, Song

SHARED = ROOT.parent / "shared" / "audio"
RATE, FILE_RATE = lookup.RATE, 16_000
CLIP, SNR_DB = 5.0, 10.0
KINDS = ("white", "pink", "recorded")


def render(number: int, seconds: float) -> np.ndarray:
    genres = music.GENRES
    return music.render(genres[number % len(genres)], number // len(genres), sample_rate=FILE_RATE, seconds=seconds)


def at_rate(samples: np.ndarray) -> np.ndarray:
    return audio.resample(samples.astype(np.float32), FILE_RATE, RATE)


def segment(name: str, samples: np.ndarray) -> Segment:
    """A recording (samples at `RATE`) with its fingerprint, and embeddings of one dimension."""
    heard, one = fingerprint.take(samples, RATE), np.ones((1, 1), np.float32)
    song = Song(name, len(samples) / RATE, 1, 1, 1, len(np.unique(heard.times)))
    return Segment.of(song, one, one, np.zeros(1), heard)


def index_of(folder: Path, recordings: dict[str, np.ndarray]) -> Index:
    made = Index(folder, Network("none", RATE, ("all",), np.ones(1, np.float32)))
    made.commit([segment(name, samples) for name, samples in recordings.items()])
    return made


def noisy(clip: np.ndarray, noise: np.ndarray) -> np.ndarray:
    noise = np.resize(noise.astype(np.float64), len(clip))
    return clip + noise * np.sqrt(np.mean(clip**2.0) / np.mean(noise**2) / 10 ** (SNR_DB / 10))


@pytest.fixture(scope="module")
def tracks() -> dict[str, np.ndarray]:
    """The recordings of a small index, at `FILE_RATE`."""
    return {f"{number}": render(number, 10.0) for number in range(20)}


@pytest.fixture(scope="module")
def small(tracks, tmp_path_factory) -> Index:
    folder = tmp_path_factory.mktemp("lookup") / "index"
    return index_of(folder, {name: at_rate(track) for name, track in tracks.items()})


@pytest.mark.parametrize("colour", ["white", "pink"])
def test_clips_in_noise_are_found_at_their_offset(tracks, small, colour):
    found = 0
    for number, (name, track) in enumerate(tracks.items()):
        start = 0.1 + 0.237 * number
        cut = track[round(start * FILE_RATE) :][: round(CLIP * FILE_RATE)]
        clip = noisy(cut, music.noise(number, sample_rate=FILE_RATE, seconds=CLIP, colour=colour))
        for answer in lookup.search(small, lookup.at_all_phases(at_rate(clip)))[:1]:
            found += 1
            assert small.songs()[answer.number].path == name
            assert answer.offset == pytest.approx(start, abs=0.02) and answer.expected <= fingerprint.EXPECTED
    assert found >= 19


def test_clips_of_other_recordings_give_no_answer(small):
    for number in range(20, 40):
        assert lookup.search(small, lookup.at_all_phases(at_rate(render(number, CLIP)))) == []
    silence = lookup.at_all_phases(np.zeros(5 * RATE, np.float32))
    assert lookup.search(small, silence) == []


def test_the_expected_number_is_that_of_the_audit(tracks, small):
    """One phase of a clip against one recording gives the figures of `fingerprint.find`."""
    track = at_rate(tracks["3"])
    clip = track[2 * RATE : 7 * RATE]
    heard = fingerprint.take(clip, RATE)
    (match,), _ = fingerprint.find([heard, fingerprint.take(track, RATE)])
    answer = lookup.search(small, heard)[0]
    assert small.songs()[answer.number].path == "3"
    assert answer.offset == pytest.approx(match.offset) == pytest.approx(2.0, abs=0.01)
    assert answer.agreement == pytest.approx(match.agreeing / match.peaks, rel=0.02)
    assert answer.expected == pytest.approx(len(small.songs()) * match.expected, rel=1e-2) or answer.expected < 1e-12


def test_removed_recordings_are_not_found(tracks, tmp_path):
    made = index_of(tmp_path / "index", {name: at_rate(tracks[name]) for name in ("1", "2", "3")})
    heard = lookup.at_all_phases(at_rate(tracks["2"])[: 5 * RATE])
    assert [made.songs()[found.number].path for found in lookup.search(made, heard)] == ["2"]
    made.commit(removed=["2"])
    assert lookup.search(made, heard) == []
    kept = lookup.at_all_phases(at_rate(tracks["3"])[: 5 * RATE])
    assert [made.songs()[found.number].path for found in lookup.search(Index.open(tmp_path / "index"), kept)] == ["3"]


def test_the_rarest_hashes_are_used_within_a_budget(tracks, small, monkeypatch):
    heard = lookup.at_all_phases(at_rate(tracks["4"])[: 5 * RATE])
    every = lookup._meetings(small, heard)
    monkeypatch.setattr(lookup, "MEETINGS", len(every[0]) // 2)
    some = lookup._meetings(small, heard)
    assert len(every[0]) / 4 < len(some[0]) <= len(every[0]) / 2
    assert small.songs()[lookup.search(small, heard)[0].number].path == "4"


def test_the_command_names_the_recording(tracks, small, tmp_path, capsys):
    clip = noisy(tracks["5"][3 * FILE_RATE : 8 * FILE_RATE], music.noise(0, sample_rate=FILE_RATE, seconds=CLIP, colour="pink"))
    soundfile.write(tmp_path / "clip.flac", clip, FILE_RATE)
    soundfile.write(tmp_path / "other.flac", render(50, CLIP), FILE_RATE)
    assert similar.lookup([str(tmp_path / "clip.flac")], small.folder) == 0
    assert capsys.readouterr().out.startswith("5  at 0:03  (")
    similar.lookup([str(tmp_path / "clip.flac")], small.folder, as_json=True)
    (found,) = json.loads(capsys.readouterr().out)["recordings"]
    assert found["file"] == "5" and found["offset"] == pytest.approx(3.0, abs=0.02)
    similar.lookup([str(tmp_path / "other.flac")], small.folder)
    assert capsys.readouterr().out == f"{tmp_path / 'other.flac'}: no recording in the index matches\n"
    with pytest.raises(UserError, match="none.flac: no such file"):
        similar.lookup([str(tmp_path / "none.flac")], small.folder)


# ---------------------------------------------------------------- 1,000 recordings


def real() -> dict[str, np.ndarray]:
    """{path: samples at `FILE_RATE`} of the real recordings."""
    return {str(path.relative_to(SHARED)): audio.load(path, FILE_RATE).samples for path in sorted(SHARED.rglob("*.ogg"))}


def sources() -> dict[str, str]:
    """{path: artist and title}: several files of `genres` are excerpts of one recording."""
    with open(SHARED / "genres" / "tracks.csv", encoding="utf-8", newline="") as file:
        return {f"genres/{row['path']}": f"{row['artist']}, {row['title']}" for row in csv.DictReader(file)}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/audio")
def test_clips_in_noise_among_1000_recordings(tmp_path):
    """Of every recording a clip in each kind of noise; answers beside the right one are those without the recording.

    The recorded noises are ESC-10's. They are not in the index: a clip with such a noise holds the noise's recording as well.
    """
    every = real()
    noises = [samples for name, samples in every.items() if name.startswith("noise/")]
    recordings = {name: samples for name, samples in every.items() if not name.startswith("noise/")}
    recordings |= {f"synthetic/{number}": render(number, 20.0) for number in range(1000 - len(recordings))}
    same = sources()
    made = index_of(tmp_path / "index", {name: at_rate(samples) for name, samples in recordings.items()})
    paths = [song.path for song in made.songs()]
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for number, (name, samples) in enumerate(recordings.items()):
        rng = np.random.default_rng([int(os.environ.get("SEED", "0")), number])
        start = int(rng.integers(max(1, len(samples) - round(CLIP * FILE_RATE))))
        cut = samples[start : start + round(CLIP * FILE_RATE)]
        for kind in KINDS:
            if kind == "recorded":
                noise = noises[rng.integers(len(noises))]
            else:
                noise = music.noise(int(rng.integers(1 << 30)), sample_rate=FILE_RATE, seconds=CLIP, colour=kind)
            answers = lookup.search(made, lookup.at_all_phases(at_rate(noisy(cut, noise))))
            right = [same.get(paths[answer.number], paths[answer.number]) == same.get(name, name) for answer in answers]
            row = counts.setdefault((name.partition("/")[0], kind), dict.fromkeys(("clips", "found", "wrong", "absent"), 0))
            row["clips"] += 1
            row["found"] += bool(right) and right[0]
            row["wrong"] += bool(right) and not right[0]
            row["absent"] += not all(right)  # what the index without the recording would answer
            if not all(right):
                print(f"{name} in {kind} noise: also", paths[answers[right.index(False)].number])
            elif not right and not name.startswith("synthetic"):
                print(f"{name} in {kind} noise: not found")
    total = {key: sum(row[key] for row in counts.values()) for key in ("clips", "found", "wrong", "absent")}
    for (group, kind), row in counts.items():
        print(f"{group:<10} {kind:<9}", row)
    print(total)
    assert total["found"] >= 0.95 * total["clips"]
    assert total["wrong"] <= 0.01 * total["clips"] and total["absent"] <= 0.01 * total["clips"]
