"""Front ends against stored values of librosa (golden/frontends.npz). These tests run without librosa."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from signals import relative

from genre_jax import frontends

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
from frontend_calls import CALLS, OF_MEL, signal  # noqa: E402

# The CQT of librosa differs from the definition by 2e-2 of the peak. Spectral contrast includes quiet bins in dB.
TOLERANCE = {"cqt": 4e-2, "spectral_contrast": 1e-3, "pcen": 1e-3, "power_to_db": 1e-5}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "frontends.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", CALLS)
def test_of_the_signal(golden, name):
    function, options = CALLS[name]
    ours = getattr(frontends, function)(jnp.asarray(signal()), **options)
    assert ours.shape == golden[name].T.shape
    assert relative(ours, golden[name].T) < TOLERANCE.get(name, 2e-5)


@pytest.mark.parametrize("name", OF_MEL)
def test_of_the_mel_spectrogram(golden, name):
    function, options = OF_MEL[name]
    ours = getattr(frontends, function)(jnp.asarray(golden["melspectrogram"].T, jnp.float32), **options)
    assert relative(ours, golden[name].T) < TOLERANCE.get(name, 2e-5)


def test_inverse(golden):
    ours = frontends.istft(jnp.asarray(golden["stft"].T, jnp.complex64), n_fft=255, hop_length=100, length=1601)
    assert relative(ours, golden["istft"]) < 1e-5
