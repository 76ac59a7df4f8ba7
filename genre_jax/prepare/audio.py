"""Decode audio files, mix them down to mono and resample them, in blocks, so that memory does not grow with the file.

`prepare/decode.py` opens the files. soundfile, PyAV and soxr are imported inside the functions that use them, because training
does not need them.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from genre_jax.console import cure
from genre_jax.prepare import decode as decoders
from genre_jax.prepare.decode import Format
from genre_jax.prepare.errors import AudioError

_LIBSNDFILE = "wav wave bwf w64 rf64 flac ogg oga opus mp3 mp2 mp1 aif aiff aifc afc au snd caf voc ircam sf nist sph"
_FFMPEG = (
    "m4a m4b m4r mp4 m4v mov 3gp 3g2 aac adts webm mka mkv weba wma wmv asf ts m2ts mts mpg mpeg vob avi flv f4v ogv ogx spx "
    "amr awb wv ape tta tak mpc ac3 eac3 ec3 dts dtshd thd mlp dsf dff ra rm rmvb gsm qcp shn mpa mp+ oma"
)
EXTENSIONS = frozenset(f".{name}" for name in f"{_LIBSNDFILE} {_FFMPEG}".split())  # the decoder is chosen by the content
KNOWN = f"files with one of {len(EXTENSIONS)} extensions, such as .wav, .flac, .mp3, .ogg or .m4a"
RATES = (1_000, 768_000)  # legal sample rates in Hz


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
        raise AudioError(f"the decoder failed with an unexpected error ({type(error).__name__})") from error


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
      float32 (channels, samples) at the sample rate of the file, and the format of the file. If the rate or the channels
      change, each run of samples is converted to the format at the beginning: resampled, or mixed down and repeated.

    Raises:
      AudioError: the file cannot be decoded, is cut off, or ends before `start`.
    """
    form, runs = _open(path, start, duration)
    blocks = _resample_runs(((rate, _fit(block, form.channels)) for rate, block in runs), form.rate)
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


def resample_blocks(blocks: Iterable[np.ndarray], source_rate: int, sample_rate: int) -> Iterator[np.ndarray]:
    """Resample successive blocks float32 (samples,) of a live signal as `stream` resamples a file.

    Each block gives what can be computed so far, which may be nothing.
    """
    return _resample_runs(((source_rate, block) for block in blocks), sample_rate)


def to_pcm(samples: np.ndarray, peak: float) -> np.ndarray:
    """Convert float samples to int16 by `round(x * 32768)`. If the `peak` magnitude exceeds 1.0, divide by the peak first.

    Training divides by 32768. Therefore a 16-bit file that is not resampled is reproduced bit for bit.
    """
    scaled = samples / np.float32(peak) if peak > 1.0 else samples
    wide = scaled * np.float32(32768)
    return np.clip(np.rint(wide, out=wide), -32768, 32767, out=wide).astype(np.int16)


def stream(
    path: str | Path | bytes, sample_rate: int, block: int, start: float = 0.0, duration: float | None = None
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
    form, runs = _open(path, start, duration)
    return form, _resample_runs(((rate, _down_mix(block)) for rate, block in runs), sample_rate)


def _open(path: str | Path | bytes, start: float, duration: float | None) -> tuple[Format, Iterator[tuple[int, np.ndarray]]]:
    """Returns the format of a file, and an iterator over (sample rate, float32 (samples, channels)) of a cut."""
    if not isinstance(path, bytes):
        path = Path(path)
        if path.is_dir():
            raise AudioError("the path is a folder, not an audio file")
        if not path.is_file():
            raise AudioError("no such file")
    if not (len(path) if isinstance(path, bytes) else path.stat().st_size):
        raise AudioError("the file has zero bytes")
    form, runs = decoders.read(path, start, duration)
    _check_format(form.rate, form.channels)
    return form, runs


def _check_format(rate: int, channels: int) -> None:
    if not RATES[0] <= rate <= RATES[1] or channels < 1:
        raise AudioError(
            f"not an audio file: the header says {channels} channels at {rate} Hz, where 1 channel or more and "
            f"{RATES[0]} to {RATES[1]} Hz are legal"
        )


def _down_mix(block: np.ndarray) -> np.ndarray:
    """Average the channels of a block (samples, channels)."""
    channels = block.shape[1]
    # A product with a constant column is several times faster than mean(axis=1) on interleaved channels.
    return block[:, 0] if channels == 1 else block @ np.full(channels, 1 / channels, np.float32)


def _fit(block: np.ndarray, channels: int) -> np.ndarray:
    """Returns a block (samples, channels) with this number of channels: if it has another, its mean in each channel."""
    return block if block.shape[1] == channels else np.repeat(_down_mix(block)[:, None], channels, axis=1)


def _resample_runs(runs: Iterable[tuple[int, np.ndarray]], sample_rate: int) -> Iterator[np.ndarray]:
    """Resample successive blocks (sample rate, (samples,) or (samples, channels)), each from its own rate."""
    rate, resampler, empty = sample_rate, None, np.zeros(0, np.float32)
    for source_rate, block in runs:
        if source_rate != rate:
            if resampler:
                yield resampler.resample_chunk(empty, last=True)
            rate, resampler = source_rate, None
            if rate != sample_rate:
                import soxr

                _check_format(rate, 1)
                channels = 1 if block.ndim == 1 else block.shape[1]
                resampler = soxr.ResampleStream(rate, sample_rate, channels, dtype="float32", quality="HQ")
                empty = block[:0]
        yield resampler.resample_chunk(block) if resampler else block
    if resampler:
        yield resampler.resample_chunk(empty, last=True)
