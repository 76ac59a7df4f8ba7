"""Write real audio files of every kind for the tests, and damage them."""

from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

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
        encode(path, encoder, samples, rate)
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


def encode(
    file: Path | BinaryIO,
    codec: str,
    samples: np.ndarray,
    rate: int,
    container: str | None = None,
    late: float | None = None,
    **options: str,
) -> None:
    """Encode float32 (samples, channels) with FFmpeg.

    Args:
      container: name of FFmpeg's container; None: by the extension.
      late: add a video, and let the sound begin so many seconds after it; None: no video, and no time stamps.
      options: options of the container.
    """
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(str(file) if isinstance(file, Path) else file, "w", format=container, options=options) as output:
        packets = [] if late is None else _video(output, 10 * (late + len(samples) / rate))
        stream = output.add_stream(codec, rate=rate, layout=layout)
        source = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        source.sample_rate = rate
        buffer = av.AudioFifo()
        for frame in av.AudioResampler(format=stream.format, layout=layout, rate=rate).resample(source):
            buffer.write(frame)
        at = round((late or 0) * rate)
        while (frame := buffer.read(stream.frame_size or 960) or buffer.read()) is not None:
            if late is not None:
                frame.pts, frame.time_base = at, Fraction(1, rate)
                at += frame.samples
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if late is not None:
            packets.sort(key=lambda packet: packet.pts * packet.time_base)
        for packet in packets:
            output.mux(packet)


def _video(output, frames: float) -> list:
    """Add ten small grey frames a second to a container; returns their packets."""
    stream = output.add_stream("mpeg2video" if output.format.name == "mpegts" else "mpeg4", rate=10)
    stream.width = stream.height = 32
    stream.pix_fmt = "yuv420p"
    packets = []
    for number in range(round(frames)):
        frame = av.VideoFrame(32, 32, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts, frame.time_base = number, Fraction(1, 10)
        packets += stream.encode(frame)
    return packets + stream.encode(None)
