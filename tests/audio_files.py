"""Write real audio files of every kind for the tests, and damage them."""

from pathlib import Path

import av
import numpy as np
import soundfile

AAC_DELAY = 1024  # samples of codec delay that the writer below leaves in the file
# kind → (extension, encoder, sample rate, channels)
KINDS = {
    "wav16": (".wav", "PCM_16", 22050, 1),
    "wav24": (".wav", "PCM_24", 48000, 2),
    "wav_float": (".WAV", "FLOAT", 8000, 2),
    "flac": (".flac", "PCM_16", 44100, 2),
    "ogg": (".ogg", "VORBIS", 32000, 1),
    "mp3": (".mp3", "MPEG_LAYER_III", 44100, 2),
    "opus": (".opus", "OPUS", 48000, 1),
    "m4a": (".m4a", "aac", 44100, 2),
    "webm": (".webm", "libopus", 48000, 2),
}


def chord(seconds: float, rate: int, channels: int, seed: int = 0, amplitude: float = 0.3) -> np.ndarray:
    """A few tones that swell, float32 (samples, channels). Every channel and every seed has other tones."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitches = rng.uniform(150, 1500, (channels, 4))
    swells = rng.uniform(0.5, 3, (channels, 4))
    tones = np.sin(2 * np.pi * pitches[..., None] * time) * np.sin(2 * np.pi * swells[..., None] * time)
    return (amplitude * tones.mean(axis=1)).T.astype(np.float32)


def write(path: Path, kind: str, samples: np.ndarray, rate: int) -> None:
    """Encode float32 (samples, channels) as a file of this kind."""
    encoder = KINDS[kind][1]
    if encoder in ("aac", "libopus"):
        _write_av(path, encoder, samples, rate)
    else:
        container = {"opus": "OGG", "wav_float": "WAV"}.get(kind)
        soundfile.write(path, samples, rate, subtype=encoder, format=container)


def make(folder: Path, kind: str, name: str, seconds: float = 3.0, seed: int = 0) -> Path:
    """Write a chord as a file of this kind, at the sample rate of the kind, and return its path."""
    extension, _, rate, channels = KINDS[kind]
    path = folder / (name + extension)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, kind, chord(seconds, rate, channels, seed), rate)
    return path


def cut_in_half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _write_av(path: Path, codec: str, samples: np.ndarray, rate: int) -> None:
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        source = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        source.sample_rate = rate
        buffer = av.AudioFifo()
        for frame in av.AudioResampler(format=stream.format, layout=layout, rate=rate).resample(source):
            buffer.write(frame)
        while (frame := buffer.read(stream.frame_size or 960) or buffer.read()) is not None:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
