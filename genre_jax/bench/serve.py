"""The other side of `contestants.Side`: `python -m genre_jax.bench.serve MODULE` answers each line it reads with one line.

MODULE offers `build(*words) -> {label: contestant}` and `versions() -> {package: version}`. This file needs nothing but
Python, so that the interpreter of the peers needs no more than the peers do.
"""

import importlib
import json
import os
import sys
import traceback
from typing import Any


def answer(module: str, contestants: dict[str, Any], what: str, *words: Any) -> Any:
    """What `module` or a contestant says to one question: ("build", …), ("versions",) or (method, label, …)."""
    if what == "versions":
        return importlib.import_module(module).versions()
    if what == "build":
        built = importlib.import_module(module).build(*words)
        contestants |= built
        return list(built)
    label, *rest = words
    return getattr(contestants[label], what)(*rest)


def _sentence(error: Exception) -> str:
    """What went wrong; users' errors speak for themselves, of others the line of the program is told."""
    if type(error).__name__ == "UserError":
        return str(error)
    at = traceback.extract_tb(error.__traceback__)[-1]
    text = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {text} ({os.path.basename(at.filename)}:{at.lineno})"


def main(module: str) -> None:
    """Serve until the other side closes."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error, not between the answers
    contestants: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            reply = {"answer": answer(module, contestants, *json.loads(line))}
        except Exception as error:
            reply = {"error": _sentence(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main(sys.argv[1])
