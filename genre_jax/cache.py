"""The folder of what genre_jax fetches or compiles once and keeps: published weights and compiled programs."""

import os
from pathlib import Path


def folder() -> Path:
    """The folder that the environment variable GENRE_JAX_CACHE names, by default ~/.cache/genre_jax. It may not exist yet."""
    return Path(os.environ.get("GENRE_JAX_CACHE") or "~/.cache/genre_jax").expanduser()
