"""Tests of gain, signal-to-noise ratio and spectrum with a noise bank of real recordings (ESC-10, `shared/audio/noise`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from genre_jax import config as configs
from genre_jax.augment import noise, waveform
from genre_jax.data import locate, shards
from genre_jax.prepare import audio, passport, tfrecord

NOISES = ROOT.parent / "shared" / "audio" / "noise"
RATE, SAMPLES, ROWS = 16_000, 48_000, 40

pytestmark = pytest.mark.skipif(not NOISES.is_dir(), reason="needs ../shared/audio")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Return a prepared data set with two recordings per kind of noise: the first of 5 s, the second of 1.5 s."""
    folder = locate.directory(tmp_path_factory.mktemp("noises"), "esc", RATE)
    kinds = sorted(path.name for path in NOISES.iterdir())
    clips = []
    for number, kind in enumerate(kinds):
        for which, path in enumerate(sorted((NOISES / kind).glob("*.ogg"))[:2]):
            heard = audio.load(path, RATE, duration=1.5 if which else None).samples
            pcm = audio.to_pcm(heard, float(np.abs(heard).max()))
            clips.append(tfrecord.Clip(f"{kind}/{path.name}", path.stem, (number,), pcm, float(pcm.max() / 32768)))
    tfrecord.write_shards(folder, "esc", "train", clips)
    passport.write(folder, {"name": "esc", "sample_rate": RATE, "labels": kinds, "splits": {"train": {}}})
    return shards.load_index(folder, "train")


def noisy(index, y, **changes):
    config = configs.base("x").augment
    config.noise.update(data_set="esc", **changes)
    bank = noise.bank_of(index, SAMPLES)
    keys = jax.random.split(jax.random.key(0), len(y))
    return np.asarray(jax.jit(lambda y: waveform.augment(y, keys, config, bank=bank))(jnp.asarray(y, jnp.float32)), np.float64)


def best_match(row, recordings):
    """Search for the recording and the shift that explain `row` best. Returns gain and residual share of energy."""
    size = 1 << 18
    spectrum = np.fft.rfft(row, size)
    best = (0.0, np.inf)
    for recording in recordings:
        shift = np.arange(1 - len(recording), SAMPLES)
        first, end = np.maximum(-shift, 0), np.minimum(len(recording), SAMPLES - shift)  # its part inside the row
        energy = np.append(0, np.cumsum(recording**2))
        energy = energy[end] - energy[first]
        cross = np.fft.irfft(spectrum * np.fft.rfft(recording, size).conj(), size)[shift % size]
        at = np.where(energy > 1e-9, cross**2 / np.maximum(energy, 1e-9), 0).argmax()
        placed = np.zeros(SAMPLES)
        placed[max(0, shift[at]) :][: end[at] - first[at]] = recording[first[at] : end[at]]
        gain = (row @ placed) / max(placed @ placed, 1e-12)
        rest = np.sum((row - gain * placed) ** 2) / np.sum(row**2)
        best = min(best, (gain, rest), key=lambda pair: pair[1])
    return best


def test_added_noise_is_a_real_recording_times_a_gain_of_the_thesis(index):
    """The noise equals a recording times a gain. Therefore it has the spectrum of the recording, attenuated by 11.7 to 17.1 dB."""
    recordings = [index.cut(clip, 0, int(index.length[clip])) / 32768 for clip in range(len(index))]
    added = noisy(index, np.zeros((ROWS, SAMPLES)))
    heard = added[np.abs(added).max(1) > 0]
    assert ROWS / 4 < len(heard) < 3 * ROWS / 4  # probability 0.5
    matches = np.array([best_match(row, recordings) for row in heard])
    assert matches[:, 1].max() < 1e-6
    assert matches[:, 0].min() >= 0.14 and matches[:, 0].max() <= 0.26 and np.ptp(matches[:, 0]) > 0.06


def test_noisy_clips_have_the_ratio_that_was_asked_and_both_spectra(index):
    """A chord is 5 to 15 dB louder than real noise. Each band has the sum of both powers, except for random correlation."""
    time = np.arange(SAMPLES) / RATE
    chord = np.tile(sum(0.1 * np.sin(2 * np.pi * f * time) for f in (220, 277, 330)), (ROWS, 1)).astype(np.float32)
    mixed = noisy(index, chord, probability=1.0, snr_db=[5.0, 15.0])
    added = mixed - chord
    ratio = 10 * np.log10((chord**2).mean(1) / (added**2).mean(1))
    assert 4.99 < ratio.min() < 8 and 12 < ratio.max() < 15.01 and abs(ratio.mean() - 10) < 2

    def bands(x):
        return (np.abs(np.fft.rfft(x, axis=1)) ** 2)[:, :24_000].reshape(ROWS, 24, 1000).sum(-1)  # bands of 333 Hz

    high = slice(3, None)  # the chord has whole periods, and no energy above 1 kHz
    np.testing.assert_allclose(bands(mixed)[:, high], bands(added)[:, high], rtol=1e-2, atol=1e-3)
    kinds = {tuple((row > row.max() / 100).tolist()) for row in bands(added)}
    assert len(kinds) > 5  # many kinds of noise
