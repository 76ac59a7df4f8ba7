"""The peers of `bench frontends`: the same cases in librosa, torch, torchaudio and nnAudio, as far as they are installed.

Each peer is a function without arguments that returns the library's array, bins before frames.
"""

import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from genre_jax import logbook
from genre_jax.bench.contestants import Local
from genre_jax.bench.frontend_cases import CASES, Case, signal


def versions() -> dict[str, str]:
    """Return package → version of the peers."""
    return logbook.versions(("librosa", "torch", "torchaudio", "nnAudio"))


def build(name: str, seconds: float) -> dict[str, Local]:
    """Return library → contestant for the case called `name` with clips of `seconds`."""
    case, y = CASES[name], signal(name, seconds)
    kind = name.split("_1024")[0]
    calls: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("librosa") and not case.accelerator:
        calls |= _librosa(kind, case, y)
    if importlib.util.find_spec("torch"):
        calls |= _torch(kind, case, y)
    return {label: Local(call, _frames_first) for label, call in calls.items()}


def _frames_first(value: Any) -> np.ndarray:
    """Convert a peer's result to a NumPy array with frames before bins, as ours."""
    value = value.cpu().numpy() if hasattr(value, "cpu") else value
    return np.swapaxes(np.asarray(value), -1, -2)


def _librosa(kind: str, case: Case, y: np.ndarray) -> dict[str, Callable[[], Any]]:
    import librosa

    options = case.options
    calls: dict[str, Callable[[], Any]] = {
        "log_mel": lambda: librosa.power_to_db(librosa.feature.melspectrogram(y=y, sr=case.sr, **options), top_db=None),
        "mfcc": lambda: librosa.feature.mfcc(y=y, sr=case.sr, **options),
        "stft": lambda: librosa.stft(y, **options),
        "cqt_short": lambda: librosa.cqt(y, sr=case.sr, sparsity=0, **options),
    }
    calls["cqt_long"] = calls["cqt_short"]
    return {"librosa": calls[kind]}


def _torch(kind: str, case: Case, y: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Return functions that use torch.stft and matrix products, torchaudio's module, and nnAudio's modules."""
    import torch

    from genre_jax.frontends.mel import mel_filterbank

    torch.set_num_threads(os.cpu_count() or 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = case.options
    signals = torch.from_numpy(np.round(y * 32768).astype(np.int16) if case.int16 else y).to(device)
    functions: dict[str, Callable[[Any], Any]] = {}
    if kind in ("log_mel", "stft", "mfcc"):
        n_fft, hop = options["n_fft"], options["hop_length"]
        window = torch.hann_window(n_fft, device=device)

        def spectrum(x):
            pad = options.get("pad_mode", "constant")
            return torch.stft(x, n_fft, hop, window=window, pad_mode=pad, return_complex=True)

        if kind == "stft":
            functions["torch.stft"] = spectrum
        else:
            filters = mel_filterbank(sr=case.sr, n_fft=n_fft, n_mels=options["n_mels"]).T.astype(np.float32)
            matrix = torch.from_numpy(filters.copy()).to(device)

            def log_mel(x):
                z = spectrum(x)
                return 10 * torch.log10(torch.clamp(matrix @ (z.real**2 + z.imag**2), min=1e-10))

            functions["torch.stft"] = log_mel
            if kind == "mfcc":
                angle = np.pi / options["n_mels"] * np.outer(np.arange(options["n_mfcc"]), np.arange(options["n_mels"]) + 0.5)
                cosines = np.cos(angle) * np.sqrt(2 / options["n_mels"])
                cosines[0] /= np.sqrt(2)
                transform = torch.from_numpy(cosines.astype(np.float32)).to(device)
                functions["torch.stft"] = lambda x: transform @ log_mel(x)
            if kind == "log_mel" and importlib.util.find_spec("torchaudio"):
                functions["torchaudio"] = _torchaudio(case, device)
    if kind.startswith("cqt") and importlib.util.find_spec("nnAudio"):
        functions |= _nnaudio(case, device)

    def timed(function):
        def run():
            with torch.no_grad():
                out = function(signals.float() / 32768 if case.int16 else signals)
            if device == "cuda":
                torch.cuda.synchronize()
            return out

        return run

    return {label: timed(function) for label, function in functions.items()}


def _torchaudio(case: Case, device: str) -> Callable[[Any], Any]:
    import torch
    import torchaudio

    mel = torchaudio.transforms.MelSpectrogram(
        sample_rate=case.sr, n_fft=case.options["n_fft"], hop_length=case.options["hop_length"],
        n_mels=case.options["n_mels"], norm="slaney", mel_scale="slaney",
    ).to(device)  # fmt: skip
    decibels = torchaudio.transforms.AmplitudeToDB("power").to(device)
    return torch.nn.Sequential(mel, decibels)


def _nnaudio(case: Case, device: str) -> dict[str, Callable[[Any], Any]]:
    import torch
    from nnAudio.features.cqt import CQT1992v2, CQT2010v2

    def complex_of(module):
        return lambda x: torch.view_as_complex(module(x).contiguous())

    shared = {"sr": case.sr, "output_format": "Complex", "pad_mode": "constant", "verbose": False} | case.options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {f"nnAudio {kind.__name__}": complex_of(kind(**shared).to(device)) for kind in (CQT1992v2, CQT2010v2)}
