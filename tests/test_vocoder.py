"""Tests of pitch and tempo changes: agreement with librosa within a tolerance, frequencies of tones, random ranges."""

import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from genre_jax import config as configs
from genre_jax.augment import vocoder, waveform
from genre_jax.data import order

RATE, SAMPLES = 8000, 16_000
TIME = np.arange(SAMPLES) / RATE


@functools.cache
def music() -> np.ndarray:
    """Return a noisy chord that changes its loudness periodically."""
    chord = sum(a * np.sin(2 * np.pi * f * TIME) for a, f in ((0.2, 220), (0.15, 330.5), (0.1, 701), (0.05, 1800)))
    noise = np.random.default_rng(0).normal(0, 0.01, SAMPLES)
    return (chord * (0.6 + 0.4 * np.sign(np.sin(4 * np.pi * TIME))) + noise).astype(np.float32)


stretched = jax.jit(functools.partial(vocoder.phase_vocoder, count=36_000))
changed = jax.jit(lambda y, rate, semitones: vocoder.stretch_and_shift(y, rate, semitones)[0])


def error(ours, reference):
    """Return the norm of the error relative to the norm of the reference."""
    return np.linalg.norm(ours - reference) / np.linalg.norm(reference)


@pytest.mark.filterwarnings("ignore:The `(hop_length|n_fft)` parameter:FutureWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("rate", [0.5, 0.83, 1.0, 1.2, 1.5])
def test_stretched_signals_are_librosas(rate):
    """The waveforms agree to 1 % of the norm. Rounding makes the phases of almost empty bins random in both."""
    expected = librosa.effects.time_stretch(music(), rate=rate)
    ours = np.asarray(stretched(music(), rate))
    assert error(ours[: len(expected)], expected) < 0.01
    assert not ours[len(expected) :].any()


@pytest.mark.filterwarnings("ignore:The `(hop_length|n_fft)` parameter:FutureWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("semitones", [-9, -2, 0.5, 5, 9])
def test_shifted_signals_are_librosas_in_spectrum(semitones):
    """The magnitudes of frames of 512 samples agree to 3 % of the norm. The resamplers and the rounding differ."""
    expected = librosa.effects.pitch_shift(music(), sr=RATE, n_steps=semitones)
    ours, theirs = (np.abs(librosa.stft(np.asarray(y), n_fft=512)) for y in (changed(music(), 1.0, semitones), expected))
    assert error(ours, theirs) < 0.03


def peak(y: np.ndarray) -> float:
    """Return the frequency of a single tone in Hz, with a resolution of 0.1 Hz."""
    spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y)), 80_000))
    return spectrum.argmax() * RATE / 80_000


@pytest.mark.parametrize(("rate", "semitones"), [(1.0, -12), (1.0, 7), (0.8, 0), (1.25, 3), (0.7, -5), (4.0, 0)])
def test_pitch_and_tempo_go_their_own_ways(rate, semitones):
    """The shift of a tone does not depend on the tempo. The time at which its loudness drops does not depend on the shift."""
    y = np.sin(2 * np.pi * 440 * TIME) * np.where(TIME < 1, 1, 0.1)
    out = np.asarray(changed(y.astype(np.float32), rate, semitones), np.float64)
    end = min(SAMPLES, round(SAMPLES / rate))
    assert abs(1200 * np.log2(peak(out[512 : end // 2 - 512]) / 440) - 100 * semitones) < 15
    assert not out[end:].any()
    loud = np.convolve(out**2, np.ones(256) / 256, "same")[1024:end] > 0.5 / 4
    expected = min(1 / rate, 2.0)
    assert abs((1024 + loud.sum()) / RATE - expected) < 0.05


def random_of(**changes):
    config = configs.base("x").augment
    config.update(vocoder_fft=1024, **changes)
    return jax.jit(lambda y, keys: waveform.augment(y, keys, config))


def test_random_pitch_is_uniform_in_its_range():
    y = jnp.tile(jnp.asarray(np.sin(2 * np.pi * 500 * TIME[:8192]), jnp.float32), (60, 1))
    out = np.asarray(random_of(pitch=3.0)(y, jax.random.split(jax.random.key(0), 60)))
    semitones = np.array([12 * np.log2(peak(row[1024:-1024]) / 500) for row in out])
    assert -3.1 < semitones.min() < -2.6 and 2.6 < semitones.max() < 3.1 and abs(semitones.mean()) < 0.7


def test_random_tempo_leaves_pitch_alone_and_reads_on():
    y = jnp.tile(jnp.asarray(np.sin(2 * np.pi * 500 * TIME[:8192]) * (TIME[:8192] < 0.6), jnp.float32), (60, 1))
    out = np.asarray(random_of(stretch=0.5)(y, jax.random.split(jax.random.key(1), 60)), np.float64)
    loud = np.array([np.convolve(row**2, np.ones(256) / 256, "same") > 0.5 / 4 for row in out])
    rate = 0.6 * RATE / (512 + loud[:, 512:].argmin(1))  # from the time at which the tone ends
    assert 1 / 1.6 < rate.min() < 1 / 1.35 and 1.35 < rate.max() < 1.6
    assert max(abs(peak(row[512:2048]) - 500) for row in out) < 5
    fast = rate > 1.2
    assert fast.any() and loud[fast, -300:].any(1).all()  # a shorter signal continues from its start
    assert not loud[~fast & (rate < 1), -300:].any()


# ---------------------------------------------------------------- copies that enlarge the data set


def copies_of(**changes):
    config = configs.base("x")
    config.data.copies.update(**changes)
    copy = functools.partial(waveform.copy, copies=config.data.copies, n_fft=1024)
    return config.data.copies, jax.jit(lambda y, keys, variant: copy(y, keys, variant))


def test_each_version_of_a_protocol_has_its_stretch_and_shift():
    copies, copy = copies_of(semitones=[-5, 2], stretches=[0.5, 2.0])
    assert order.versions(copies) == 4
    y = jnp.tile(jnp.asarray(np.sin(2 * np.pi * 440 * TIME[:8192]), jnp.float32), (10, 1))
    out = np.asarray(copy(y, jax.random.split(jax.random.key(0), 10), jnp.arange(10)))
    np.testing.assert_array_equal(out[[0, 5]], y[:2])
    np.testing.assert_allclose(out[1:5], out[6:10], atol=1e-6)  # the same for another segment and another key
    for row, (stretch, shift) in zip(out[1:5], [(0.5, -5), (0.5, 2), (2.0, -5), (2.0, 2)], strict=True):
        assert abs(12 * np.log2(peak(row[512:3584]) / 440) - shift) < 0.15
        assert row[4096:].any() == (stretch < 1)  # a shorter signal is padded with zeros


def test_one_shift_is_drawn_for_a_clip_and_stays():
    shifts = [-9, -8, -7, -6, -5, 5, 6, 7, 8, 9]
    copies, copy = copies_of(semitones=shifts, draw="one")
    assert order.versions(copies) == 1
    y = jnp.tile(jnp.asarray(np.sin(2 * np.pi * 600 * TIME[:4096]), jnp.float32), (80, 1))
    out = np.asarray(copy(y, jax.random.split(jax.random.key(0), 80), jnp.ones(80, jnp.int32)))
    drawn = [round(12 * np.log2(peak(row[512:-512]) / 600)) for row in out]
    assert set(drawn) <= set(shifts) and len(set(drawn)) >= 8
