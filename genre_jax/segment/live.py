"""Decisions for a live signal: samples on a pipe in, rows of CSV out."""

import os
from collections.abc import Iterator

import numpy as np

from genre_jax.console import UserError, say
from genre_jax.prepare import audio
from genre_jax.segment import timeline
from genre_jax.segment.networks import Network
from genre_jax.segment.slider import SILENCE, Options, Rows, Slider
from genre_jax.tag import as_csv

_READ_SECONDS = 0.1  # at most that one read takes


def follow(network: Network, how: Options, file: int, rate: int, changes: bool) -> None:
    """Print a row for each frame of a signal: time in s, decision, filtered probability of each label.

    Args:
      network: the network, loaded with `live`.
      how: how frames are decided.
      file: number of the open file with the samples, 16-bit little-endian mono.
      rate: their sample rate in Hz.
      changes: print only the frames whose decision differs from that before, and a row "end" with the length of the signal.

    Raises `UserError` if there is not one sample.
    """
    slider, trial = Slider(network, how), network.start()
    trial.push(np.zeros(network.sample_rate, np.float32))  # compiles, so that the first decisions come in time
    trial.finish()
    period, names, last = network.hop / network.sample_rate, (*network.labels, SILENCE), -1
    say(as_csv(("time", "label", *network.labels)))

    def show(rows: Rows) -> None:
        nonlocal last
        lines = []
        for number, choice in enumerate(timeline.decisions(rows, network.labels)):
            if not changes or choice != last:
                shares = (f"{share:.6f}" for share in rows.probabilities[number])
                lines.append(as_csv((f"{(rows.first + number) * period:.2f}", names[choice], *shares)))
            last = choice
        if lines:
            say("\n".join(lines))

    for block in audio.resample_blocks(_samples(file, rate), rate, network.sample_rate):
        show(slider.push(block))
    try:
        show(slider.finish())
    except UserError as error:
        raise UserError(f"standard input: {error}") from error
    if changes:  # when the last decision ends
        say(as_csv((f"{slider.samples / network.sample_rate:.2f}", "end", *[""] * len(network.labels))))


def _samples(file: int, rate: int) -> Iterator[np.ndarray]:
    """Yield the samples float32 (samples,) as they come. Half a sample at the end is left out."""
    rest, size = b"", 2 * max(1, round(_READ_SECONDS * rate))
    while data := os.read(file, size):  # what is there by now
        data = rest + data
        whole = len(data) - len(data) % 2
        rest = data[whole:]
        yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768
