"""Golden values from librosa: `python tests/golden/make_frontends.py` overwrites frontends.npz in this folder.

`tests/test_golden_frontends.py` reads the file. The test does not need librosa.
"""

from pathlib import Path

import librosa
import numpy as np
from frontend_calls import CALLS, OF_MEL, signal

y = signal().astype(np.float64)


def call(name, argument, options):
    for module in (librosa, librosa.feature):
        if hasattr(module, name):
            return getattr(module, name)(**({"y": argument} | options))
    raise AttributeError(name)


out = {name: call(name, y, options) for name, (_, options) in CALLS.items()}
mel = out["melspectrogram"]
out["delta"] = librosa.feature.delta(mel, **OF_MEL["delta"][1])
out |= {name: getattr(librosa, name)(mel, **options) for name, (_, options) in OF_MEL.items() if name != "delta"}
out["istft"] = librosa.istft(out["stft"], hop_length=100, n_fft=255, length=1601)
np.savez_compressed(Path(__file__).parent / "frontends.npz", **out)
