"""The baselines on toy sets whose classes differ in loudness, in timbre, or in neither."""

import json
import types

import numpy as np
import pytest

import genre_jax
from genre_jax import console
from genre_jax.console import UserError
from genre_jax.data import locate, shards
from genre_jax.prepare import passport, tfrecord
from genre_jax.report import baselines
from genre_jax.weights import musicnn

pytest.importorskip("sklearn")
pytest.importorskip("librosa")
RATE = 8_000


def tone(rng: np.random.Generator, amplitude: float, hertz: float, partials: int) -> np.ndarray:
    """A harmonic tone of a quarter second in noise, int16."""
    time = np.arange(RATE // 4) / RATE
    wave = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, partials + 1))
    return np.int16(32767 * amplitude * (0.4 * wave + 0.01 * rng.normal(size=len(time))))


def data_set(folder, make, classes=("a", "b", "c"), clips=8):
    """Write a data set of two splits with two clips per track; `make(rng, class number)` returns the audio."""
    rng = np.random.default_rng(0)
    for split in ("learn", "exam"):
        made = [
            tfrecord.Clip(f"{split}/{c}/{i:02d}", f"{split}/{c}/{i // 2}", (c,), make(rng, c), 0.5)
            for c in range(len(classes))
            for i in range(clips)
        ]
        tfrecord.write_shards(folder, "toy", split, made)
    facts = {"name": "toy", "sample_rate": RATE, "labels": list(classes), "splits": {"learn": {}, "exam": {}}}
    passport.write(folder, facts)
    return folder


def indices(folder):
    return shards.load_index(folder, "learn"), shards.load_index(folder, "exam")


def test_the_first_baseline_uses_loudness_and_the_second_timbre(tmp_path):
    loud = data_set(tmp_path / "loud", lambda rng, c: tone(rng, 0.1 * (c + 1), rng.uniform(200, 300), 4))
    assert baselines.score(*indices(loud))["rms_centroid"] == 1
    timbre = data_set(tmp_path / "timbre", lambda rng, c: tone(rng, 0.3, rng.uniform(200, 300), (1, 3, 9)[c]))
    assert baselines.score(*indices(timbre))["mfcc_means"] == 1


def test_features_without_information_score_at_chance(tmp_path):
    folder = data_set(tmp_path, lambda rng, c: tone(rng, rng.uniform(0.1, 0.5), rng.uniform(200, 900), 3), clips=16)
    found = baselines.score(*indices(folder))
    assert set(found) == {"rms_centroid", "mfcc_means"} and max(found.values()) < 0.7


def test_the_scores_are_cached_in_the_folder_of_the_shards(tmp_path):
    folder = data_set(tmp_path, lambda rng, c: tone(rng, 0.1 * (c + 1), 220, 2), clips=2)
    missing = 'the weights of musicnn are not in the cache: genre_jax.load("musicnn") fetches them once'
    first, reason = baselines.cached_score(folder, "learn", "exam")
    assert reason == missing
    cache = folder / "baselines.json"
    assert json.loads(cache.read_text()) == {"learn 6 > exam 6": first}
    cache.write_text(json.dumps({"learn 6 > exam 6": {"rms_centroid": 0.25}}))
    assert baselines.cached_score(folder, "learn", "exam") == ({"rms_centroid": 0.25}, missing)
    cache.unlink()
    cache.mkdir()  # cannot be written
    assert baselines.cached_score(folder, "learn", "exam") == (first, missing)


class Loudness:
    """Stands for musicnn. The embedding of a window of a tenth of a second is its loudness."""

    def __init__(self):
        self.seconds = []

    def tags(self, wave, sample_rate):
        self.seconds.append(len(wave) / sample_rate)
        windows = wave[: len(wave) // 800 * 800].reshape(-1, 800)
        return types.SimpleNamespace(embeddings=np.abs(windows).mean(1, keepdims=True))


@pytest.fixture
def loudness(monkeypatch):
    stand = Loudness()
    monkeypatch.setattr(musicnn, "cached", lambda name: name == "musicnn")
    monkeypatch.setattr(genre_jax, "load", lambda name: stand)
    return stand


def test_musicnn_is_scored_by_its_mean_embedding_and_added_to_the_cache(tmp_path, loudness, monkeypatch):
    folder = data_set(tmp_path, lambda rng, c: tone(rng, 0.1 * (c + 1), 220, 2), clips=4)
    (folder / "baselines.json").write_text(json.dumps({"learn 12 > exam 12": {"mfcc_means": 0.25}}))
    expected = {"mfcc_means": 0.25, "musicnn": 1.0}
    assert baselines.cached_score(folder, "learn", "exam") == (expected, "")
    assert loudness.seconds == [0.25] * 24
    assert json.loads((folder / "baselines.json").read_text()) == {"learn 12 > exam 12": expected}
    assert baselines.cached_score(folder, "learn", "exam") == (expected, "") and len(loudness.seconds) == 24
    (folder / "baselines.json").unlink()
    monkeypatch.setattr(baselines, "MUSICNN_CLIPS", 6)
    assert baselines.cached_score(folder, "learn", "exam")[0]["musicnn"] == 1 and len(loudness.seconds) == 24 + 12


def test_without_jax_the_other_baselines_are_scored(tmp_path, loudness, monkeypatch):
    def load(name):
        raise ImportError("jax")

    monkeypatch.setattr(genre_jax, "load", load)
    folder = data_set(tmp_path, lambda rng, c: tone(rng, 0.1 * (c + 1), 220, 2), clips=2)
    found, reason = baselines.cached_score(folder, "learn", "exam")
    assert set(found) == {"rms_centroid", "mfcc_means"} and reason == "the baseline musicnn needs JAX, which is not installed"


def test_the_embeddings_report_their_progress(tmp_path, loudness, monkeypatch, capsys):
    folder = data_set(tmp_path, lambda rng, c: tone(rng, 0.1 * (c + 1), 220, 2), clips=2)
    monkeypatch.setattr(console, "QUIET", -1.0)
    baselines.cached_score(folder, "learn", "exam")
    assert "baseline musicnn: 0 of 6 clips of split 'learn'" in capsys.readouterr().err


def test_multi_label_sets_are_refused(tmp_path):
    silence = np.zeros(RATE // 4, np.int16)
    folder = data_set(tmp_path, lambda rng, c: silence, clips=2)
    tfrecord.write_shards(folder, "toy", "exam", [tfrecord.Clip("x", "x", (0, 2), silence, 0.0)])
    passport.write(folder, locate.read_passport(folder))
    with pytest.raises(UserError, match="split 'exam' of 'toy' has clips without exactly one label"):
        baselines.score(*indices(folder))
    scores, reason = baselines.cached_score(folder, "learn", "exam")
    assert scores is None and reason == "split 'exam' of 'toy' has clips without exactly one label"


def test_a_single_class_is_refused(tmp_path):
    folder = data_set(tmp_path, lambda rng, c: np.zeros(RATE // 4, np.int16), classes=("only",), clips=2)
    with pytest.raises(UserError, match="split 'learn' of 'toy' has clips of a single class"):
        baselines.score(*indices(folder))


def test_clips_shorter_than_a_frame_are_scored(tmp_path):
    folder = data_set(tmp_path, lambda rng, c: tone(rng, 0.1 * (c + 1), 220, 2)[:700], clips=4)
    assert baselines.score(*indices(folder))["rms_centroid"] > 0.9
