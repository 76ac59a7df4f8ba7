"""What the launchers of several runs share: start `genre_jax.main` in a workdir, pass its lines on, and read what it wrote.

A run is a child process in a process group of its own: Ctrl-C reaches the launcher alone, which sends one signal to the child,
because a second signal would end the run without saving its state.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from genre_jax.atomic import read_json
from genre_jax.console import UserError, complain, say
from genre_jax.logbook import read_lines

MAIN = (sys.executable, "-m", "genre_jax.main")


def command(config: str, overrides: Mapping[str, str], workdir: Path) -> list[str]:
    """The arguments of `genre_jax.main` for a run. `overrides` are {"train.batch_size": "8"}, in their order."""
    keys = [f"--config.{key}={value}" for key, value in overrides.items()]
    return [f"--config={config}", *keys, f"--workdir={workdir}"]


def run(arguments: list[str], name: str, at_line: Callable[[subprocess.Popen], None] | None = None) -> int:
    """Run `genre_jax.main`, print its lines with the prefix "[name]", and return its exit code; -N if signal N killed it.

    Args:
      arguments: the arguments of the command.
      name: the prefix of its lines.
      at_line: is called with the process after each line.

    SIGINT and SIGTERM of this process are passed on to the run. The function waits until the run has saved its state and ended,
    and raises KeyboardInterrupt or `console.Terminated`; a second signal is passed on as well, and ends the run at once.
    """
    process = subprocess.Popen(
        [*MAIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="backslashreplace",
        env=os.environ | {"PYTHONUNBUFFERED": "1"}, process_group=0,
    )  # fmt: skip
    with process:  # closes the pipe
        try:
            for line in _lines(process):
                say(f"[{name}] {line}")
                if at_line:
                    at_line(process)
            return process.wait()
        except BaseException as error:
            _end(process, name, signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
            raise


def _lines(process: subprocess.Popen) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.rstrip("\n")


def _end(process: subprocess.Popen, name: str, number: signal.Signals) -> None:
    """Send a signal to a run, and print its last lines until it has ended."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    while True:
        try:
            for line in _lines(process):
                say(f"[{name}] {line}")
            process.wait()
            return
        except KeyboardInterrupt:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)


def validations(workdir: Path) -> list[dict[str, Any]]:
    """The validation lines of a run, in the order of steps."""
    return [line for line in read_lines(workdir / "metrics.jsonl") if line.get("split") == "validation"]


def scores(workdir: Path) -> dict[str, float | None]:
    """The loss and all scores in the results.json of a run: {"track/max_logit/accuracy": 0.9, …}; None for an undefined score.

    The scores of single classes are left out.
    """
    results = read_json(workdir / "results.json", dict)
    found: dict[str, float | None] = {}

    def collect(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key != "classes":
                    collect(f"{path}/{key}" if path else key, inner)
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[path] = value

    collect("", {key: results[key] for key in ("loss", "raw", "clip", "track", "train") if key in results})
    return found


def report(workdirs: list[Path], target: Path) -> None:
    """Write the report page over several runs, if the packages that it needs are installed."""
    from genre_jax.report.page import write_report

    try:
        say(f"report: {write_report(workdirs, target)}")
    except UserError as error:
        complain(f"no report: {error}")


def exit_sentence(name: str, code: int) -> str:
    """What to say of a run that ended with a code other than 0."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"run {name} {how} (its lines above say why)"
