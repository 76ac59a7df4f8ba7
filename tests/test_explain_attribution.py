"""Occlusion finds the part of a sound that a score listens to, and integrated gradients are complete."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre_jax import frontends, models
from genre_jax.explain import attribution

RATE, SAMPLES = 8_000, 4_000
RNG = np.random.default_rng(0)


def beep():
    """1,000 Hz in the second quarter, over faint noise."""
    time = np.arange(SAMPLES) / RATE
    return (np.where((time > 0.125) & (time < 0.25), np.sin(2 * np.pi * 1000 * time), 0) + RNG.normal(0, 1e-3, SAMPLES)).astype(
        np.float32
    )


def loudness(waveforms):
    return jnp.log(1e-3 + (waveforms**2).mean(-1))


def test_the_stft_inverts_exactly():
    for rate, samples in ((8_000, 4_000), (44_100, 5_001), (16_000, 57)):
        cells = attribution.Cells(rate, samples)
        y = RNG.normal(size=samples).astype(np.float32)
        np.testing.assert_allclose(cells.sound(cells.spectrum(jnp.asarray(y))), y, atol=1e-5)


def test_patches_cover_all_cells():
    cells = attribution.Cells(RATE, SAMPLES)
    row, column = cells.patches(6, 5)
    assert cells.spectrum(jnp.zeros(SAMPLES)).shape == (len(column), len(row))
    assert set(row) == set(range(6)) and set(column) == set(range(5))
    assert (np.diff(row) >= 0).all() and np.bincount(row)[-1] > 2 * np.bincount(row)[0]  # equal in mel: wider at the top


def test_occlusion_finds_the_beep():
    y, cells = beep(), attribution.Cells(RATE, SAMPLES)
    drops = attribution.occlusion(loudness, cells, y, 6, 4)
    row, _ = cells.patches(6, 4)
    assert np.unravel_index(drops.argmax(), drops.shape) == (row[round(1000 * cells.n_fft / RATE)], 1)
    whole, without = loudness(jnp.asarray(y)[None])[0], np.delete(drops.ravel(), drops.argmax())
    assert drops.max() > 1 and drops.max() < whole - np.log(1e-3) + 1e-3 and without.max() < 0.5 * drops.max()


def scores():
    """The logit of a small network behind a front end, by the name of the front end."""
    found = []
    for name, options, baseline in (
        ("choi_stft", {"n_fft": 128, "hop_length": 64}, "silence"),
        ("musicnn_log_mel", {"n_fft": 256, "hop_length": 128, "n_mels": 24}, "silence"),
        ("log_mel", {"n_fft": 256, "hop_length": 128, "n_mels": 24, "image": True}, "noise"),
    ):
        found.append(pytest.param(name, options, baseline, id=name))
    return found


@pytest.mark.parametrize("name, options, baseline", scores())
def test_integrated_gradients_are_complete(name, options, baseline):
    """Their sum is the difference of the scores of the sound and the baseline, to 1e-3 of it."""
    y, front = beep(), frontends.build(name, RATE, **options)
    model = models.build("folmer_mlp", num_classes=2, hidden=(16,), dropout=0.0)
    features = front.apply({}, y[None])
    variables = jax.jit(model.init)(jax.random.key(1), features)

    def score(waveforms):
        return model.apply(variables, front.apply({}, waveforms))[0][:, 1]

    cells = attribution.Cells(RATE, SAMPLES, 256)
    found = attribution.integrated_gradients(score, cells, y, most=2048)
    assert found.baseline == baseline and found.values.shape == cells.spectrum(jnp.asarray(y)).shape
    noise = jax.random.normal(jax.random.key(0), y.shape) * np.sqrt(np.mean(y**2))
    start = score(jnp.asarray(noise)[None] if baseline == "noise" else 0 * y[None])[0]
    difference = float(score(y[None])[0] - start)
    assert found.difference == pytest.approx(difference, abs=1e-3 * abs(difference) + 1e-5)
    assert abs(found.values.sum(dtype=np.float64) - difference) < 2e-3 * abs(difference) and abs(difference) > 0.01
    assert found.error <= attribution.TOLERANCE


def test_integrated_gradients_of_a_quadratic_score():
    """The score Σ y² has the attributions |STFT|² up to the weights of the windows, all of them in the beep."""
    y, cells = beep(), attribution.Cells(RATE, SAMPLES)
    found = attribution.integrated_gradients(lambda waveforms: (waveforms**2).sum(-1), cells, y)
    power = np.abs(np.asarray(cells.spectrum(jnp.asarray(y)))) ** 2
    assert found.steps <= 128 and np.corrcoef(found.values.ravel(), power.ravel())[0, 1] > 0.99
    mask = attribution.positive_mask(found.values)
    assert mask.max() == 1 and mask.min() == 0
    assert not attribution.positive_mask(-np.ones((2, 2))).any()
