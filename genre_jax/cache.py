"""The folder of what genre_jax fetches or compiles once and keeps: published weights and compiled programs."""

import hashlib
import os
import platform
import warnings
from pathlib import Path


def folder() -> Path:
    """The folder that the environment variable GENRE_JAX_CACHE names, by default ~/.cache/genre_jax. It may not exist yet."""
    return Path(os.environ.get("GENRE_JAX_CACHE") or "~/.cache/genre_jax").expanduser()


def processor() -> str:
    """A short name for this kind of CPU. A program that was compiled for another kind could crash."""
    info = Path("/proc/cpuinfo")
    features = (
        {line for line in info.read_text().splitlines() if line.startswith(("flags", "model name"))} if info.exists() else {}
    )
    machine = " ".join((platform.machine(), *sorted(features)))
    return hashlib.sha256(machine.encode()).hexdigest()[:12]


def keep_programs() -> None:
    """Let JAX keep compiled programs in the cache, in this process and its children. Call this before JAX is imported.

    JAX tells programs of different versions, options and accelerators apart. Its own environment variables win:
    JAX_ENABLE_COMPILATION_CACHE=false switches the cache off, and JAX_COMPILATION_CACHE_DIR chooses another folder. Nothing is
    kept if the folder cannot be written. An entry that is damaged, because a process was killed, is compiled again.
    """
    try:
        programs = folder() / "programs" / processor()
        programs.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home folder
        return
    if not os.access(programs, os.W_OK):
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(programs))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
