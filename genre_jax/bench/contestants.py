"""What `bench frontends` times: a call in this process, or one in another interpreter that is asked over a pipe.

`python -m genre_jax.bench.contestants` is that other side: it answers the lines that `Remote` writes with one line each.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax.bench import frontend_peers
from genre_jax.bench.frontend_cases import CASES, signal
from genre_jax.console import UserError, say
from genre_jax.logbook import versions


class Local:
    """A call in this process."""

    def __init__(self, call: Callable[[], Any]):
        self.call = call

    def seconds(self) -> float:
        """Time of a second call after a first: its own threads and cache by then, not another's."""
        self.call()
        started = time.perf_counter()
        self.call()
        return time.perf_counter() - started

    def output(self) -> np.ndarray:
        """The result as this library has it, frames before bins."""
        return frontend_peers.output(self.call())

    def peak_mb(self) -> float | None:
        """Most resident memory that one call adds, its output included; None where Linux's /proc cannot tell."""
        try:
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            before = _status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back
            self.call()
            return (_status("VmHWM") - before) / 1e3
        except OSError:
            return None


class Ours(Local):
    """A call of this library's, whose result needs no turning."""

    def output(self) -> np.ndarray:
        return np.asarray(self.call())


class Remote:
    """A peer in another interpreter."""

    def __init__(self, peers: "Peers", label: str):
        self.peers, self.label = peers, label

    def seconds(self) -> float:
        return self.peers.ask("seconds", self.label)

    def peak_mb(self) -> float | None:
        return self.peers.ask("peak_mb", self.label)

    def output(self) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "output.npy")
            self.peers.ask("output", self.label, str(path))
            return np.load(path)


class Peers:
    """The peers of this interpreter, or of `python` where it is given."""

    def __init__(self, python: str | None):
        self.process = None
        if python:
            try:
                self.process = subprocess.Popen(
                    [python, "-W", "ignore", "-m", "genre_jax.bench.contestants"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
                )  # fmt: skip
            except OSError as error:
                raise UserError(
                    f"--peer_python must be an interpreter that starts, and was given {python!r}: {error}"
                ) from error

    def ask(self, *words: Any) -> Any:
        """The other side's answer to one question."""
        assert self.process and self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise UserError(f"the peers' interpreter ended on {words[0]!r}; what it said stands above")
        return json.loads(answer)

    def build(self, name: str, seconds: float) -> dict[str, Local | Remote]:
        """Library → contestant for a case."""
        if self.process:
            return {label: Remote(self, label) for label in self.ask("build", name, seconds)}
        return {label: Local(call) for label, call in frontend_peers.build(name, CASES[name], signal(name, seconds)).items()}

    def versions(self) -> dict[str, str]:
        """Package → version."""
        return self.ask("versions") if self.process else versions(frontend_peers.PACKAGES)

    def close(self) -> None:
        """End the other interpreter."""
        if self.process:
            self.process.communicate()


def _status(key: str) -> float:
    """A line of /proc/self/status, in kB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return float(line.split()[1])


def serve() -> None:
    """Answer questions until the other side closes."""
    here = Peers(None)
    contestants: dict[str, Any] = {}
    for line in sys.stdin:
        what, *words = json.loads(line)
        answer: Any = None
        if what == "versions":
            answer = here.versions()
        elif what == "build":
            contestants = here.build(*words)
            answer = list(contestants)
        elif what == "output":
            np.save(words[1], contestants[words[0]].output())
        else:
            answer = getattr(contestants[words[0]], what)()
        say(json.dumps(answer))


if __name__ == "__main__":
    serve()
