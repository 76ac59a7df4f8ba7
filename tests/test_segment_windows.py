"""Networks without outputs for each frame classify windows, and each frame takes the nearest one."""

import numpy as np
import pytest
import segment_runs
from segment_runs import RATE, signal

from genre_jax import metrics
from genre_jax.prepare import audio
from genre_jax.segment import networks
from genre_jax.segment.slider import Options, Slider

RAW = Options(median=0)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A network on clips of 2.015 s that is not slid, because the gain cap reads the whole clip."""
    return segment_runs.write(tmp_path_factory.mktemp("network") / "x.safetensors", augment__gain_cap=0.2)


def decided(network, wave: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and silence of all frames."""
    slider = Slider(network, RAW)
    rows = [slider.push(block) for block in segment_runs.split(wave, sizes)]
    rows.append(slider.finish())
    return np.concatenate([row.probabilities for row in rows]), np.concatenate([row.silent for row in rows])


@pytest.mark.parametrize("live", [False, True])
def test_other_networks_give_each_frame_its_nearest_window(file, live):
    network = networks.load(file, live=live, hop=0.25, lookahead=0.6)
    assert isinstance(network, networks.WindowNetwork)
    wave = signal(8.0)
    found, _ = decided(network, wave, [1_111] if live else [100_000])
    pcm, samples = audio.to_pcm(wave, 1.0), network.samples
    starts = [*range(0, len(pcm) - samples, 4_000), len(pcm) - samples]
    logits = np.concatenate([network.logits(pcm[None, start : start + samples]) for start in starts])
    assert logits.std(0).max() > 1e-2
    times = np.array(starts) + samples - 0.6 * RATE
    middles = (np.arange(-(-len(pcm) // 160)) + 0.5) * 160
    nearest = np.abs(middles[:, None] - times).argmin(1)
    np.testing.assert_allclose(found, metrics.softmax(logits)[nearest], rtol=0, atol=1e-5)
    assert len({*nearest}) == len(starts)


@pytest.mark.parametrize("count", [100, 32_239, 32_240, 32_241, 36_240, 36_241])
def test_windows_of_short_recordings(file, count):
    network = networks.load(file, hop=0.25)
    found, silent = decided(network, signal(8.0)[:count], [count])
    assert len(found) == len(silent) == -(-count // 160)
    assert len(np.unique(found, axis=0)) <= 1 + max(0, -(-(count - 32_240) // 4_000))
