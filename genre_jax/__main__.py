"""The command `genre-jax COMMAND [arguments]`: runs the module of a command. Without a command it lists all of them.

`python -m genre_jax COMMAND` does the same.
"""

import runpy
import sys

from genre_jax import __version__, console

COMMANDS = {  # name → its module, and what it does
    "prepare": ("genre_jax.prepare", "Make a data set from audio files, or check prepared data sets."),
    "main": ("genre_jax.main", "Train, evaluate and report."),
    "tag": ("genre_jax.tag", "Tag audio files, with published weights or a trained run."),
    "segment": ("genre_jax.segment", "Say which class is heard when, in recordings or in a live stream."),
    "explain": ("genre_jax.explain", "Hear which parts of a song the filters of a network keep, and what speaks for a class."),
    "similar": ("genre_jax.similar", "Find similar songs, and the recording that a clip is from, in an index of songs."),
    "report": ("genre_jax.report", "Write the report page of one or several runs."),
    "ensemble": ("genre_jax.ensemble", "Combine the predictions of several runs."),
    "open_set": ("genre_jax.open_set", "Measure how well a run tells songs of its genres from other songs."),
    "export": ("genre_jax.export", "Write a trained network into a file for ONNX, LiteRT or StableHLO, or into a page."),
    "bench": ("genre_jax.bench", "Run a benchmark."),
}


def main() -> None:
    """Run the command that the first argument names. It starts as `python -m MODULE` does, and sets the exit code itself."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else "--help"
    if name == "--help":
        console.say(usage())
    elif name == "--version":
        console.say(f"genre_jax {__version__}")
    elif name in COMMANDS:
        runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    else:
        console.fail(console.unknown("command", name, COMMANDS))


def usage() -> str:
    """Returns the list of commands, with a line for each."""
    lines = [f"  {name:<10}{line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(["usage: genre-jax COMMAND [arguments]", *lines, "genre-jax COMMAND --help explains a command."])


if __name__ == "__main__":
    main()
