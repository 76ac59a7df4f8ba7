"""Write audio files that other programs read whole, and that are easy to read wrongly: joined, untagged, of unknown length."""

import io
from typing import NamedTuple

import audio_files
import av
import numpy as np
import soundfile

from genre_jax.prepare import audio

RATE = 16_000  # Hz, of the truth
SECONDS = 2.0  # length of a part of a joined file
ID3, ID3_END = b"ID3\3\0\0\0\0\2\0" + bytes(256), b"TAG" + bytes(125)
APE = b"APETAGEX" + b"".join(number.to_bytes(4, "little") for number in (2000, 64, 1, 0)) + bytes(8 + 64)


OLD_FFMPEG = av.library_versions["libavformat"][0] < 63  # FFmpeg 7


class Odd(NamedTuple):
    """A file: its `content`, and what it should hold, the `sounds` (samples, rate) one after the other.

    The decoded sounds may begin up to `delay` seconds later, and be up to `longer` seconds longer. The encoder multiplies them
    by `level`.
    """

    extension: str
    content: bytes
    sounds: tuple[tuple[np.ndarray, int], ...]
    delay: float = 0.0
    longer: float = 0.0
    level: float = 1.0

    def truth(self) -> np.ndarray:
        """Returns the sounds as mono float32 (samples,) at `RATE`."""
        return np.concatenate([audio.resample(samples.mean(axis=1), rate, RATE) for samples, rate in self.sounds])


def sound(seed: int, rate: int = 44_100, channels: int = 2, seconds: float = SECONDS) -> np.ndarray:
    return audio_files.chord(seconds, rate, channels, seed)


# ---------------------------------------------------------------- encoders that return bytes


def written(samples: np.ndarray, rate: int, container: str, subtype: str = "PCM_16") -> bytes:
    """A file of soundfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def encoded(samples: np.ndarray, rate: int, codec: str, container: str, late: float | None = None, **options: str) -> bytes:
    """A file of FFmpeg."""
    file = io.BytesIO()
    audio_files.encode(file, codec, samples, rate, container, late, **options)
    return file.getvalue()


def mp3(samples: np.ndarray, rate: int) -> bytes:
    """An mp3 file with the tag of LAME, from which libsndfile knows its exact length."""
    return written(samples, rate, "MP3", "MPEG_LAYER_III")


def untagged(samples: np.ndarray, rate: int) -> bytes:
    return encoded(samples, rate, "libmp3lame", "mp3", write_xing="0", id3v2_version="0")


def aac(samples: np.ndarray, rate: int) -> bytes:
    return encoded(samples, rate, "aac", "adts")


def vorbis(samples: np.ndarray, rate: int) -> bytes:
    return written(samples, rate, "OGG", "VORBIS")


def opus(samples: np.ndarray, rate: int) -> bytes:
    return written(samples, rate, "OGG", "OPUS")


# ---------------------------------------------------------------- damage


def patched(data: bytes, *changes: tuple[bytes, int, bytes]) -> bytes:
    """Replace the bytes that lie `offset` after each mark."""
    result = bytearray(data)
    for mark, offset, new in changes:
        at = data.index(mark) + offset
        result[at : at + len(new)] = new
    return bytes(result)


def without_end_mark(ogg: bytes) -> bytes:
    """Clear the flag of the last page, and compute its checksum again."""
    at = ogg.rindex(b"OggS")
    page = bytearray(ogg[at:])
    page[5] &= ~4
    page[22:26] = bytes(4)
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = checksum << 1 ^ (0x104C11DB7 if checksum >> 31 else 0)
    page[22:26] = checksum.to_bytes(4, "little")
    return ogg[:at] + bytes(page)


def copied_from(data: bytes, seconds: float, container: str) -> bytes:
    """Copy the packets after a time to a new file, and keep their time stamps."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=container) as copy:
        stream = copy.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.pts is not None and packet.pts * packet.time_base >= seconds:
                packet.stream = stream
                copy.mux(packet)
    return file.getvalue()


# ---------------------------------------------------------------- the kinds

A, B, LONG = sound(1), sound(2), sound(3, seconds=2 * SECONDS)  # 44.1 kHz stereo
B48, B22 = sound(2, 48_000), sound(2, 22_050, 1)
A48 = sound(1, 48_000)
QUIET = np.concatenate([A * 0, B])  # begins with silence
JOINED = np.concatenate([A, LONG])
COPIED = 22 * 4096  # the first sample of the first FLAC frame after 2 s
GSM = sound(3, 8_000, 1, 2 * SECONDS)
_LONG = ((LONG, 44_100),)
_AB = ((A, 44_100), (B, 44_100))
_AB48 = ((A, 44_100), (B48, 48_000))
_AB22 = ((A, 44_100), (B22, 22_050))
_PADDED = {"delay": 0.03, "longer": 0.06, "level": 0.95}  # the delay of an encoder that no tag states, and a last frame


