"""Open an audio file with soundfile (libsndfile) or PyAV (FFmpeg), and read it in blocks.

The content decides, and not the extension. soundfile reads wav, aiff, au, caf, w64 and flac, in which a length is exact, Ogg
Vorbis and Opus, and mp3 with a tag that states its length. PyAV reads every other file, and the files in which soundfile
cannot seek or finds no samples. Both read to the end of the file; a stated length only tells that a file is cut off.
"""

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from genre_jax.prepare import joined
from genre_jax.prepare.errors import AudioError

_BLOCK_SECONDS = 2.0
_HEADER_SLACK = 0.5  # seconds that may be missing from the stated length, because of codec delay and padding
_INDEXED = ("mp4", "matroska")  # containers with an index of times and a stated length; others are decoded from the start
_CLOCKED = (*_INDEXED, "mpegts", "flv", "asf")  # containers whose time stamps say when a sound is heard
_JITTER = 0.1  # seconds; a smaller gap between two time stamps is an error of rounding
_LONGEST_GAP = 10.0  # seconds; time stamps that jump further, or back, come from files that were joined
_LATEST = 3600.0  # seconds; a file in which the sound begins later is refused
_UNKNOWN_SIZE = 0x7FFF0000  # programs that write wav to a pipe do not know the size and write this value or a larger one
_EXTRA = 4096  # samples that are asked for at once after those that the header states
_UNKNOWN_FRAMES = 1 << 62  # libsndfile gives at least this number for FLAC of unknown length
_DAMAGED = "the data are damaged"
# libsndfile repairs a size that is too large silently, and reports it only in its log. RIFF, FORM and the like are left out
# because a size that is wrong there does no harm. W64 and RF64 have no line of their own for the samples.
_REPAIRED = re.compile(r"^ *(?:data|SSND|Data Size|BODY|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Format:
    """The audio format of a file: `codec` such as "wav/pcm_16" or "aac", sample `rate` in Hz, number of `channels`.

    `warning` is a sentence about a file that is read whole, but may have lost its end; "" for all others.
    """

    codec: str
    rate: int
    channels: int
    warning: str = ""


class Piece(NamedTuple):
    """Successive `samples` float32 (samples, channels) at `rate` Hz; the first is sample number `at` on the file's clock."""

    at: int
    rate: int
    samples: np.ndarray

    @property
    def end(self) -> float:
        """The time at which the piece ends, in seconds."""
        return (self.at + len(self.samples)) / self.rate


def read(where: Path | bytes, start: float, duration: float | None) -> tuple[Format, Iterator[tuple[int, np.ndarray]]]:
    """Open a file, and read a cut of it.

    Args:
      where: path of the file, or its content.
      start: start of the cut in seconds.
      duration: length of the cut in seconds; None: to the end of the file.

    Returns:
      the format of the file, and an iterator over (sample rate, float32 (samples, channels)). The rate and the number of
      channels may change.

    Raises:
      AudioError: the file cannot be decoded, is cut off, or ends before `start`. The iterator raises it as well.
    """
    with _file(where) as file:
        parts, warning = joined.find(file)
    if parts is None:
        form, pieces = _open_soundfile(where, start) or _open_av(where, start)
    elif not parts:
        form, pieces = _open_av(where, start)
    elif len(parts) > 1:
        form, pieces = _open_joined(where, parts)
    else:
        form, pieces = _open_part(where, parts[0])
    return dataclasses.replace(form, warning=warning), _cut(pieces, start, duration)


def _file(where: Path | bytes) -> BinaryIO:
    return io.BytesIO(where) if isinstance(where, bytes) else open(where, "rb")


def _readable(where: "bytes | _Range") -> "io.BytesIO | _Range":
    return io.BytesIO(where) if isinstance(where, bytes) else where


def _cut(pieces: Iterator[Piece], start: float, duration: float | None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the part of the pieces that lies in the cut."""
    end = 0.0
    for piece in pieces:
        first = round(start * piece.rate)
        last = None if duration is None else first + round(duration * piece.rate)
        block = piece.samples[max(0, first - piece.at) : None if last is None else max(0, last - piece.at)]
        if len(block):
            yield piece.rate, block
        end = piece.end
        if last is not None and piece.at + len(piece.samples) >= last:
            return
    if start and end <= start:
        raise AudioError(f"the file ends at {end:.1f} s, before the clip starts at {start:.1f} s")


def _check_length(held: float, stated: float) -> None:
    """Raise `AudioError` if a file holds fewer seconds than it states."""
    if stated - held > _HEADER_SLACK:
        raise AudioError(f"cut off: the file holds {held:.1f} s of the {stated:.1f} s that its header states")


# ---------------------------------------------------------------- joined files


def _open_part(where: "Path | bytes | _Range", part: joined.Part) -> tuple[Format, Iterator[Piece]]:
    """Open a part of a joined file, or the only part of a file."""
    return _open_soundfile(where, 0.0, part) or _open_av(where, 0.0)


class _Range(io.RawIOBase):
    """The bytes of a part as a file of its own. Reads do not disturb other ranges of the same file."""

    def __init__(self, file: BinaryIO, part: joined.Part) -> None:
        self._base, self._begin, self._size, self._at = file, part.begin, part.end - part.begin, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer) -> int:
        self._base.seek(self._begin + self._at)
        data = self._base.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _open_joined(where: Path | bytes, parts: list[joined.Part]) -> tuple[Format, Iterator[Piece]]:
    """Open a joined file. It has the format of its first part."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_file(where))
        opened = _open_part(_Range(file, parts[0]), parts[0])
        stack.pop_all()
    return opened[0], _read_joined(file, opened[1], parts)


def _read_joined(file: BinaryIO, first: Iterator[Piece], parts: list[joined.Part]) -> Iterator[Piece]:
    """Yield the parts of a file one after the other; the `first` is open."""
    with file:
        begin = end = 0.0
        for number, part in enumerate(parts):
            for piece in _open_part(_Range(file, part), part)[1] if number else first:
                moved = piece._replace(at=piece.at + round(begin * piece.rate))
                end = moved.end
                yield moved
            begin = end


# ---------------------------------------------------------------- soundfile


def _open_soundfile(
    where: "Path | bytes | _Range", start: float, part: joined.Part | None = None
) -> tuple[Format, Iterator[Piece]] | None:
    """Open a file with soundfile; returns None if PyAV must read it."""
    import soundfile

    class Sequential(soundfile.SoundFile):
        """A file that claims to be not seekable.

        Otherwise soundfile seeks after every read, and the mp3 and Ogg decoders of libsndfile miss the exact sample.
        """

        def seekable(self) -> bool:
            return False

    try:
        file = Sequential(os.fsencode(where) if isinstance(where, Path) else _readable(where))
    except (soundfile.LibsndfileError, TypeError):  # TypeError: the extension means audio without a header, such as .raw
        return None
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        at = 0
        if part is None:
            if file.format in ("MP3", "OGG") or not file.frames:
                return None
            try:
                file.seek(0)  # fails for GSM 6.10, and for FLAC that was copied from the middle of a stream
                at = file.seek(min(round(start * file.samplerate), file.frames))
            except soundfile.LibsndfileError:
                return None
        stack.pop_all()
    form = Format(f"{file.format}/{file.subtype}".lower(), file.samplerate, file.channels)
    return form, _read_soundfile(file, at, part.seconds if part else None)


def _read_soundfile(file, at: int, stated: float | None) -> Iterator[Piece]:
    """Yield a file from sample `at` to its end, and check that it is complete; the tag of an mp3 states its seconds."""
    import soundfile

    with file:
        rate = file.samplerate
        if stated is None:
            stated = _stated_by_soundfile(file)
        try:
            while True:
                left = max(file.frames - at, _EXTRA)  # soundfile allocates what it is asked for
                block = file.read(min(round(_BLOCK_SECONDS * rate), left), dtype="float32", always_2d=True)
                yield Piece(at, rate, block)
                at += len(block)
                if not len(block):
                    break
        except soundfile.LibsndfileError as error:
            raise AudioError(f"decoding stopped after {at / rate:.1f} s: {error.error_string or _DAMAGED}") from error
        _check_length(at / rate, stated)


def _stated_by_soundfile(file) -> float:
    """Returns the length in seconds that the header of a file states; 0 if it states none."""
    if file.frames >= _UNKNOWN_FRAMES:
        return 0.0
    size = _REPAIRED.search(file.extra_info)
    repaired = int(size[1]) / max(1, int(size[2])) if size and int(size[1]) < _UNKNOWN_SIZE else 1.0
    return file.frames / file.samplerate * max(1.0, repaired)


# ---------------------------------------------------------------- PyAV


def _open_av(where: "Path | bytes | _Range", start: float) -> tuple[Format, Iterator[Piece]]:
    """Open a file with PyAV."""
    import av

    try:
        container = av.open(str(where) if isinstance(where, Path) else _readable(where))
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(f"not an audio file that soundfile or FFmpeg can read: {_reason(error)}") from error
    if not container.streams.audio:
        container.close()
        raise AudioError("the file holds no audio stream")
    context = container.streams.audio[0].codec_context
    if context is None:
        container.close()
        raise AudioError("FFmpeg has no decoder for the codec of the audio stream")
    return Format(context.name, context.sample_rate, context.channels), _merged(_read_av(container, start))


def _merged(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Join pieces of the same format to blocks, because every block costs the same time."""
    held: list[Piece] = []
    size = 0

    def whole() -> Piece:
        return held[0]._replace(samples=np.concatenate([piece.samples for piece in held]))

    for piece in pieces:
        changes = held and (piece.rate, piece.samples.shape[1]) != (held[0].rate, held[0].samples.shape[1])
        if changes or size >= _BLOCK_SECONDS * piece.rate:
            yield whole()
            held, size = [], 0
        held.append(piece)
        size += len(piece.samples)
    if held:
        yield whole()


def _read_av(container, start: float) -> Iterator[Piece]:
    """Yield a file from `start` or earlier to its end, and check that it is complete."""
    import av

    with container:
        source = container.streams.audio[0]
        clock = _Clock(container)
        indexed = any(name in container.format.name for name in _INDEXED)
        rate, at, kind, to_float = source.codec_context.sample_rate, 0, None, av.AudioResampler(format="fltp")
        try:
            if indexed and start > 1:  # one second too early, because decoders need some frames to settle
                container.seek(int((start - 1 + clock.zero) / source.time_base), stream=source)
                at = round(start * rate)
            for frame in _frames(container, source):
                if (frame.sample_rate, frame.layout.name, frame.format.name) != kind:
                    kind = frame.sample_rate, frame.layout.name, frame.format.name
                    to_float = av.AudioResampler(format="fltp")
                    at, rate = round(at / rate * frame.sample_rate), frame.sample_rate
                late = round(clock.late(frame, at / rate) * rate)
                silence = np.zeros((min(rate, max(0, late)), frame.layout.nb_channels), np.float32)
                for begin in range(0, late, rate):
                    yield Piece(at + begin, rate, silence[: late - begin])
                at += late
                block = np.concatenate([part.to_ndarray() for part in to_float.resample(frame)], axis=1).T
                yield Piece(at, rate, block)
                at += len(block)
        except (av.FFmpegError, ValueError) as error:
            raise AudioError(f"decoding stopped after {at / rate:.1f} s: {_reason(error)}") from error
        if indexed:
            _check_length(at / rate, _stated_by_container(container, source) - clock.zero)


def _frames(container, source) -> Iterator:
    """Yield the decoded frames of a stream. Bytes between the frames of an mp3 file, such as tags, are passed over."""
    import av

    if container.format.name != "mp3":
        yield from container.decode(source)
        return
    for packet in container.demux(source):
        with contextlib.suppress(av.error.InvalidDataError):
            yield from packet.decode()


class _Clock:
    """The time stamps of a container; `zero` is the time in seconds at which its first stream begins."""

    def __init__(self, container) -> None:
        self._used = any(name in container.format.name for name in _CLOCKED)
        self.zero = (container.start_time or 0) / 1e6 if self._used else 0.0
        self._shift: float | None = None  # seconds by which the time stamps of a joined file have jumped

    def late(self, frame, at: float) -> float:
        """Returns the seconds of silence between the time `at`, up to which the sound was read, and a frame.

        The result is negative if a seek led to a frame before `at`.
        """
        if not self._used or frame.pts is None:
            return 0.0
        late = float(frame.pts * frame.time_base) - self.zero - at
        if self._shift is None:
            self._shift = 0.0
            if late > _LATEST:
                raise AudioError(f"the sound begins {late:.0f} s after the file, where up to {_LATEST:.0f} s are legal")
            return max(late, -at)
        late -= self._shift
        if abs(late) <= _JITTER:
            return 0.0
        if 0 < late <= _LONGEST_GAP:
            return late
        self._shift += late
        return 0.0


def _stated_by_container(container, source) -> float:
    """Returns the time in seconds at which the sound ends according to the header; 0 if it states none for the sound."""
    if source.duration is not None:
        return float(((source.start_time or 0) + source.duration) * source.time_base)
    only_audio = len(container.streams) == len(container.streams.audio)  # a video stream may be longer than the audio
    return container.duration / 1e6 if only_audio and container.duration else 0.0


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or _DAMAGED
