"""The server behind `contestants.Side`: `python -m genre_jax.bench.serve MODULE` answers each line of input with one line.

MODULE defines `build(*arguments) -> {label: contestant}` and `versions() -> {package: version}`. This file uses only the
standard library, so that the peers' interpreter needs no other packages than the peers need.
"""

import importlib
import json
import os
import sys
import traceback
from typing import Any


def answer(module: str, contestants: dict[str, Any], request: str, *arguments: Any) -> Any:
    """Return the answer to one request: ("build", …) or ("versions",) of `module`, or (method, label, …) of a contestant."""
    if request == "versions":
        return importlib.import_module(module).versions()
    if request == "build":
        built = importlib.import_module(module).build(*arguments)
        contestants |= built
        return list(built)
    label, *rest = arguments
    return getattr(contestants[label], request)(*rest)


def _sentence(error: Exception) -> str:
    """Return the message of an error; unless it is a `UserError`, add its type and the source line."""
    if type(error).__name__ == "UserError":
        return str(error)
    at = traceback.extract_tb(error.__traceback__)[-1]
    text = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {text} ({os.path.basename(at.filename)}:{at.lineno})"


def main(module: str) -> None:
    """Answer requests until the other side closes the pipe."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # prints of libraries go to standard error, not between the answers
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
