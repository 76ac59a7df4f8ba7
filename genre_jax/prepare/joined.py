"""Find the parts of a joined file: the links of an Ogg stream, and the mp3 files that were written one after the other.

The decoders read the first part of such a file only. Therefore each part is read as a file of its own.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from genre_jax.prepare.errors import AudioError

NO_END_MARK = "the Ogg stream has no end mark, so its end may be missing"
_PAGE = 27  # bytes of the header of an Ogg page, before its table of segments
_FIRST, _LAST = 2, 4  # flags of an Ogg page: the first or the last page of a stream
_WINDOW = 1 << 16  # bytes that are searched at once
_LEAST = 4096  # bytes; less than this behind the last mp3 frame is no sound
_FRAME_BYTES = 20.0, 3000.0  # the mean size of a frame in a plausible tag
_VERSIONS = {3: (0, 1152, 32, 17), 2: (1, 576, 17, 9), 0: (2, 576, 17, 9)}  # MPEG 1, 2, 2.5: see `_Frame.parse`
_KBPS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # MPEG 1, or MPEG 2 and 2.5


class Part(NamedTuple):
    """A part of a file: bytes `begin` to `end`, and its length in `seconds` if a tag states it."""

    begin: int
    end: int
    seconds: float | None = None


def find(file: BinaryIO) -> tuple[list[Part] | None, str]:
    """Returns the parts of an Ogg or mp3 file, and a warning or "".

    The result is None for a file of another kind, and [] for an mp3 file without a tag that can be believed. Raises
    `AudioError` if an Ogg file is cut off.
    """
    size = file.seek(0, 2)
    if _read(file, 0, 4) == b"OggS":
        return _ogg(file, size)
    return _mp3(file, size), ""


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


# ---------------------------------------------------------------- Ogg


def _ogg(file: BinaryIO, size: int) -> tuple[list[Part], str]:
    """Returns the links of an Ogg stream, and a warning if one of them has no end mark."""
    begins, unmarked, beginning, flags = [0], False, True, 0
    for at, flags_before, flags in _pages(file, size):
        if flags & _FIRST and not beginning:
            begins.append(at)
            unmarked |= not flags_before & _LAST
        beginning = bool(flags & _FIRST)  # the streams of one link begin together
    unmarked |= not flags & _LAST
    ends = [*begins[1:], size]
    return [Part(begin, end) for begin, end in zip(begins, ends, strict=True)], NO_END_MARK if unmarked else ""


def _pages(file: BinaryIO, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (position, flags of the page before, flags) of the pages of an Ogg file."""
    at = before = searched = 0
    while at < size:
        header = _read(file, at, _PAGE + 255)
        if header[:4] != b"OggS":  # the page before is damaged, or this is no page: look behind the header of the page before
            at = _next_page(file, searched, size)
            searched = at + 1
            continue
        count = header[26] if len(header) >= _PAGE else 255
        end = at + _PAGE + count + sum(header[_PAGE : _PAGE + count])
        searched = at + 1
        if end > size and _next_page(file, searched, size) == size:
            raise AudioError("cut off: the last page of the Ogg stream is incomplete")
        yield at, before, header[5]
        before, at = header[5], end if end <= size else _next_page(file, searched, size)


def _next_page(file: BinaryIO, at: int, size: int) -> int:
    """Returns the position of the next page at or after `at`, or `size`."""
    while at < size:
        found = _read(file, at, _WINDOW + 3).find(b"OggS")
        if found >= 0:
            return at + found
        at += _WINDOW
    return size


# ---------------------------------------------------------------- mp3


class _Frame(NamedTuple):
    """The header of an mp3 frame: sample rate, samples, size in bytes, and bytes from its start to a Xing or Info tag."""

    rate: int
    samples: int
    size: int
    tag: int

    @classmethod
    def parse(cls, head: bytes) -> "_Frame | None":
        """Returns the frame that begins with these four bytes; None if no mp3 frame of a constant size does."""
        if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # the mark of a frame, and layer III
            return None
        version, kbps, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
        if version == 1 or kbps in (0, 15) or rate == 3:
            return None
        halved, samples, stereo, mono = _VERSIONS[version]
        hertz = (44_100, 48_000, 32_000)[rate] >> halved
        size = samples // 8 * 1000 * _KBPS[version == 3][kbps - 1] // hertz + (head[2] >> 1 & 1)
        return cls(hertz, samples, size, 4 + (mono if head[3] >> 6 == 3 else stereo))


def _mp3(file: BinaryIO, size: int) -> list[Part] | None:
    """Returns the mp3 files of which a file consists: those with a tag that can be believed, and the rest as one part."""
    first = _behind_tags(file, 0)
    if not _Frame.parse(_read(file, first, 4)):
        return None
    parts: list[Part] = []
    while True:
        stated = _stated(_read(file, first, 200))
        if stated is None:
            return [*parts, Part(first, size)] if parts else []
        count, seconds = stated
        end = first + count
        rest = _behind_tags(file, end)
        window = _read(file, rest, _WINDOW)
        follows = size - rest >= _LEAST and _frames(window, 0)
        if not follows:
            found = size - rest >= _LEAST and any(_frames(window, n) for n in range(1, len(window)) if window[n] == 0xFF)
            return [] if found else [*parts, Part(first, min(end, size), seconds)]
        parts.append(Part(first, end, seconds))
        first = rest


def _frames(window: bytes, at: int) -> bool:
    """Whether two mp3 frames of the same kind lie at this position."""
    first = _Frame.parse(window[at : at + 4])
    second = first and _Frame.parse(window[at + first.size : at + first.size + 4])
    return bool(first and second and first.rate == second.rate and first.samples == second.samples)


def _stated(head: bytes) -> tuple[int, float] | None:
    """Returns the length in bytes and in seconds that a Xing, Info or VBRI tag states; None without a plausible tag."""
    frame = _Frame.parse(head[:4])
    if frame is None:
        return None
    if head[frame.tag : frame.tag + 4] in (b"Xing", b"Info"):
        flags, frames, count = struct.unpack_from(">3I", head, frame.tag + 4)
        if flags & 3 != 3:  # it states no number of frames or no number of bytes
            return None
    elif head[36:40] == b"VBRI":
        count, frames = struct.unpack_from(">2I", head, 46)
    else:
        return None
    low, high = _FRAME_BYTES
    if head[frame.tag : frame.tag + 4] == b"Info":  # all frames have the size of this one
        low, high = 0.95 * frame.size, 1.05 * frame.size
    if not frames or not low <= count / frames <= high:
        return None
    return count, frames * frame.samples / frame.rate


def _behind_tags(file: BinaryIO, at: int) -> int:
    """Returns the position behind the ID3 and APE tags at `at`."""
    while True:
        head = _read(file, at, 32)
        if head[:3] == b"TAG":
            at += 128
        elif head[:3] == b"ID3" and len(head) >= 10:
            at += 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            at += 10 if head[5] & 16 else 0
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            at += 32 + int.from_bytes(head[12:16], "little")
        else:
            return at
