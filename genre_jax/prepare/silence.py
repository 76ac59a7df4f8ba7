"""Files whose mono mix is silent: `prepare` and `tag` refuse them by the same threshold and with the same sentences."""

from pathlib import Path

import numpy as np

from genre_jax.prepare import audio

SILENT = 1e-4  # peak, -80 dB of full scale; a mix with a lower peak is silent
MIX = "the mono mix is silent"
CANCELLED = f"{MIX}, but the channels are not: they cancel each other, therefore invert one channel or use one alone"
_MARGIN = 10  # a channel that is 20 dB above the threshold was cancelled, and is not only a little louder than the mix
_PROBED = 120.0  # seconds at the start of the cut that are decoded again; all of a long file would need much memory


def fault(peak: float, source: str | Path | bytes | None, start: float = 0.0, duration: float | None = None) -> str | None:
    """Returns why a mono mix with this peak cannot be used, or None if it is not silent.

    Args:
      peak: largest magnitude of the mono mix in full scale.
      source: path or content of the audio file, whose channels tell why the mix is silent; None: this is not looked for.
      start, duration: the cut in seconds, as in `audio.load`.
    """
    if round(peak * 32768) / 32768 >= SILENT:  # of the 16-bit samples
        return None
    if source is not None and _loudest_channel(source, start, duration) >= _MARGIN * SILENT:
        return CANCELLED
    return f"{MIX}: no sample exceeds {SILENT:g} of full scale"


def _loudest_channel(source: str | Path | bytes, start: float, duration: float | None) -> float:
    """Returns the peak of the channels before they are mixed, or 0 if they cannot be decoded."""
    try:
        with audio.explained():
            channels, _ = audio.decode(source, start, min(_PROBED, duration or _PROBED))
    except audio.AudioError:
        return 0.0
    return float(np.abs(channels).max(initial=0.0))
