"""Conditioning of whole files before they become shards: `prepare --condition=log_mmse,remove_silence,equalise_loudness`.

Document 003 (SwishNet, arXiv 1812.00149) conditions the whole file, and cuts it into clips afterwards. A front end sees one
crop at a time. Its noise estimate would be the start of the crop, and it would level each crop by itself.

The steps equal `frontends/conditioning.py` in float64 NumPy, because worker processes do not import JAX; a test compares the
two. All steps map float32 (samples,) in [-1, 1] at `sample_rate` Hz to float32 (samples,), and need memory for a few copies
of the samples.
"""

from collections.abc import Callable, Generator, Sequence

import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.prepare import silence
from genre_jax.prepare.errors import AudioError

SILENCE_FRAME, SILENCE_HOP = 2048, 512  # samples
SILENCE_DB = 60.0  # dB below the loudest frame; document 003 does not state its threshold, therefore this is a choice
LEVEL = 0.1  # standard deviation after `equalise_loudness`, -20 dB of full scale, because 16 bits clip at 1

_LOUDNESS_FRAME, _LOUDNESS_HOP = 0.25, 0.01  # seconds
_LOUDNESS_FLOOR = 1e-4  # lower limit of a standard deviation, -80 dB of full scale, which keeps silence silent
_NOISE_FRAME, _NOISE_FRAMES = 0.02, 6  # seconds, and frames without overlap: the noise is taken from the first 120 ms
_ALPHA, _SMOOTHING, _THRESHOLD = 0.98, 0.98, 0.15  # constants of Loizou's logmmse.m, as the next two
_MAX_POSTERIOR_SNR, _MIN_PRIOR_SNR = 40.0, 10**-2.5
_NOISE_FLOOR, _V_FLOOR = 1e-10, 1e-12  # lower limits of a noise power, and of the argument of E1
_CHUNK = 1024  # frames or blocks that are computed at once, so that memory does not grow with their overlap


