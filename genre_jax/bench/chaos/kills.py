"""End the small run and `prepare` by signals at random moments, start them again, and compare with an undisturbed run."""

import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from genre_jax.bench.chaos import world
from genre_jax.console import UserError, say
from genre_jax.data import locate

KILLS_OF_A_RUN = 5  # after so many kills a run is left alone, compared, and a new one begins


def moments(workdir: Path, chance: random.Random) -> dict[str, Callable[[], bool]]:
    """Moment → whether it has come."""
    first = time.monotonic() + chance.uniform(0.1, 6)
    lines = _lines(workdir) + chance.randint(1, 5)
    return {
        "start": lambda: time.monotonic() > first,
        "training": lambda: _lines(workdir) >= lines,
        "checkpoint": lambda: any("tmp" in path.name for path in (workdir / "checkpoints").glob("*")),
        "after the last checkpoint": lambda: (workdir / "checkpoints" / str(world.STEPS)).exists(),
        "results": lambda: bool([*workdir.glob(".*.partial"), *workdir.glob("predictions.npz")]),
    }


def _lines(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def run(folder: Path, kills: int, seed: int) -> dict[str, dict[str, int]]:
    """Kill runs `kills` times, half of them with each reader; return {reader: {outcome: count}}."""
    world.write_tones(folder)
    chance, found = random.Random(seed), {}
    for reader in world.READERS:
        whole = folder / f"whole-{reader}"
        finished(folder, whole, reader)
        expected, done, number = world.outcome(whole), 0, 0
        counts = found[reader] = Counter[str]()
        while done < kills // 2:
            number += 1
            workdir = folder / f"{reader}-{number}"
            for _ in range(min(KILLS_OF_A_RUN, kills // 2 - done)):
                moment = chance.choice(["start", "training", "training", "checkpoint", "after the last checkpoint", "results"])
                process = world.start(world.command(folder, workdir, reader))
                if _kill(process, moments(workdir, chance)[moment], chance):
                    counts[f"killed at {moment}, then equal"] += 1
                    done += 1
                elif process.returncode:
                    raise UserError(f"the run in {workdir} failed: {process.communicate()[1][-1000:]}")
                else:
                    break  # it was finished before the moment came
            finished(folder, workdir, reader)
            world.check_equal(workdir, expected)
            say(f"kills, {reader}: {done} of {kills // 2}; run {number} is equal")
    return {reader: dict(counts) for reader, counts in found.items()}


def _kill(process: subprocess.Popen, due: Callable[[], bool], chance: random.Random) -> bool:
    """Send SIGKILL shortly after `due()`; return whether the process was still running."""
    while process.poll() is None and not due():
        time.sleep(0.001)
    time.sleep(chance.random() * 0.03)
    if process.poll() is not None:
        return False
    process.kill()
    process.communicate()
    return True


def finished(folder: Path, workdir: Path, reader: str) -> None:
    """Run to the end in `workdir`. Raises `UserError` if the run fails."""
    code, _, err = world.finish(world.command(folder, workdir, reader))
    if code:
        raise UserError(f"the run in {workdir} ended with code {code}: {err[-1000:]}")


def run_prepare(folder: Path, source: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill `prepare` of the files in `source` at random moments. Raises `UserError` if its shards differ in the end."""
    chance, counts = random.Random(seed), Counter[str]()
    started = time.monotonic()
    code, _, err = world.finish(prepare_command(source, folder / "whole"))
    duration = time.monotonic() - started
    if code:
        raise UserError(f"prepare failed: {err[-1000:]}")
    expected, number = _content(folder / "whole"), 0
    while counts["killed, then equal"] < kills:
        number += 1
        target = folder / f"killed-{number}"
        for _ in range(3):
            process = world.start(prepare_command(source, target))
            time.sleep(chance.uniform(0, 1.1 * duration))
            if process.poll() is None:
                process.kill()
                counts["killed, then equal"] += 1
            process.communicate()
        code, _, err = world.finish(prepare_command(source, target))
        if code or _content(target) != expected:
            raise UserError(f"a killed prepare in {target} differs from a whole one ({err[-500:]})")
        if stray := [path.name for path in target.iterdir() if path.name != "songs"]:
            raise UserError(f"stray files in {target}: {', '.join(stray)}")
    return dict(counts)


def prepare_command(source: Path, data_dir: Path) -> list[str]:
    """The command that prepares the files in `source` as the data set "songs"."""
    command = [world.sys.executable, "-m", "genre_jax.prepare", f"--source={source}", "--name=songs", f"--data_dir={data_dir}"]
    return [*command, f"--sample_rate={world.RATE}", "--workers=2"]


def _content(data_dir: Path) -> dict[str, bytes]:
    folder = locate.directory(data_dir, "songs", world.RATE)
    return {path.name: path.read_bytes() for path in folder.iterdir() if "tfrecord" in path.name or path.suffix == ".csv"}


def signals(folder: Path, count: int, seed: int) -> dict[str, int]:
    """End runs by SIGTERM and SIGINT at random moments; resume, and compare the results."""
    world.write_tones(folder)
    whole = folder / "whole"
    finished(folder, whole, "threads")
    expected, counts, chance = world.outcome(whole), Counter[str](), random.Random(seed)
    for number in range(count):
        workdir = folder / f"signal-{number}"
        kind = chance.choice([signal.SIGTERM, signal.SIGINT])
        # A benchmark in the background ignores SIGINT, and its children would as well.
        process = world.start(world.command(folder, workdir), preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        due = moments(workdir, chance)["training"]
        while process.poll() is None and not due():
            time.sleep(0.001)
        sent = time.monotonic()
        process.send_signal(kind)
        _, err = process.communicate()
        ended = time.monotonic() - sent
        good = process.returncode == 128 + kind and "Traceback" not in err and ended < 30
        counts[f"{kind.name}: {'saved' if good else f'code {process.returncode}'}"] += 1
        finished(folder, workdir, "threads")
        counts["resumed and equal" if world.outcome(workdir) == expected else "resumed and different"] += 1
        shutil.rmtree(workdir)
    return dict(counts)