def _late(codec: str, container: str, extension: str) -> Odd:
    samples = sound(3, 44_100, 2, 2.0)
    # As a muxer of mp4 or mov, FFmpeg 7 (PyAV 18) writes a time that is 34 samples too early.
    early = 34 if OLD_FFMPEG and extension in (".mp4", ".MOV") else 0
    silent = np.concatenate([np.zeros((2 * 44_100 - early, 2), np.float32), samples])
    return Odd(extension, encoded(samples, 44_100, codec, container, late=2.0), ((silent, 44_100),), 0.0, 0.03)


WAV, FLAC = written(LONG, 44_100, "WAV"), written(LONG, 44_100, "FLAC")
KINDS = {
    "mp3 without a tag": Odd(".mp3", untagged(LONG, 44_100), _LONG, **_PADDED),
    "mp3 without a tag that begins with silence": Odd(".mp3", untagged(QUIET, 44_100), ((QUIET, 44_100),), **_PADDED),
    "mp3 whose tag states no frames": Odd(".mp3", patched(mp3(LONG, 44_100), (b"Xing", 8, bytes(4))), _LONG, 0.03, 0.06),
    "joined mp3": Odd(".mp3", mp3(A, 44_100) + mp3(B, 44_100), _AB),
    "joined mp3 with ID3 and APE tags": Odd(".mp3", ID3 + mp3(A, 44_100) + APE + ID3_END + ID3 + mp3(B, 44_100) + ID3_END, _AB),
    "joined mp3 of two rates": Odd(".mp3", mp3(A, 44_100) + mp3(B48, 48_000), _AB48),
    "joined mp3, the second without a tag": Odd(".mp3", mp3(0.95 * A, 44_100) + untagged(B48, 48_000), _AB48, **_PADDED),
    "joined mp3 of two rates without tags": Odd(".mp3", untagged(A, 44_100) + untagged(B48, 48_000), _AB48, 0.1, 0.1, 0.95),
    "joined Ogg Vorbis": Odd(".ogg", vorbis(A, 44_100) + vorbis(B, 44_100), _AB),
    "joined Ogg Vorbis of two rates": Odd(".ogg", vorbis(A, 44_100) + vorbis(B22, 22_050), _AB22),
    "joined Ogg Opus": Odd(".opus", opus(A48, 48_000) + opus(B48, 48_000), ((A48, 48_000), (B48, 48_000))),
    "Ogg without its end mark": Odd(".ogg", without_end_mark(vorbis(LONG, 44_100)), _LONG),
    "aac that becomes slower and mono": Odd(".aac", aac(A, 44_100) + aac(B22, 22_050), _AB22, 0.12, 0.2),
    "aac that becomes faster and stereo": Odd(".aac", aac(B22, 22_050) + aac(A, 44_100), _AB22[::-1], 0.17, 0.2),
    "late sound in mp4": _late("aac", "mp4", ".mp4"),
    "late sound in mov": _late("aac", "mov", ".MOV"),
    "late sound in matroska": _late("aac", "matroska", ".mkv"),
    "late sound in mpeg-ts": _late("aac", "mpegts", ".ts"),
    "flac of unknown length": Odd(".flac", patched(FLAC, (b"fLaC", 21, bytes([FLAC[21] & 0xF0, 0, 0, 0, 0]))), _LONG),
    "flac copied from its middle": Odd(".flac", copied_from(written(JOINED, 44_100, "FLAC"), 2.0, "flac"), ((JOINED[COPIED:], 44_100),)),
    "wav of data size 0": Odd(".wav", patched(WAV, (b"RIFF", 4, bytes(4)), (b"data", 4, bytes(4))), _LONG),
    "wav of unknown size": Odd(".wav", patched(WAV, (b"RIFF", 4, b"\xff" * 4), (b"data", 4, b"\xff" * 4)), _LONG),
    "wav of GSM 6.10": Odd(".wav", written(GSM, 8_000, "WAV", "GSM610"), ((GSM, 8_000),), 0.0, 0.05, 0.87),
    "w64": Odd(".w64", written(LONG, 44_100, "W64"), _LONG),
    "wavpack": Odd(".wv", encoded(LONG, 44_100, "wavpack", "wv"), _LONG),
    "3gp": Odd(".3GP", encoded(LONG, 44_100, "aac", "3gp"), _LONG, 0.03, 0.06),
}  # fmt: skip
