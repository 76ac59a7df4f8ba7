"""Decode audio files, mix them down to mono and resample them, in blocks, so that memory does not grow with the file.

soundfile reads wav, flac, ogg, mp3, aiff and Ogg Opus. PyAV (FFmpeg) reads every file that soundfile cannot open, such as
m4a, webm and wma. soundfile, PyAV and soxr are imported inside the functions that use them, because training does not
need them.
"""

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from genre_jax.console import cure

_SOUNDFILE_EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc", ".au", ".caf")
_FFMPEG_EXTENSIONS = (".m4a", ".m4b", ".mp4", ".aac", ".webm", ".mka", ".mkv", ".wma")
EXTENSIONS = frozenset(
    _SOUNDFILE_EXTENSIONS + _FFMPEG_EXTENSIONS
)  # of audio files in a folder; the decoder is chosen by content
RATES = (1_000, 768_000)  # legal sample rates in Hz
_BLOCK_SECONDS = 2.0
_HEADER_SLACK = 0.5  # seconds that may be missing from the length in the header, because of codec delay and padding
_INDEXED = ("mp4", "matroska")  # containers with an index of times; other containers are decoded from the start
_INEXACT_SEEK = ("MP3", "OGG")  # libsndfile does not seek to the exact sample in these formats; decode from the start
_UNKNOWN_SIZE = 0x7FFF0000  # programs that write wav to a pipe do not know the size and write this value or a larger one


