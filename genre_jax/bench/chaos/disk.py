"""Full disks, read-only folders, and two processes at once. It mounts small memory file systems, and therefore needs root."""

import contextlib
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from genre_jax.bench.chaos import kills, world
from genre_jax.console import UserError, say


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """Mount a memory file system of `size` bytes at `folder`. Raises `UserError` without the permission."""
    folder.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the part 'disk' mounts file systems, which needs root: {done.stderr.strip()}")


def _sentence(code: int, err: str) -> bool:
    """Whether a command failed with one sentence."""
    return code == 1 and err.count("error: ") == 1 and "Traceback" not in err


def full(folder: Path, sizes: list[int]) -> dict[str, int]:
    """Run on disks of so many kB, which are full at different writes; free space, resume, and compare the results."""
    world.write_tones(folder)
    whole = folder / "whole"
    kills.finished(folder, whole, "threads")
    expected, counts = world.outcome(whole), Counter[str]()
    for size in sizes:
        place = folder / "small"
        with mounted(place, f"{size}k"):
            code, _, err = world.finish(world.command(folder, place / "run"))
            counts["refused" if _sentence(code, err) else "finished" if code == 0 else "traceback"] += 1
            if code and not _sentence(code, err):
                say(f"disk of {size} kB: code {code}: {err[-1500:]}")
            _mount("-o", "remount,size=64m", str(place))
            kills.finished(folder, place / "run", "threads")
            counts["resumed and equal" if world.outcome(place / "run") == expected else "resumed and different"] += 1
    return dict(counts)


def read_only(folder: Path) -> dict[str, int]:
    """Run with each folder read-only: the workdir, its checkpoints, and the data."""
    data, counts = world.write_tones(folder / "data"), Counter[str]()
    work = folder / "work"
    for name in ("workdir", "data, no index", "data, index", "finished workdir"):
        place = data if name.startswith("data") else work
        if name == "finished workdir":
            kills.finished(folder / "data", work / "run", "threads")
        place.mkdir(exist_ok=True)
        _mount("--bind", str(place), str(place))
        _mount("-o", "remount,bind,ro", str(place))
        try:
            code, _, err = world.finish(world.command(folder / "data", (work / "run") if place == work else folder / name))
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
        counts[f"{name}: " + ("refused" if _sentence(code, err) else "finished" if code == 0 else "traceback")] += 1
        if code and not _sentence(code, err):
            say(f"read-only {name}: code {code}: {err[-1500:]}")
        if name == "data, no index":
            kills.finished(folder / "data", folder / "indexed", "threads")
    return dict(counts)


def twice(folder: Path, source: Path) -> dict[str, int]:
    """Start two runs in a workdir and two `prepare` of a data set: one of each ends with a sentence, the other one whole."""
    world.write_tones(folder)
    whole = folder / "whole"
    kills.finished(folder, whole, "threads")
    counts = Counter[str]()
    for name, command in (
        ("main", world.command(folder, folder / "twice")),
        ("prepare", kills.prepare_command(source, folder / "prepared")),
    ):
        processes = [world.start(command), world.start(command)]
        ends = [(process.communicate()[1], process.returncode) for process in processes]
        refused = [_sentence(code, err) for err, code in ends]
        counts[f"{name}: {sum(refused)} refused, {sum(code == 0 for _, code in ends)} finished"] += 1
    if world.outcome(folder / "twice") != world.outcome(whole):
        raise UserError("a run beside a second one in its workdir has another result")
    return dict(counts)


def sizes(workdir: Path, count: int) -> list[int]:
    """Sizes in kB of disks that a finished run like the one in `workdir` fills at different moments."""
    needed = sum(os.path.getsize(path) for path in workdir.rglob("*") if path.is_file()) // 1024
    return [max(16, needed * number // count) for number in range(1, count + 1)]
