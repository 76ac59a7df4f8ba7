"""Conditioning of whole files: the NumPy steps against the JAX functions and by hand, and `prepare` with --condition."""

import csv
import itertools
import sys
import tracemalloc

import collections_tree
import jax
import numpy as np
import pytest
import soundfile
from conftest import small_config

import genre_jax
from genre_jax.console import UserError
from genre_jax.data import locate, shards
from genre_jax.datasets import DATASETS
from genre_jax.frontends import conditioning
from genre_jax.loop import train_and_evaluate
from genre_jax.prepare import audio, build, condition, parts, silence, workers
from genre_jax.prepare.__main__ import summary
from genre_jax.prepare.audio import AudioError
from genre_jax.prepare.workers import Limits
from genre_jax.run import Run

RATE = 8000


def bursts(samples: int, rate: int, seed: int = 0) -> np.ndarray:
    """Noise whose level changes by up to 100 dB every 0.3 s, after 0.15 s of quiet noise."""
    rng = np.random.default_rng(seed)
    part = round(0.3 * rate)
    level = np.repeat(rng.choice([1, 1e-5, 0.03, 0.3, 0], samples // part + 1), part)[:samples]
    y = rng.normal(0, 0.1, samples) * level
    y[: round(0.15 * rate)] = rng.normal(0, 0.003, round(0.15 * rate))
    return y.astype(np.float32)


@pytest.mark.parametrize(("rate", "samples"), [(8000, 16001), (11025, 20003), (16000, 40003), (22050, 5513), (44100, 30011)])
def test_steps_equal_the_functions_in_jax(rate, samples):
    y = bursts(samples, rate)
    with jax.enable_x64(True):
        wide = y.astype(np.float64)
        equal, clean = conditioning.equalise_loudness(wide, sr=rate), conditioning.log_mmse(wide, sr=rate)
        mask = np.repeat(np.asarray(conditioning.silence_mask(wide)) > 0, 512)[:samples]
    level = np.clip(0.1 * np.asarray(equal), -1, 1)
    for ours, expected in ((condition.equalise_loudness(y, rate), level), (condition.log_mmse(y, rate), clean)):
        assert ours.dtype == np.float32 and ours.shape == y.shape
        assert np.abs(ours - np.asarray(expected)).max() < 1e-6 * np.abs(expected).max()
    np.testing.assert_array_equal(condition.remove_silence(y, rate), y[mask])
    assert samples < 6000 or 0.2 < mask.mean() < 0.95
    single = np.clip(0.1 * np.asarray(conditioning.equalise_loudness(y, sr=rate)), -1, 1)
    assert np.abs(condition.equalise_loudness(y, rate) - single).max() < 1e-4


@pytest.mark.parametrize("name", sorted(condition.STEPS))
def test_chunks_change_nothing_and_memory_is_linear(name, monkeypatch):
    y, step = bursts(60 * RATE + 1, RATE), condition.STEPS[name]
    whole = step(y[: 6 * RATE + 1], RATE)
    monkeypatch.setattr(condition, "_CHUNK", 7)
    np.testing.assert_allclose(step(y[: 6 * RATE + 1], RATE), whole, atol=1e-7)
    monkeypatch.setattr(condition, "_CHUNK", 50)
    peaks = []
    for samples in (20 * RATE, 60 * RATE):
        tracemalloc.start()
        step(y[:samples], RATE)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / (40 * y[:RATE].nbytes) < 4  # copies of the samples


def test_silence_is_cut_out_by_frames():
    """Frame t covers the samples 512·t - 1024 to 512·t + 1023. A burst in 4096 to 4607 is in the frames 7 to 10."""
    y = np.full(10007, 1e-5, np.float32)
    y[4096:4608] = 0.5
    np.testing.assert_array_equal(condition.remove_silence(y, RATE), y[7 * 512 : 11 * 512])
    y[:] = 1e-5
    np.testing.assert_array_equal(condition.remove_silence(y, RATE), y)  # relative to the loudest frame, nothing is silent
    with pytest.raises(AudioError, match=r"^the whole file is silence, and remove_silence leaves nothing of it$"):
        condition.remove_silence(np.zeros(3001, np.float32), RATE)


def test_loudness_comes_out_at_a_tenth_of_full_scale():
    y = np.random.default_rng(5).normal(0, 0.2, 4 * RATE + 3).astype(np.float32)
    y[2 * RATE :] *= np.float32(10**-1.5)
    level = condition.equalise_loudness(y, RATE)[: 16 * 2000].reshape(16, 2000).std(-1)
    np.testing.assert_allclose(np.delete(level, [7, 8]), 0.1, rtol=0.05)  # the step of 30 dB is between 7 and 8
    y[:] *= np.float32(1e-3)
    y[9001:9008] = 0.9  # a knock, clipped instead of scaling the file down
    level = condition.equalise_loudness(y, RATE)
    assert np.abs(level).max() == 1.0 and np.sum(np.abs(level) == 1) == 7
    np.testing.assert_allclose(level[:6000].std(), 0.1, rtol=0.05)


def test_steps_follow_their_order_and_end_with_sound():
    y = bursts(20001, RATE)
    first, second = "remove_silence", "equalise_loudness"
    ours = condition.apply((first, second), y, RATE)
    np.testing.assert_array_equal(ours, condition.equalise_loudness(condition.remove_silence(y, RATE), RATE))
    assert len(ours) != len(condition.apply((second, first), y, RATE))
    np.testing.assert_array_equal(condition.apply((), y, RATE), y)
    with pytest.raises(AudioError, match=r"^too short for log_mmse: 0.119 s, where 0.120 s of noise are needed$"):
        condition.apply(("log_mmse",), y[:950], RATE)
    hum = np.random.default_rng(0).normal(0, 2.8e-5, 4 * RATE).astype(np.float32)  # noise alone, which log_mmse takes away
    assert np.abs(hum).max() > silence.SILENT
    with pytest.raises(AudioError, match=r"^nothing but silence is left by log_mmse: no sample exceeds 0.0001 of full scale$"):
        condition.apply(("log_mmse",), hum, RATE)


def test_steps_are_named_once_and_known():
    assert condition.parse("remove_silence,log_mmse") == condition.parse(["remove_silence", "log_mmse"])
    assert condition.parse("") == condition.parse(()) == ()
    with pytest.raises(
        UserError,
        match=r"^unknown step of --condition 'logmmse' \(did you mean 'log_mmse'\?\): choose one of equalise_loudness, log_mmse, "
        "remove_silence$",
    ):
        condition.parse("remove_silence,logmmse")
    with pytest.raises(UserError, match=r"^--condition=log_mmse,log_mmse repeats a step: name each of log_mmse, remove_"):
        condition.parse("log_mmse,log_mmse")


# ---------------------------------------------------------------- prepare


def test_prepare_conditions_whole_files_without_jax(tmp_path, monkeypatch):
    """The shards hold the conditioned files; bad files are quarantined with a sentence; the passport lists the steps."""
    source = collections_tree.musan(tmp_path / "MUSAN", each=3, seconds=1.3)
    quiet = {"click": np.zeros(2 * RATE), "short": 0.1 * np.sin(np.arange(0.11 * RATE)), "silent": np.zeros(RATE)}
    quiet["click"][9000:9003] = 0.5
    for name, samples in quiet.items():
        soundfile.write(source / f"noise/free-sound/{name}.wav", samples, RATE)
    (tmp_path / "light").mkdir()
    for module in ("tensorflow", "jax", "librosa"):  # worker processes inherit this path
        (tmp_path / f"light/{module}.py").write_text("raise ImportError('must not be imported here')")
    monkeypatch.syspath_prepend(tmp_path / "light")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    steps = ("log_mmse", "remove_silence", "equalise_loudness")
    folder = build.prepare("musan", tmp_path / "data", RATE, source, workers=1, condition=steps, split="folds:2")
    assert folder.parts[-3] == "musan_folds_2_log_mmse_remove_silence_equalise_loudness"
    passport = locate.read_passport(folder)
    assert passport["conditioning"] == list(steps)
    assert "each whole file went through log_mmse, remove_silence, equalise_loudness" in summary(passport, folder)
    with open(folder / "quarantine.csv", newline="") as file:
        reasons = {row["path"].split("/")[-1]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == {"short.wav", "silent.wav"}
    assert reasons["short.wav"].startswith("too short for log_mmse: 0.110 s, where 0.120 s of noise")
    assert reasons["silent.wav"].startswith("the mono mix is silent")  # although the floor of equalise_loudness would raise it
    seconds = passport["files"]["columns"].index("seconds")
    lengths = {row[0]: row[seconds] for row in passport["files"]["rows"]}
    for fold in ("fold0", "fold1"):
        index = shards.load_index(folder, fold)
        for row, name in enumerate(index.names):
            samples = condition.apply(steps, audio.load(source / name, RATE).samples, RATE)
            pcm = audio.to_pcm(samples, float(np.abs(samples).max()))
            np.testing.assert_array_equal(index.cut(row, 0, int(index.length[row])), pcm)
            assert lengths[name] == pytest.approx(len(pcm) / RATE, abs=1e-4)


def test_a_click_without_enough_sound_is_too_short(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.eye(1, 9000, 0)[0] * 0.5, 16000)
    item = DATASETS["hunonspeech"](tmp_path).items[0]
    with pytest.raises(AudioError, match=r"^too short after remove_silence: 0.096 s, the minimum is 0.1 s$"):
        workers.render_clip(DATASETS["hunonspeech"](tmp_path).render, item, 16000, ("remove_silence",))


def test_every_order_of_steps_is_another_data_set(tmp_path):
    """A `prepare` resumes only with the same steps, and names its result after them."""
    source = DATASETS["musan"](collections_tree.musan(tmp_path, each=2, seconds=0.2))
    splits = build.assign_splits(source.items, 0.1, 0.1)
    orders = [order for count in range(4) for order in itertools.permutations(condition.STEPS, count)]
    keys = {
        parts.fingerprint(build.dataclasses.replace(source, conditioning=order), splits, RATE, Limits()) for order in orders
    }
    assert len(keys) == len({build.default_name("musan", tmp_path, {}, order) for order in orders}) == len(orders) == 16
    assert (
        build.default_name("folder", tmp_path / "My Music", {"split": "folds:5"}, ("log_mmse",)) == "my_music_folds_5_log_mmse"
    )


def test_tag_conditions_a_file_as_prepare_did(tmp_path):
    """A run on conditioned data states the steps, refuses other data, and its tags are those of the conditioned file."""
    steps = ["remove_silence", "equalise_loudness"]
    for label, pitch in (("low", 200), ("high", 900)):
        for split in ("train", "validation", "test"):
            path = tmp_path / "songs" / label / f"{split}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            sound = np.sin(2 * np.pi * pitch * np.arange(18_000) / RATE) * np.repeat([0.5, 0, 0.01], 6000)
            soundfile.write(path, sound, RATE, subtype="PCM_16")
    table = tmp_path / "songs.csv"
    rows = [
        f"songs/{label}/{split}.wav,{label},{split}" for label in ("low", "high") for split in ("train", "validation", "test")
    ]
    table.write_text("\n".join(["path,labels,split", *rows]))
    build.prepare("folder", tmp_path, RATE, table, "songs", condition=steps, workers=1)
    config = small_config(tmp_path, "snn", data__name="songs", data__conditioning=steps, train__duration="2 steps")
    train_and_evaluate(config, tmp_path / "run")
    tagger = genre_jax.load(tmp_path / "run")
    file = tmp_path / "songs" / "high" / "test.wav"
    tags = tagger.tags(file)
    conditioned = condition.apply(steps, audio.load(file, RATE).samples, RATE)
    assert tags.seconds == len(conditioned) / RATE < 18_000 / RATE
    tagger.network.conditioning = []
    np.testing.assert_allclose(tags.probabilities, tagger.tags(conditioned, RATE).probabilities, atol=1e-6)
    assert np.abs(tags.probabilities.mean(0) - tagger.tags(file).probabilities.mean(0)).max() > 1e-4
    with pytest.raises(UserError, match="was prepared with conditioning .*equalise_loudness.*, and the config asks for"):
        Run(small_config(tmp_path, "snn", data__name="songs"))
