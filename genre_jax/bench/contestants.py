"""Contestants, the programs that a benchmark compares: calls in this process, or objects in another interpreter.

The other interpreter runs `serve.py` and answers over a pipe.
"""

import importlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax.bench import resident
from genre_jax.console import UserError


class Local:
    """A contestant in this process.

    Args:
      call: the function that is timed.
      convert: converts the result of `call` to the array that is compared (frames before bins).
    """

    def __init__(self, call: Callable[[], Any], convert: Callable[[Any], np.ndarray] = np.asarray):
        self.call, self.convert = call, convert

    def seconds(self) -> float:
        """Return the time of the second of two calls; the first one warms up threads and caches."""
        self.call()
        started = time.perf_counter()
        self.call()
        return time.perf_counter() - started

    def output(self) -> np.ndarray:
        return self.convert(self.call())

    def save(self, path: str) -> None:
        """Write the output to a file for another process."""
        np.save(path, self.output())

    def peak_mb(self) -> float | None:
        """Return the peak resident memory in MB that one call adds, including its output; None without Linux's /proc."""
        try:
            before = resident.reset_peak()
            self.call()
            return (resident.peak() - before) / 1e6
        except OSError:
            return None


class Remote:
    """A contestant in another interpreter, whose methods are called through its `Side`."""

    def __init__(self, side: "Side", label: str):
        self.side, self.label = side, label

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the contestant; arguments and answer must be JSON."""
        return self.side.ask(method, self.label, *arguments)

    def seconds(self) -> float:
        return self.ask("seconds")

    def peak_mb(self) -> float | None:
        return self.ask("peak_mb")

    def output(self) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "output.npy")
            self.ask("save", str(path))
            return np.load(path)


class Side:
    """The contestants of one module, in this process or in another interpreter.

    Args:
      module: dotted name of a module with the functions `build` and `versions` (see `serve.py`).
      python: the other interpreter; None or "" means this process.
      flag: the flag that sets `python`, for the error message.
      environment: environment variables for the other interpreter, in addition to those of this process.

    Methods raise `UserError` with the other side's message if a request fails there.
    """

    def __init__(self, module: str, python: str | None, flag: str = "--peer_python", environment: dict[str, str] | None = None):
        self.module, self.process = module, None
        if python:
            root, inherited = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")
            paths = {"PYTHONPATH": os.pathsep.join([root, inherited] if inherited else [root])}
            try:
                self.process = subprocess.Popen(
                    [python, "-W", "ignore", "-m", "genre_jax.bench.serve", module],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | paths | (environment or {}),
                )  # fmt: skip
            except OSError as error:
                raise UserError(f"{flag} must be a Python interpreter, but {python!r} does not start: {error}") from error

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, *request: Any) -> Any:
        """Send one request to the other side and return its answer; see `serve.answer` for the requests."""
        assert self.process and self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the other side has ended; the read below finds no line
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"the other interpreter ended during {request[0]!r}; its output is above")
        reply = json.loads(line)
        if "error" in reply:
            raise UserError(reply["error"])
        return reply["answer"]

    def build(self, *arguments: Any) -> dict[str, Any]:
        """Return label → contestant from the module's `build(*arguments)`."""
        if self.process:
            return {label: Remote(self, label) for label in self.ask("build", *arguments)}
        return importlib.import_module(self.module).build(*arguments)

    def versions(self) -> dict[str, str]:
        """Return package → version, from the module's `versions()`."""
        return self.ask("versions") if self.process else importlib.import_module(self.module).versions()

    def close(self) -> None:
        """End the other interpreter."""
        if self.process:
            self.process.communicate()
