"""Segments of an audio file, which is decoded block by block."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from genre_jax.prepare import audio
from genre_jax.segment.networks import Network
from genre_jax.segment.slider import Options, Slider
from genre_jax.segment.timeline import Segment, Timeline

_BLOCK_SECONDS = 30  # that are decoded while the network computes the last block


def segment(
    network: Network, source: str | bytes, how: Options, progress: Callable[[float, float | None], None] | None = None
) -> tuple[float, list[Segment]]:
    """Return the length in seconds and the segments of an audio file, or of its content.

    Memory does not grow with the length of the file. `progress` is called with the seconds that are done, and None. Raises
    `AudioError` or `UserError` if the file cannot be read or used.
    """
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    slider, rate = Slider(network, how), network.sample_rate
    line = Timeline(network.labels, network.hop / rate)
    # The matrix products of the loudness are small. More threads would wait for each other, and take cores from the decoder.
    with threadpool_limits(1, "blas"):
        for block in _ahead(audio.stream(source, rate, _BLOCK_SECONDS * rate)):
            line.add(slider.push(block))
            if progress:
                progress(slider.samples / rate, None)
        line.add(slider.finish())
    seconds = slider.samples / rate
    return seconds, line.finish(seconds)


def _ahead(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the blocks; a thread makes the next one meanwhile."""
    with ThreadPoolExecutor(1, "decoder") as pool:
        future = pool.submit(next, blocks, None)
        while (block := future.result()) is not None:
            future = pool.submit(next, blocks, None)
            yield block
