"""Say which class is heard when: `python -m genre_jax.segment --workdir=DIR FILE|FOLDER|-… [--json|--rttm|--csv|--audacity]`.

--workdir takes a trained run, a file of `genre_jax.save_pretrained`, or hf://…. A folder stands for all audio below it, and -
for an encoded file on standard input. Each frame of 10 ms gets the class with the largest probability after a median filter
over --median frames, or is "silence" if its power is low. Output: the segments, with times and mean probabilities.

    ffmpeg -i URL -f s16le -ac 1 -ar 16000 - | python -m genre_jax.segment --workdir=DIR --stream --rate=16000

reads samples without a header instead, 16-bit little-endian mono at --rate, and prints a row of CSV for each frame (--changes:
only where the decision changes) at most 2 s of audio later, with the default flags.

A file that cannot be read is one line on standard error; the others are segmented, and the exit status is 1. docs/segment.md
"""

import sys
from collections.abc import Callable

from absl import flags

from genre_jax import console, tag_inputs
from genre_jax.console import UserError, say
from genre_jax.prepare import audio
from genre_jax.segment import arguments, live, timeline
from genre_jax.segment.networks import Network
from genre_jax.segment.recording import segment

FORMATS: dict[str, Callable[[str, float, list[timeline.Segment]], str]] = {
    "json": timeline.as_json,
    "rttm": timeline.as_rttm,
    "csv": timeline.as_csv,
    "audacity": timeline.as_audacity,
}


def define_flags() -> None:
    """Define the flags of this command."""
    arguments.define_flags()
    flags.DEFINE_bool("json", False, "Print one JSON object per file.")
    flags.DEFINE_bool("rttm", False, "Print RTTM, a line per segment.")
    flags.DEFINE_bool("csv", False, "Print CSV, a row per segment: file, start, end, label, probability.")
    flags.DEFINE_bool("audacity", False, "Print the label track of one file for Audacity.")
    flags.DEFINE_bool("stream", False, "Read s16le mono samples from standard input, and print decisions at once.")
    flags.DEFINE_integer("rate", None, "Sample rate of --stream in Hz; default: that of the network.")
    flags.DEFINE_bool("changes", False, "With --stream: print only the frames where the decision changes.")


def main(argv: list[str]) -> int:
    """Segment the files or the stream. A file that cannot be read is reported on standard error; the status is then 1."""
    args, names = flags.FLAGS, argv[1:]
    chosen = [name for name in FORMATS if getattr(args, name)]
    if len(chosen) > 1:
        raise UserError(f"--{chosen[0]} and --{chosen[1]} were both given: choose one of them")
    if not args.workdir:
        raise UserError("--workdir is needed: the workdir of a trained run, a file of save_pretrained, or hf://…")
    if args.stream:
        _check_stream(names, chosen)
        network = arguments.load(live=True)
        live.follow(network, arguments.options(), sys.stdin.fileno(), args.rate or network.sample_rate, args.changes)
        return 0
    if args.rate is not None or args.changes:
        raise UserError(f"{'--changes' if args.rate is None else f'--rate={args.rate}'} needs --stream")
    if not names:
        raise UserError("at least one audio file or folder is needed: python -m genre_jax.segment --workdir=DIR SHOW.mp3")
    files, failed = tag_inputs.all_audio_files(names)
    if args.audacity and len(files) > 1:
        raise UserError(f"--audacity prints the labels of one file, and {len(files)} were given: call it for each file")
    if not files:
        return 1
    return 1 if segment_files(arguments.load(), files, chosen[0] if chosen else "") or failed else 0


def _check_stream(names: list[str], chosen: list[str]) -> None:
    """Raise `UserError` if an argument does not go with --stream."""
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
    failed, how = 0, arguments.options()
    if form == "csv":
        say(timeline.CSV_HEADER)
    with console.silent_libraries(), tag_inputs.Progress(len(files), "segment") as progress:
        for name in files:
            try:
                seconds, segments = segment(network, tag_inputs.content(name), how, progress.within)
            except (audio.AudioError, UserError) as error:
                progress.clear()
                console.complain(f"{name}: {error}")
                failed += 1
            else:
                progress.clear()
                say(FORMATS.get(form, timeline.as_text)(name, seconds, segments), keep="\n\t")
            progress.next()
    return failed


if __name__ == "__main__":
    define_flags()
    console.run(main, tag_inputs.parse_flags)
