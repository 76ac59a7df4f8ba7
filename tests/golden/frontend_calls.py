"""The calls whose librosa results are in frontends.npz: name → (function, arguments). The stored arrays have bins first."""

import numpy as np

RATE = 8000
STFT = {"n_fft": 255, "hop_length": 100}
MEL = {"sr": RATE, "n_mels": 12, **STFT}
CALLS = {
    "stft": ("stft", STFT),
    "melspectrogram": ("mel_spectrogram", MEL),
    "mfcc": ("mfcc", MEL | {"n_mfcc": 7, "lifter": 22}),
    "cqt": ("cqt", {"sr": RATE, "hop_length": 101, "n_bins": 14, "fmin": 400.0}),
    "chroma_stft": ("chroma_stft", {"sr": RATE, "tuning": 0.0, **STFT}),
    "spectral_centroid": ("spectral_centroid", {"sr": RATE, **STFT}),
    "spectral_bandwidth": ("spectral_bandwidth", {"sr": RATE, **STFT}),
    "spectral_contrast": ("spectral_contrast", {"sr": RATE, "n_bands": 3, **STFT}),
    "spectral_rolloff": ("spectral_rolloff", {"sr": RATE, **STFT}),
    "spectral_flatness": ("spectral_flatness", STFT),
    "zero_crossing_rate": ("zero_crossing_rate", {"frame_length": 255, "hop_length": 100}),
    "rms": ("rms", {"frame_length": 255, "hop_length": 100}),
}
OF_MEL = {
    "power_to_db": ("power_to_db", {"top_db": 60.0}),
    "amplitude_to_db": ("amplitude_to_db", {}),
    "pcen": ("pcen", {"sr": RATE, "hop_length": 100}),
    "delta": ("delta", {"width": 5, "order": 2}),
}


def signal() -> np.ndarray:
    """Return 0.2 s of a chord of rising amplitude with noise. It depends on no version of a random number generator."""
    time = np.arange(1601) / RATE
    chord = sum(np.sin(2 * np.pi * f * time + f) for f in (220.0, 277.18, 329.63, 1318.5))
    noise = np.sin(12.9898 * np.arange(1601) ** 1.7) * 0.1
    return (0.1 * (0.3 + 5 * time) * chord + noise).astype(np.float32)
