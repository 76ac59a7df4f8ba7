"""What the benchmarks time: calls in this process, or contestants in another interpreter that are asked over a pipe."""

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
    """A call in this process; `turn` makes of its result what is compared: an array, frames before bins."""

    def __init__(self, call: Callable[[], Any], turn: Callable[[Any], np.ndarray] = np.asarray):
        self.call, self.turn = call, turn

    def seconds(self) -> float:
        """Time of a second call after a first: its own threads and cache by then, not another's."""
        self.call()
        started = time.perf_counter()
        self.call()
        return time.perf_counter() - started

    def output(self) -> np.ndarray:
        return self.turn(self.call())

    def save(self, path: str) -> None:
        """Write the output where another process reads it."""
        np.save(path, self.output())

    def peak_mb(self) -> float | None:
        """Most resident memory that one call adds, its output included; None where Linux's /proc cannot tell."""
        try:
            before = resident.reset_peak()
            self.call()
            return (resident.peak() - before) / 1e6
        except OSError:
            return None


class Remote:
    """A contestant in another interpreter, which has the methods that are asked for."""

    def __init__(self, side: "Side", label: str):
        self.side, self.label = side, label

    def ask(self, method: str, *words: Any) -> Any:
        """The answer of one of its methods; words and answer are JSON."""
        return self.side.ask(method, self.label, *words)

    def seconds(self, *words: Any) -> float:
        return self.ask("seconds", *words)

    def peak_mb(self) -> float | None:
        return self.ask("peak_mb")

    def output(self) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "output.npy")
            self.ask("save", str(path))
            return np.load(path)


class Side:
    """The contestants of a module with `build` and `versions` (`serve.py`): here, or in the interpreter `python`.

    Args:
      flag: the flag that `python` came from.
      environment: variables for the other interpreter beside this process's own.

    Its questions raise `UserError` with what the other side says when it fails.
    """

    def __init__(self, module: str, python: str | None, flag: str = "--peer_python", environment: dict[str, str] | None = None):
        self.module, self.process = module, None
        if python:
            here, known = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")
            paths = {"PYTHONPATH": os.pathsep.join([here, known] if known else [here])}
            try:
                self.process = subprocess.Popen(
                    [python, "-W", "ignore", "-m", "genre_jax.bench.serve", module],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | paths | (environment or {}),
                )  # fmt: skip
            except OSError as error:
                raise UserError(f"{flag} must be an interpreter that starts, and was given {python!r}: {error}") from error

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, *words: Any) -> Any:
        """The other side's answer to one question."""
        assert self.process and self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(words) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended before; there is nothing to read either
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"the other interpreter ended on {words[0]!r}; what it said stands above")
        reply = json.loads(line)
        if "error" in reply:
            raise UserError(reply["error"])
        return reply["answer"]

    def build(self, *words: Any) -> dict[str, Any]:
        """Label → contestant, as the module's `build(*words)` has them."""
        if self.process:
            return {label: Remote(self, label) for label in self.ask("build", *words)}
        return importlib.import_module(self.module).build(*words)

    def versions(self) -> dict[str, str]:
        """Package → version."""
        return self.ask("versions") if self.process else importlib.import_module(self.module).versions()

    def close(self) -> None:
        """End the other interpreter."""
        if self.process:
            self.process.communicate()
