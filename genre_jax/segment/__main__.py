"""Say which class is heard when: `python -m genre_jax.segment --workdir=DIR FILE|FOLDER|-… [--json|--rttm|--csv|--audacity]`.

--workdir takes a trained run, a file of `genre_jax.save_pretrained`, or hf://…. A folder stands for all audio below it, and -
for an encoded file on standard input. Each frame of 10 ms gets the class with the largest probability after a median filter
over --median frames, or is "silence" if its power is low. Output: the segments, with times and mean probabilities.

    ffmpeg -i URL -f s16le -ac 1 -ar 16000 - | python -m genre_jax.segment --workdir=DIR --stream --rate=16000

reads samples without a header instead, 16-bit little-endian mono at --rate, and prints a row of CSV for each frame (--changes:
only where the decision changes) at most 2 s of audio later, with the default flags.

A file that cannot be read is one line on standard error; the others are segmented, and the exit status is 1. docs/segment.md
"""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import flags

from genre_jax import console, tag_inputs
from genre_jax.console import UserError, say
from genre_jax.prepare import audio
from genre_jax.segment import networks, timeline
from genre_jax.segment.networks import Network
from genre_jax.segment.slider import LOOKAHEAD, SILENCE, Options, Rows, Slider
from genre_jax.tag import as_csv

FORMATS: dict[str, Callable[[str, float, list[timeline.Segment]], str]] = {
    "json": timeline.as_json,
    "rttm": timeline.as_rttm,
    "csv": timeline.as_csv,
    "audacity": timeline.as_audacity,
}
_BLOCK_SECONDS = 30  # of a file that are decoded while the network computes the last block
_READ_SECONDS = 0.1  # at most that one read of a live stream takes


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("workdir", None, "Workdir of a trained run, a file of save_pretrained, or hf://….")
    flags.DEFINE_bool("json", False, "Print one JSON object per file.")
    flags.DEFINE_bool("rttm", False, "Print RTTM, a line per segment.")
    flags.DEFINE_bool("csv", False, "Print CSV, a row per segment: file, start, end, label, probability.")
    flags.DEFINE_bool("audacity", False, "Print the label track of one file for Audacity.")
    flags.DEFINE_bool("stream", False, "Read s16le mono samples from standard input, and print decisions at once.")
    flags.DEFINE_integer("rate", None, "Sample rate of --stream in Hz; default: that of the network.")
    flags.DEFINE_bool("changes", False, "With --stream: print only the frames where the decision changes.")
    define_decision_flags()


def define_decision_flags() -> None:
    """Define the flags that say how frames are decided."""
    flags.DEFINE_float("hop", 0.1, "Seconds between windows, for networks that give no output for each frame.")
    flags.DEFINE_float(
        "lookahead", None, f"Seconds after a frame at which the network is read; default {LOOKAHEAD:g}, or half a window."
    )
    flags.DEFINE_integer("median", 200, "Frames of the median filter on the probabilities; 0: none.")
    flags.DEFINE_float("silence_db", -60.0, "Frames with at most this power are silent, in dB relative to full scale.")
    flags.DEFINE_float("min_silence", 0.1, "Silences shorter than this many seconds are not marked.")


def options() -> Options:
    """Return what the flags say about decisions."""
    args = flags.FLAGS
    return Options(args.lookahead, args.median, args.silence_db, args.min_silence)


def main(argv: list[str]) -> int:
    """Segment the files or the stream. A file that cannot be read is reported on standard error; the status is then 1."""
    args, names = flags.FLAGS, argv[1:]
    chosen = [name for name in FORMATS if args[name].value]
    if len(chosen) > 1:
        raise UserError(f"--{chosen[0]} and --{chosen[1]} were both given: choose one of them")
    if not args.workdir:
        raise UserError("--workdir is needed: the workdir of a trained run, a file of save_pretrained, or hf://…")
    if args.stream:
        _check_stream(names, chosen)
        return stream(load(live=True), args.rate)
    if args.rate is not None or args.changes:
        raise UserError(f"{'--changes' if args.rate is None else f'--rate={args.rate}'} needs --stream")
    if not names:
        raise UserError("at least one audio file or folder is needed: python -m genre_jax.segment --workdir=DIR SHOW.mp3")
    files, failed = tag_inputs.all_audio_files(names)
    if args.audacity and len(files) > 1:
        raise UserError(f"--audacity prints the labels of one file, and {len(files)} were given: call it for each file")
    if not files:
        return 1
    return 1 if segment_files(load(), files, chosen[0] if chosen else "") or failed else 0


def load(live: bool = False) -> Network:
    """Return the network of the flags, and say which conditioning of its data is left out."""
    args = flags.FLAGS
    network = networks.load(args.workdir, live, args.hop, args.lookahead)
    if "log_mmse" in network.config.data.conditioning:
        console.note("note: the data of this run were conditioned by log_mmse, which needs a whole file: it is left out here")
    return network


def _check_stream(names: list[str], chosen: list[str]) -> None:
    args = flags.FLAGS
    if names or chosen:
        raise UserError(
            f"--stream reads standard input and prints CSV, and {names[0] if names else f'--{chosen[0]}'} was given"
        )
    low, high = audio.RATES
    if args.rate is not None and not low <= args.rate <= high:
        raise UserError(f"--rate must be {low} to {high} Hz, and was given {args.rate}")


def segment_files(network: Network, files: list[str], form: str) -> int:
    """Print the segments of each file in the format `form`, "" for text; return how many files failed."""
    failed = 0
    if form == "csv":
        say(timeline.CSV_HEADER)
    with console.silent_libraries(), tag_inputs.Progress(len(files), "segment") as progress:
        for name in files:
            try:
                seconds, segments = segment(network, tag_inputs.content(name), options(), progress.within)
            except (audio.AudioError, UserError) as error:
                progress.clear()
                console.complain(f"{name}: {error}")
                failed += 1
            else:
                progress.clear()
                say(FORMATS.get(form, timeline.as_text)(name, seconds, segments))
            progress.next()
    return failed


def segment(
    network: Network, source: str | bytes, how: Options, progress: Callable[[float, float | None], None] | None = None
) -> tuple[float, list[timeline.Segment]]:
    """Return the length in seconds and the segments of an audio file, or of its content.

    Memory does not grow with the length of the file. `progress` is called with the seconds that are done, and None. Raises
    `AudioError` or `UserError` if the file cannot be read or used.
    """
    slider, rate = Slider(network, how), network.sample_rate
    line = timeline.Timeline(network.labels, network.hop / rate)
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


def stream(network: Network, rate: int | None = None) -> int:
    """Print a row of CSV for each frame of the samples on standard input: time, decision, filtered probabilities."""
    slider, changes = Slider(network, options()), flags.FLAGS.changes
    rate = rate or network.sample_rate
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

    for block in audio.resample_blocks(_raw(rate), rate, network.sample_rate):
        show(slider.push(block))
    show(slider.finish())
    return 0


def _raw(rate: int) -> Iterator[np.ndarray]:
    """Yield the samples float32 (samples,) on standard input as they come. A last half sample is left out."""
    rest, size = b"", 2 * max(1, round(_READ_SECONDS * rate))
    while data := os.read(sys.stdin.fileno(), size):  # what is there by now
        data = rest + data
        whole = len(data) - len(data) % 2
        rest = data[whole:]
        yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768


if __name__ == "__main__":
    define_flags()
    console.run(main, tag_inputs.parse_flags)