def parse(text: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the steps of "STEP,STEP". Raises `UserError` if a step is unknown or is repeated."""
    steps = tuple(step for step in text.split(",") if step) if isinstance(text, str) else tuple(text)
    for step in steps:
        if step not in STEPS:
            raise console.unknown("step of --condition", step, STEPS)
    if len(set(steps)) < len(steps):
        raise UserError(f"--condition={','.join(steps)} repeats a step: name each of {', '.join(STEPS)} once at most")
    return steps


def apply(steps: Sequence[str], samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Apply the steps in their order. Raises `AudioError` if the file is too short for a step, or if no sound is left."""
    for step in steps:
        samples = STEPS[step](samples, sample_rate)
    if steps and max(samples.max(), -samples.min()) < silence.SILENT:
        raise AudioError(
            f"nothing but silence is left by {', '.join(steps)}: no sample exceeds {silence.SILENT:g} of full scale"
        )
    return samples


def remove_silence(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Remove the samples of silent frames.

    A frame is silent if its power is `SILENCE_DB` or more below the loudest frame of the file. Frame t is centred on sample
    512·t, and stands for the samples 512·t to 512·t + 511, as in `librosa.effects.split`. Raises `AudioError` if no sample is
    left.
    """
    del sample_rate
    # A frame consists of four blocks of a hop; the padding of half a frame is two blocks.
    blocks = len(samples) // SILENCE_HOP + SILENCE_FRAME // SILENCE_HOP + 1
    padded = np.zeros((blocks, SILENCE_HOP), np.float32)
    padded.reshape(-1)[SILENCE_FRAME // 2 : SILENCE_FRAME // 2 + len(samples)] = samples
    energy = np.einsum("bs,bs->b", padded, padded, dtype=np.float64)
    power = np.convolve(energy, np.ones(SILENCE_FRAME // SILENCE_HOP), "valid")[: 1 + len(samples) // SILENCE_HOP]
    kept = samples[np.repeat(power > power.max() * 10 ** (-SILENCE_DB / 10), SILENCE_HOP)[: len(samples)]]
    if not len(kept):
        raise AudioError("the whole file is silence, and remove_silence leaves nothing of it")
    return kept


def equalise_loudness(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Level the loudness over windows of 250 ms to a standard deviation of `LEVEL`.

    Divides each frame by its standard deviation, multiplies it by a Hann window, adds the overlapping frames and divides by
    the sum of the windows. The hop is 10 ms. The last frame may be incomplete. Samples beyond full scale are clipped; otherwise
    `to_pcm` would scale the whole file down, and files would differ in loudness again.
    """
    length, step = loudness_grid(sample_rate)
    gain = LEVEL / np.maximum(_deviations(samples, length, step), _LOUDNESS_FLOOR)
    # Block b of `step` samples is the sum over j of gain[b - j] times the part j of the window.
    parts = -(-length // step)
    taper = np.pad(_hann(length), (0, parts * step - length)).reshape(parts, step)[::-1]
    gains = np.lib.stride_tricks.sliding_window_view(np.pad(gain, parts - 1), parts)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(np.ones(len(gain)), parts - 1), parts)
    level = np.empty_like(samples)
    for first in range(0, len(gains), _CHUNK):
        here = slice(first * step, (first + _CHUNK) * step)
        with np.errstate(invalid="ignore"):  # the last block may go on after the last frame, but the samples do not
            curve = (gains[first : first + _CHUNK] @ taper) / (frames[first : first + _CHUNK] @ taper)
        level[here] = np.clip(samples[here] * curve.reshape(-1)[: len(samples[here])], -1, 1)
    return level


def loudness_grid(sample_rate: int) -> tuple[int, int]:
    """Returns the length and the hop of the frames of `equalise_loudness` in samples."""
    return round(_LOUDNESS_FRAME * sample_rate), max(1, round(_LOUDNESS_HOP * sample_rate))


def _deviations(samples: np.ndarray, length: int, step: int) -> np.ndarray:
    """Returns the standard deviation of each frame of `length` samples, float64 (frames,), without samples after the end."""
    count = 1 + max(0, -(-(len(samples) - length) // step))
    whole, rest = divmod(length, step)
    blocks = np.zeros((count + whole, step), np.float32)
    blocks.reshape(-1)[: len(samples)] = samples[: blocks.size]
    sizes = np.clip(len(samples) - step * np.arange(count + whole), 0, step)

    def total(values: np.ndarray, of_rest: np.ndarray) -> np.ndarray:
        return np.convolve(values, np.ones(whole), "valid")[:count] + of_rest[whole:]

    size = total(sizes, np.minimum(sizes, rest))
    mean = total(blocks.sum(1, dtype=np.float64), blocks[:, :rest].sum(1, dtype=np.float64)) / size
    square = total(*(np.einsum("bs,bs->b", part, part, dtype=np.float64) for part in (blocks, blocks[:, :rest]))) / size
    return np.sqrt(np.maximum(square - mean**2, 0))


def log_mmse(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Remove stationary noise with the log-spectral amplitude estimator of Ephraim & Malah (IEEE Trans. ASSP 33(2), 1985).

    The first 120 ms of the file give the noise estimate, and must contain only noise. Raises `AudioError` if the file is
    shorter.
    """
    length = int(_NOISE_FRAME * sample_rate + 1e-9)
    length += length % 2
    hop, first = length // 2, _NOISE_FRAMES * length
    if len(samples) < first:
        raise AudioError(
            f"too short for log_mmse: {len(samples) / sample_rate:.3f} s, where {first / sample_rate:.3f} s of noise are needed"
        )
    taper = _hann(length)
    taper *= hop / taper.sum()
    opening = np.fft.rfft(samples[:first].reshape(_NOISE_FRAMES, length) * taper, 2 * length)
    noise = np.maximum(np.square(np.abs(opening).mean(0)), _NOISE_FLOOR)
    count = -(-len(samples) // hop)
    padded = np.zeros((count + 1) * hop, np.float32)
    padded[: len(samples)] = samples
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    clean = np.zeros_like(padded)
    gains = _gains(noise, length)
    next(gains)
    for at in range(0, count, _CHUNK):
        spectra = np.fft.rfft(frames[at : at + _CHUNK] * taper, 2 * length)
        for spectrum in spectra:
            spectrum *= gains.send(spectrum.real**2 + spectrum.imag**2)
        made = np.fft.irfft(spectra, 2 * length)[:, :length].astype(np.float32)
        end = (at + len(made)) * hop
        clean[at * hop : end] += made[:, :hop].reshape(-1)
        clean[at * hop + hop : end + hop] += made[:, hop:].reshape(-1)
    return clean[: len(samples)]


def _gains(noise: np.ndarray, length: int) -> Generator[np.ndarray, np.ndarray, None]:
    """A coroutine that takes the power spectrum of each frame in turn, and returns the gains of its bins, (length + 1,).

    `noise` (length + 1,) is the first estimate of the noise power.
    """
    from scipy.special import exp1

    weight = np.full(length + 1, 2.0) / length  # all bins except the first and last occur twice in the full spectrum
    weight[[0, -1]] /= 2
    gain, before = np.ones_like(noise), noise
    while True:
        power = yield gain
        posterior = np.minimum(power / noise, _MAX_POSTERIOR_SNR)
        prior = np.maximum(_ALPHA * before / noise + (1 - _ALPHA) * np.maximum(posterior - 1, 0), _MIN_PRIOR_SNR)
        share = prior / (1 + prior)
        v = posterior * share
        gain = share * np.exp(0.5 * exp1(np.maximum(v, _V_FLOOR)))
        if (v - np.log1p(prior)) @ weight < _THRESHOLD:
            noise = np.maximum(_SMOOTHING * noise + (1 - _SMOOTHING) * power, _NOISE_FLOOR)
        before = power * gain**2


def _hann(length: int) -> np.ndarray:
    """Returns a symmetric Hann window without zeros at its ends, float64 (length,)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, length + 1) / (length + 1))


STEPS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "log_mmse": log_mmse,
    "remove_silence": remove_silence,
    "equalise_loudness": equalise_loudness,
}
