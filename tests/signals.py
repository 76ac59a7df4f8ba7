"""Test signals for front ends: noise, tone, sweep, impulse, silence, and excerpts of real clips if the files exist."""

import functools
from pathlib import Path

import numpy as np

SAMPLES = 9001
AUDIO = Path(__file__).parents[2] / "shared" / "audio"
REAL = ("music/brahms_hungarian_dance_5.ogg", "speech/librispeech_198-209-0000.ogg", "noise/rain")


@functools.cache
def signals() -> dict[str, np.ndarray]:
    """Return name → float32 waveform. The number of samples is odd."""
    rng, time = np.random.default_rng(0), np.arange(SAMPLES) / 16000
    waveforms = {
        "noise": rng.normal(0, 0.3, SAMPLES),
        "tone": 0.5 * np.sin(2 * np.pi * 440.3 * time),
        "sweep": 0.5 * np.sin(2 * np.pi * (50 + 6000 * time) * time),
        "impulse": np.eye(1, SAMPLES, 4001)[0],
        "silence": np.zeros(SAMPLES),
    }
    return {name: y.astype(np.float32) for name, y in waveforms.items()} | real_clips()


def real_clips() -> dict[str, np.ndarray]:
    """Return name → float32 waveform that starts at 1 s of a real clip. The result is empty if the files do not exist."""
    if not AUDIO.is_dir():
        return {}
    import soundfile

    paths = [next(path.glob("*.ogg")) if path.is_dir() else path for path in (AUDIO / name for name in REAL)]
    excerpts = {}
    for path in paths:
        y, sr = soundfile.read(path, dtype="float32", always_2d=True)
        excerpts[path.parent.name] = np.ascontiguousarray(y[sr : sr + SAMPLES, 0])
    return excerpts


def batch() -> np.ndarray:
    """Return all signals as one array (signals, samples)."""
    return np.stack(list(signals().values()))


def relative(ours, reference) -> float:
    """Return the largest error relative to the peak of the reference."""
    return float(np.abs(np.asarray(ours) - reference).max() / max(np.abs(reference).max(), 1e-30))


def worst(ours, reference) -> float:
    """Return the largest `relative` error over the signals of a batch."""
    return max(relative(a, b) for a, b in zip(np.asarray(ours), reference, strict=True))
