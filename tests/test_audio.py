"""Decoding, cutting, resampling and streaming of real audio files of every kind, intact and broken."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import audio_files
import numpy as np
import pytest
import soundfile

from genre_jax.prepare import audio

LOSSLESS = {"wav16": 2**-15, "wav24": 2**-22, "wav_float": 0.0, "flac": 2**-15}
EXACT_CUTS = {"wav16", "wav24", "wav_float", "flac", "ogg", "mp3", "opus"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("audio")
    return {kind: audio_files.make(folder, kind, kind) for kind in audio_files.KINDS}


def lag(a: np.ndarray, b: np.ndarray, most: int) -> int:
    """Returns the delay of `b` against `a` in samples."""
    inner = a[most : len(a) - most]
    scores = [np.dot(inner, b[most + k : most + k + len(inner)]) for k in range(-most, most + 1)]
    return int(np.argmax(scores)) - most


@pytest.mark.parametrize("kind", audio_files.KINDS)
def test_decode_gives_what_was_encoded(files, kind):
    _, _, rate, channels = audio_files.KINDS[kind]
    want = audio_files.chord(3.0, rate, channels).T
    got, form = audio.decode(files[kind])
    assert (form.rate, form.channels, got.dtype) == (rate, channels, np.float32)
    assert want.shape[1] <= got.shape[1] <= want.shape[1] + 2048  # a codec may pad its last frame
    delay = audio_files.AAC_DELAY if kind == "m4a" else 0
    want, got = want[:, : want.shape[1] - delay], got[:, delay : want.shape[1]]
    if kind in LOSSLESS:
        np.testing.assert_allclose(got, want, rtol=0, atol=LOSSLESS[kind])
    else:
        assert lag(want[0], got[0], 50) == 0
        assert np.corrcoef(want.ravel(), got.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("kind", audio_files.KINDS)
@pytest.mark.parametrize("rate", [16000, 48000])
def test_load_is_the_resampled_mean_and_stream_is_load(files, kind, rate):
    decoded, form = audio.decode(files[kind])
    want = audio.resample(decoded.mean(axis=0), form.rate, rate)
    got = audio.load(files[kind], rate)
    assert (got.sample_rate, got.format) == (rate, form)
    assert len(got.samples) == len(want)
    np.testing.assert_allclose(got.samples, want, rtol=0, atol=0.5 / 32768)
    for block in (1000, 4097, 10**6):
        blocks = list(audio.stream(files[kind], rate, block))
        assert {len(b) for b in blocks[:-1]} <= {block} and 0 < len(blocks[-1]) <= block
        np.testing.assert_array_equal(np.concatenate(blocks), got.samples)


@pytest.mark.parametrize("kind", audio_files.KINDS)
@pytest.mark.parametrize(("start", "duration"), [(0.0, 1.25), (0.7, 0.5), (1.8, 0.9), (2.5, None)])
def test_cut_is_a_slice(files, kind, start, duration):
    whole, form = audio.decode(files[kind])
    cut, _ = audio.decode(files[kind], start, duration)
    first = round(start * form.rate)
    want = whole[:, first:] if duration is None else whole[:, first : first + round(duration * form.rate)]
    if kind in EXACT_CUTS:
        np.testing.assert_array_equal(cut, want)
    else:  # time stamps in webm are whole milliseconds
        assert abs(cut.shape[1] - want.shape[1]) <= 48
        size = min(cut.shape[1], want.shape[1])
        assert abs(lag(want[0, :size], cut[0, :size], 60)) <= (0 if kind == "m4a" else 48)


def test_cut_past_the_end_is_shorter_and_after_the_end_an_error(files):
    assert audio.load(files["flac"], 16000, 2.0, 5.0).samples.shape == (16000,)
    for kind in ("flac", "m4a"):
        with pytest.raises(audio.AudioError, match=r"^the file ends at 3\.0 s, before the clip starts at 7\.0 s$"):
            audio.load(files[kind], 16000, 7.0, 1.0)


def test_sixteen_bit_wav_comes_through_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    pcm = np.concatenate([[-32768, 32767, 0, 1, -1], rng.integers(-32768, 32768, 5000)]).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", pcm, 16000)
    got = audio.to_pcm(audio.load(tmp_path / "a.wav", 16000).samples, peak=1.0)
    np.testing.assert_array_equal(got, pcm)


def test_peaks_over_one_are_scaled_not_clipped():
    assert audio.to_pcm(np.array([0.0, 1.0, -2.0, 0.5], np.float32), peak=2.0).tolist() == [0, 16384, -32768, 8192]
    assert audio.to_pcm(np.array([1.0, -1.0], np.float32), peak=1.0).tolist() == [32767, -32768]


def test_resample_keeps_tones_and_drops_what_would_alias():
    time = np.arange(44100) / 44100
    kept = audio.resample(np.sin(2 * np.pi * 1000 * time).astype(np.float32), 44100, 16000)
    inner = slice(2000, 14000)
    np.testing.assert_allclose(kept[inner], np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)[inner], atol=1e-3)
    gone = audio.resample(np.sin(2 * np.pi * 10000 * time).astype(np.float32), 44100, 16000)
    assert np.abs(gone[inner]).max() < 1e-4


@pytest.mark.parametrize("kind", audio_files.KINDS)
def test_half_a_file_is_an_error(tmp_path, kind):
    path = audio_files.make(tmp_path, kind, "half", seconds=4.0)
    audio_files.cut_in_half(path)
    with pytest.raises(audio.AudioError, match=r"^(cut off: |decoding stopped after |not an audio file that soundfile or)"):
        audio.load(path, 16000)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.mp3", b"hello world\n" * 500, r"^not an audio file that soundfile or FFmpeg can read: "),
        ("a.flac", np.random.default_rng(0).bytes(9000), "^not an audio file"),
        ("a.ogg", b"", "^the file has zero bytes$"),
        ("a.wav", None, "^no such file$"),
    ],
)
def test_what_is_no_audio_is_an_error(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(audio.AudioError, match=sentence):
        audio.load(tmp_path / name, 16000)


def test_wrong_extension_eight_channels_and_odd_names_are_no_trouble(tmp_path):
    samples = audio_files.chord(0.5, 96000, 8)
    soundfile.write(tmp_path / "a.wav", samples, 96000)
    odd = os.fsencode(tmp_path) + b"/caf\xe9 \n.mp3"  # Latin-1, not UTF-8
    os.rename(tmp_path / "a.wav", odd)
    got = audio.load(os.fsdecode(odd), 96000)
    assert got.format == audio.Format("wav/pcm_16", 96000, 8)
    np.testing.assert_allclose(got.samples, samples.mean(axis=1), atol=2 / 32768)


def test_streaming_needs_little_memory(tmp_path):
    rate, seconds = 8000, 1800
    soundfile.write(tmp_path / "long.flac", np.zeros((rate * seconds, 2), np.int16) + 100, rate)  # 115 MB as float32
    tracemalloc.start()
    total = sum(len(block) for block in audio.stream(tmp_path / "long.flac", 16000, 16000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 16000 * seconds
    assert peak < 4e6


def test_decoding_imports_no_framework():
    heavy = ["tensorflow", "tensorflow_datasets", "jax", "librosa", "scipy", "soundfile", "av", "soxr"]
    code = f"import sys, genre_jax.prepare.build; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
