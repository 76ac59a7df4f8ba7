"""Short-time Fourier transform `(..., samples)` → `(..., frames, bins)` and its inverse; arguments and values as in librosa."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import console, parallel
from genre_jax.console import UserError
from genre_jax.frontends.scaling import as_float, as_spectrum, positive_power

PAD_MODES = ("constant", "reflect", "edge")
ENGINES = ("auto", "fft", "matmul")
# The engine of `engine="auto"`, measured in docs/benchmarks/frontends.md. Other platforms use the FFT.
MEASURED_ENGINE = {"cpu": "fft"}
# The most samples whose frames and spectra exist at the same time. The value of the CPU was the fastest on two cores (~10 MB).
CHUNK_SAMPLES = {"cpu": 1 << 20, "gpu": 1 << 26, "tpu": 1 << 26, "export": None}


@functools.lru_cache
def _named_window(window: str | float | tuple, win_length: int) -> np.ndarray:
    if window == "hann" and win_length > 1:  # the usual window, without the import of scipy.signal, which takes a second
        return 0.5 + 0.5 * np.cos(np.linspace(-np.pi, np.pi, win_length + 1)[:-1])
    from scipy.signal import get_window

    try:
        return get_window(window, win_length, fftbins=True)
    except (ValueError, TypeError) as error:
        legal = "a window of scipy.signal.get_window, such as 'hann', 'hamming', 'boxcar' or ('kaiser', 14.0), or an array"
        raise UserError(f"window must be {legal}, and was given {window!r}") from error


def fft_window(window: Any, win_length: int, n_fft: int) -> np.ndarray:
    """Return a periodic window (n_fft,) in float64: `win_length` samples with zeros on both sides.

    `window` is a name or tuple of `scipy.signal.get_window`, or an array of `win_length` samples.
    """
    if isinstance(window, str | float | tuple):
        values = _named_window(window, win_length)
    else:
        values = np.asarray(window, np.float64)
        if values.shape != (win_length,):
            raise UserError(f"window must have win_length = {win_length} samples, and has the shape {values.shape}")
    left = (n_fft - win_length) // 2
    return np.pad(values, (left, n_fft - win_length - left))


def frame(y: jax.Array, frame_length: int, hop_length: int) -> jax.Array:
    """Cut overlapping frames: `(..., samples)` → `(..., 1 + (samples - frame_length) // hop_length, frame_length)`."""
    starts = hop_length * jnp.arange(1 + (y.shape[-1] - frame_length) // hop_length)
    # Slices of whole frames are 1.5 times as fast as a gather of samples on CPUs.
    return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(y, start, frame_length, -1), out_axes=-2)(starts)


def in_chunks(function: Callable[[jax.Array], jax.Array], y: jax.Array) -> jax.Array:
    """Return `function(y)` of signals `(..., samples)`, computed in chunks of a few clips if there are many.

    This limits the memory of the intermediate arrays and keeps them in the cache of a CPU. The result for a clip must not
    depend on other clips.
    """
    y = as_float(y)
    clips = y.reshape(-1, y.shape[-1])
    limit = parallel.by_platform(CHUNK_SAMPLES, CHUNK_SAMPLES["cpu"])
    if limit is None or clips.size <= limit or len(clips) == 1:
        return function(y)
    out = jax.lax.map(function, clips, batch_size=max(1, limit // clips.shape[-1]))
    return out.reshape(y.shape[:-1] + out.shape[1:])


def lengths(n_fft: int, win_length: int | None, hop_length: int | None) -> tuple[int, int]:
    """Return (win_length, hop_length); None becomes librosa's default, n_fft and win_length // 4. Checks the ranges."""
    if n_fft < 1:
        raise UserError(f"n_fft must be at least 1, and was given {n_fft}")
    win_length = n_fft if win_length is None else win_length
    hop_length = max(1, win_length // 4) if hop_length is None else hop_length
    if not 1 <= win_length <= n_fft:
        raise UserError(f"win_length must lie in [1, n_fft = {n_fft}], and was given {win_length}")
    if hop_length < 1:
        raise UserError(f"hop_length must be at least 1, and was given {hop_length}")
    return win_length, hop_length


def pad_center(y: jax.Array, frame_length: int, center: bool, pad_mode: str) -> jax.Array:
    """With `center`, pad both ends of `y` (..., samples) by `frame_length // 2` samples. Checks that a frame fits."""
    if pad_mode not in PAD_MODES:
        raise console.unknown("pad_mode", pad_mode, PAD_MODES)
    needed = (frame_length // 2 + 1 if pad_mode == "reflect" else 1) if center else frame_length
    if y.shape[-1] < needed:
        raise UserError(
            f"the signal must have at least {needed} samples for frames of {frame_length} samples "
            f"(center={center}, pad_mode={pad_mode!r}), and has {y.shape[-1]}"
        )
    if not center:
        return y
    return jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(frame_length // 2, frame_length // 2)], mode=pad_mode)


def resolve_engine(engine: str) -> str:
    """Return "fft" or "matmul": `engine` itself, or the choice of "auto" for the platform of the devices."""
    if engine not in ENGINES:
        raise console.unknown("engine", engine, ENGINES)
    return parallel.by_platform(MEASURED_ENGINE, "fft") if engine == "auto" else engine


def _framed(y, n_fft, hop_length, win_length, window, center, pad_mode) -> tuple[jax.Array, np.ndarray]:
    """Return the frames `(..., frames, n_fft)` of the padded signal, and the window (n_fft,) in the same dtype."""
    win_length, hop_length = lengths(n_fft, win_length, hop_length)
    taper = fft_window(window, win_length, n_fft)
    y = as_float(y)
    return frame(pad_center(y, n_fft, center, pad_mode), n_fft, hop_length), taper.astype(y.dtype)


def _dft(frames: jax.Array, taper: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Return the real and the imaginary part of the Fourier transform of the windowed frames, by two matrix products."""
    n_fft = frames.shape[-1]
    turns = np.outer(np.arange(n_fft), np.arange(1 + n_fft // 2)) % n_fft / n_fft

    def product(wave):
        matrix = (taper[:, None] * wave(2 * np.pi * turns)).astype(taper.dtype)
        return jnp.matmul(frames, matrix, precision=jax.lax.Precision.HIGHEST)

    return product(np.cos), -product(np.sin)


def stft(
    y: jax.Array,
    *,
    n_fft: int = 2048,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = "hann",
    center: bool = True,
    pad_mode: str = "constant",
    engine: str = "auto",
) -> jax.Array:
    """Compute the complex short-time Fourier transform, `(..., samples)` → `(..., frames, 1 + n_fft // 2)`.

    Equals `librosa.stft` with bins last.

    Args:
      y: real array (..., samples), usually in [-1, 1]. Needs n_fft samples without `center`; with `center` 1 sample, or
        n_fft // 2 + 1 samples for pad_mode "reflect".
      n_fft: int ≥ 1, length of frames and FFT in samples. The default is 93 ms at 22,050 Hz.
      hop_length: int ≥ 1, samples from frame to frame. Default: win_length // 4.
      win_length: int in [1, n_fft], length of the window in samples; zeros pad it to n_fft. Default: n_fft.
      window: a name or tuple of `scipy.signal.get_window` (periodic), or an array of win_length samples.
      center: bool. True pads both ends by n_fft // 2 samples: frame t is centred on sample t · hop_length. False starts
        frame t at sample t · hop_length.
      pad_mode: str, the padding: "constant" (zeros), "reflect" or "edge".
      engine: str. "fft"; "matmul", a product with the DFT matrix (for tensor cores and export); "auto", the faster one.

    Raises `UserError` if an argument is out of range.
    """
    frames, taper = _framed(y, n_fft, hop_length, win_length, window, center, pad_mode)
    return jax.lax.complex(*_dft(frames, taper)) if resolve_engine(engine) == "matmul" else jnp.fft.rfft(frames * taper)


def spectrogram(
    y: jax.Array,
    *,
    power: float = 2.0,
    n_fft: int = 2048,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = "hann",
    center: bool = True,
    pad_mode: str = "constant",
    engine: str = "auto",
) -> jax.Array:
    """Compute |STFT|^power, `(..., samples)` → `(..., frames, 1 + n_fft // 2)`.

    Args:
      power: float > 0, exponent of the magnitude (1: magnitude, 2: power).
      y, n_fft, hop_length, win_length, window, center, pad_mode, engine: as in `stft`.

    Starts from re² + im², which is differentiable at zero and can be exported.
    """
    if not power > 0:
        raise UserError(f"power must be positive, and was given {power}")

    def compute(y):
        frames, taper = _framed(y, n_fft, hop_length, win_length, window, center, pad_mode)
        if resolve_engine(engine) == "matmul":
            real, imag = _dft(frames, taper)
        else:
            z = jnp.fft.rfft(frames * taper)
            real, imag = z.real, z.imag
        return positive_power(real**2 + imag**2, power / 2)

    return in_chunks(compute, y)


def at_least(x: jax.Array, low: float | jax.Array) -> jax.Array:
    """Return the maximum of x and `low`. Keeps NaN; `jnp.maximum` loses NaN if XLA fuses it into a sum on CPUs."""
    return jnp.where(x < low, low, x)


def magphase(z: jax.Array, *, power: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Split a spectrum `(..., frames, bins)` into |z|^power and phase exp(i · angle), as `librosa.magphase`.

    Args:
      z: complex array (..., frames, bins).
      power: float > 0, exponent of the magnitude.

    Returns (magnitude, phase), both with the shape of z. The phase of zero is 1.
    """
    z = as_spectrum(z, ())
    square = z.real**2 + z.imag**2
    magnitude, zero = positive_power(square, 0.5), square == 0
    phase = jnp.where(zero, 1, z / jnp.where(zero, 1, magnitude))
    return positive_power(square, power / 2), phase


def overlap_add(frames: jax.Array, hop_length: int) -> jax.Array:
    """Add frames `(..., frames, frame_length)` that start `hop_length` samples apart → `(..., samples)`."""
    count, frame_length = frames.shape[-2:]
    parts = -(-frame_length // hop_length)
    lead = [(0, 0)] * (frames.ndim - 2)
    blocks = jnp.pad(frames, [*lead, (0, 0), (0, parts * hop_length - frame_length)])
    blocks = blocks.reshape(*frames.shape[:-1], parts, hop_length)
    shifted = [jnp.pad(blocks[..., part, :], [*lead, (part, parts - 1 - part), (0, 0)]) for part in range(parts)]
    total = functools.reduce(jnp.add, shifted)
    return total.reshape(*frames.shape[:-2], -1)[..., : frame_length + hop_length * (count - 1)]


def istft(
    z: jax.Array,
    *,
    hop_length: int | None = None,
    win_length: int | None = None,
    n_fft: int | None = None,
    window: Any = "hann",
    center: bool = True,
    length: int | None = None,
) -> jax.Array:
    """Compute the signal of a spectrum (least squares), `(..., frames, 1 + n_fft // 2)` → `(..., samples)`.

    Equals `librosa.istft` with bins last.

    Args:
      z: complex array (..., frames, bins).
      hop_length, win_length, window, center: the arguments of `stft` for this spectrum.
      n_fft: int, the FFT length of this spectrum. Default: 2 · (bins - 1), the even length.
      length: int, number of samples; trims or zero-pads the end. Default: all samples of the frames.

    Raises `UserError` if an argument is out of range.
    """
    z = as_spectrum(z)
    n_fft = 2 * (z.shape[-1] - 1) if n_fft is None else n_fft
    win_length, hop_length = lengths(n_fft, win_length, hop_length)
    if z.shape[-1] != 1 + n_fft // 2:
        raise UserError(f"the spectrum must have {1 + n_fft // 2} bins for n_fft = {n_fft}, and has {z.shape[-1]}")
    taper = fft_window(window, win_length, n_fft)
    start = n_fft // 2 if center else 0
    if length is None:
        length = n_fft + hop_length * (z.shape[-2] - 1) - 2 * start
    frames = jnp.fft.irfft(z, n=n_fft)
    y = overlap_add(frames * taper.astype(frames.dtype), hop_length)
    # NumPy, because the sum of squared windows depends only on shapes.
    weight = np.zeros(y.shape[-1])
    for number in range(z.shape[-2]):
        weight[number * hop_length : number * hop_length + n_fft] += taper**2
    y = y / np.where(weight > np.finfo(frames.dtype).tiny, weight, 1).astype(frames.dtype)
    y = y[..., start : start + length]
    return jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, length - y.shape[-1])])