class AudioError(Exception):
    """The file cannot be decoded; the text of the error is the reason."""


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn every error of a decoder in the block, also one that nobody expects, into an `AudioError`, except lack of memory."""
    try:
        yield
    except (AudioError, MemoryError):
        raise
    except OSError as error:
        raise AudioError(cure(error) or f"the file cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise AudioError(f"the decoder failed with an unexpected error: {error} ({type(error).__name__})") from error


@dataclasses.dataclass(frozen=True)
class Format:
    """The audio format of a file: `codec` such as "wav/pcm_16" or "aac", sample `rate` in Hz, number of `channels`."""

    codec: str
    rate: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Audio:
    """Mono `samples` float32 (samples,), nominally in [-1, 1], at `sample_rate` Hz, and the `format` of the source file."""

    samples: np.ndarray
    sample_rate: int
    format: Format


def decode(path: str | Path | bytes, start: float = 0.0, duration: float | None = None) -> tuple[np.ndarray, Format]:
    """Decode a file without mixing or resampling.

    Args:
      path: path of the file, or its content as bytes.
      start: start of the cut in seconds.
      duration: length of the cut in seconds; None: to the end of the file.

    Returns:
      float32 (channels, samples) at the sample rate of the file, and the format of the file.

    Raises:
      AudioError: the file cannot be decoded, is cut off, or ends before `start`.
    """
    form, blocks = _open(path, start, duration)
    return np.concatenate([np.zeros((0, form.channels), np.float32), *blocks]).T, form


def resample(samples: np.ndarray, source_rate: int, sample_rate: int) -> np.ndarray:
    """Resample float32 (samples,) or (samples, channels) from `source_rate` to `sample_rate` Hz with soxr at high quality."""
    if source_rate == sample_rate:
        return samples
    import soxr

    return soxr.resample(samples, source_rate, sample_rate, quality="HQ")


def load(path: str | Path | bytes, sample_rate: int, start: float = 0.0, duration: float | None = None) -> Audio:
    """Decode a file to mono audio; the channels are averaged.

    Only the result is held in memory, for every sample rate and number of channels of the file.

    Args:
      path: path of the file, or its content as bytes.
      sample_rate: sample rate of the result in Hz.
      start: start of the cut in seconds.
      duration: length of the cut in seconds; None: to the end of the file.

    Raises:
      AudioError: the file cannot be decoded, is cut off, or ends before `start`.
    """
    form, blocks = _mono(path, sample_rate, start, duration)
    return Audio(np.concatenate([np.zeros(0, np.float32), *blocks]), sample_rate, form)


def to_pcm(samples: np.ndarray, peak: float) -> np.ndarray:
    """Convert float samples to int16 by `round(x * 32768)`. If the `peak` magnitude exceeds 1.0, divide by the peak first.

    Training divides by 32768. Therefore a 16-bit file that is not resampled is reproduced bit for bit.
    """
    scaled = samples / np.float32(peak) if peak > 1.0 else samples
    wide = scaled * np.float32(32768)
    return np.clip(np.rint(wide, out=wide), -32768, 32767, out=wide).astype(np.int16)


def stream(
    path: str | Path, sample_rate: int, block: int, start: float = 0.0, duration: float | None = None
) -> Iterator[np.ndarray]:
    """Yield the samples of `load` in blocks of `block` samples; the last block may be shorter.

    Memory does not grow with the length of the file. Raises `AudioError` if the file cannot be decoded.
    """
    with explained():
        _, parts = _mono(path, sample_rate, start, duration)
        held: list[np.ndarray] = []
        size = 0
        for part in parts:
            held.append(part)
            size += len(part)
            if size < block:
                continue
            joined = np.concatenate(held)
            whole = size - size % block
            yield from joined[:whole].reshape(-1, block)
            held, size = [joined[whole:]], size - whole
        if size:
            yield np.concatenate(held)


def _mono(
    path: str | Path | bytes, sample_rate: int, start: float, duration: float | None
) -> tuple[Format, Iterator[np.ndarray]]:
    """Returns the format of a file, and an iterator over its mono, resampled samples in blocks (samples,) of any size."""
    form, blocks = _open(path, start, duration)
    mono = (_down_mix(block) for block in blocks)
    return form, mono if form.rate == sample_rate else _resample_blocks(mono, form.rate, sample_rate)


def _down_mix(block: np.ndarray) -> np.ndarray:
    """Average the channels of a block (samples, channels)."""
    channels = block.shape[1]
    # A product with a constant column is several times faster than mean(axis=1) on interleaved channels.
    return block[:, 0] if channels == 1 else block @ np.full(channels, 1 / channels, np.float32)


def _resample_blocks(blocks: Iterable[np.ndarray], source_rate: int, sample_rate: int) -> Iterator[np.ndarray]:
    """Resample successive blocks (samples,) of one signal."""
    import soxr

    resampler = soxr.ResampleStream(source_rate, sample_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


# ---------------------------------------------------------------- decoders


def _open(path: str | Path | bytes, start: float, duration: float | None) -> tuple[Format, Iterator[np.ndarray]]:
    """Returns the format of a file, and an iterator over its blocks, float32 (samples, channels)."""
    if not isinstance(path, bytes):
        path = Path(path)
        if path.is_dir():
            raise AudioError("the path is a folder, not an audio file")
        if not path.is_file():
            raise AudioError("no such file")
    if not (len(path) if isinstance(path, bytes) else path.stat().st_size):
        raise AudioError("the file has zero bytes")
    form, blocks = _open_soundfile(path, start, duration) or _open_av(path, start, duration)
    if not RATES[0] <= form.rate <= RATES[1] or form.channels < 1:
        raise AudioError(
            f"not an audio file: the header says {form.channels} channels at {form.rate} Hz, where 1 channel or more and "
            f"{RATES[0]} to {RATES[1]} Hz are legal"
        )
    return form, blocks


def _check_length(held: float, stated: float) -> None:
    """Raise `AudioError` if a file holds fewer seconds than its header states."""
    if stated - held > _HEADER_SLACK:
        raise AudioError(f"cut off: the file holds {held:.1f} s of the {stated:.1f} s that its header states")


def _after_end(start: float, seconds: float) -> AudioError:
    return AudioError(f"the file ends at {seconds:.1f} s, before the clip starts at {start:.1f} s")


def _open_soundfile(path: Path | bytes, start: float, duration: float | None) -> tuple[Format, Iterator[np.ndarray]] | None:
    """Open a file with soundfile; returns None if soundfile cannot read it."""
    import soundfile

    class Sequential(soundfile.SoundFile):
        """A file that claims to be not seekable.

        Otherwise soundfile seeks after every read, and the mp3 and Ogg decoders of libsndfile miss the exact sample.
        """

        def seekable(self) -> bool:
            return False

    try:
        file = Sequential(io.BytesIO(path) if isinstance(path, bytes) else os.fsencode(path))
    except (soundfile.LibsndfileError, TypeError):  # TypeError: the extension means audio without a header, such as .raw
        return None
    form = Format(f"{file.format}/{file.subtype}".lower(), file.samplerate, file.channels)
    return form, _read_soundfile(file, start, duration)


def _read_soundfile(file, start: float, duration: float | None) -> Iterator[np.ndarray]:
    """Yield the blocks of the cut, and check that the file is complete."""
    import soundfile

    with file:
        rate, frames = file.samplerate, file.frames
        # libsndfile repairs these two faults silently and reports them only in its log.
        size = re.search(r"^ *data *: (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
        if size and int(size[1]) < _UNKNOWN_SIZE:
            _check_length(frames / rate, frames / rate * int(size[1]) / max(1, int(size[2])))
        if "lacks an end-of-stream bit" in file.extra_info:
            raise AudioError(f"cut off: the Ogg stream stops after {frames / rate:.1f} s without its end mark")
        first = round(start * rate)
        if start and first >= frames:
            raise _after_end(start, frames / rate)
        last = frames if duration is None else min(frames, first + round(duration * rate))
        at = 0
        try:
            at = 0 if file.format in _INEXACT_SEEK else file.seek(first)
            while at < last:
                block = file.read(min(round(_BLOCK_SECONDS * rate), last - at), dtype="float32", always_2d=True)
                if not len(block):
                    break
                begin, at = at, at + len(block)
                if at > first:
                    yield block[max(0, first - begin) :]
        except soundfile.LibsndfileError as error:
            raise AudioError(f"decoding stopped after {at / rate:.1f} s: {error.error_string}") from error
        _check_length(at / rate, last / rate)


def _open_av(path: Path | bytes, start: float, duration: float | None) -> tuple[Format, Iterator[np.ndarray]]:
    """Open a file with PyAV."""
    import av

    try:
        container = av.open(io.BytesIO(path) if isinstance(path, bytes) else str(path))
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(f"not an audio file that soundfile or FFmpeg can read: {_reason(error)}") from error
    if not container.streams.audio:
        container.close()
        raise AudioError("the file holds no audio stream")
    context = container.streams.audio[0].codec_context
    if context is None:
        container.close()
        raise AudioError("FFmpeg has no decoder for the codec of the audio stream")
    return Format(context.name, context.sample_rate, context.channels), _read_av(container, start, duration)


def _read_av(container, start: float, duration: float | None) -> Iterator[np.ndarray]:
    """Yield the blocks of the cut, found by the time stamps of the frames (exact in mp4, to 1 ms in webm)."""
    import av

    with container:
        source = container.streams.audio[0]
        rate = source.codec_context.sample_rate
        first = round(start * rate)
        last = None if duration is None else first + round(duration * rate)
        at: int | None = None
        indexed = any(name in container.format.name for name in _INDEXED)
        seek = indexed and start > 1
        to_float = av.AudioResampler(format="fltp")
        try:
            if seek:  # one second too early, because decoders need some frames to settle
                container.seek(int((start - 1) / source.time_base), stream=source)
            for frame in container.decode(source):
                if at is None:
                    at = round(frame.pts * frame.time_base * rate) if seek else 0
                block = np.concatenate([part.to_ndarray() for part in to_float.resample(frame)], axis=1).T
                begin, at = at, at + len(block)
                block = block[max(0, first - begin) : None if last is None else max(0, last - begin)]
                if len(block):
                    yield block
                if last is not None and at >= last:
                    return
        except (av.FFmpegError, ValueError) as error:
            raise AudioError(f"decoding stopped after {(at or 0) / rate:.1f} s: {_reason(error)}") from error
        held = (at or 0) / rate
        if indexed:
            _check_length(held, _header_seconds(container, source))
        if start and held <= start:
            raise _after_end(start, held)


def _header_seconds(container, source) -> float:
    """Returns the length in seconds that the header states, or 0 if it states none for the audio."""
    if source.duration is not None:
        return float(source.duration * source.time_base)
    only_audio = len(container.streams) == len(container.streams.audio)  # a video stream may be longer than the audio
    return container.duration / 1e6 if only_audio and container.duration else 0.0


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
