"""The JSON record of a benchmark: the flag `--json`, which all benchmarks share, and the file behind it."""

import os
import platform
from pathlib import Path
from typing import Any

from absl import flags

from genre_jax.atomic import write_json

JSON = flags.DEFINE_string("json", None, "Also write the results to this JSON file.")


def write_record(record: dict[str, Any]) -> None:
    """Write a benchmark's record to the file that `--json` names, and create its folder; without the flag write nothing."""
    if JSON.value:
        path = Path(JSON.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)


def machine() -> dict[str, Any]:
    """Return the cores, platform and Python version of this machine, without loading JAX."""
    return {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
