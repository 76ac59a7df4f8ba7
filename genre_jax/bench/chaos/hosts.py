"""Kill one of two processes of a run at random moments, start the run again, and compare with an undisturbed run."""

import os
import random
import subprocess
import time
from collections import Counter
from pathlib import Path

from genre_jax import hosts
from genre_jax.bench.chaos import world
from genre_jax.bench.chaos.kills import KILLS_OF_A_RUN, moments
from genre_jax.console import UserError, say

HOSTS, DEVICES = 2, 2
PATIENCE = 60.0  # seconds within which the other process must end
MOMENTS = ("start", "training", "training", "checkpoint", "after the last checkpoint", "results")


def run(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill `kills` processes; return {outcome: count}. Raises `UserError` for a run that is not equal to an undisturbed one."""
    world.write_tones(folder)
    chance, counts, number = random.Random(seed), Counter[str](), 0
    whole = folder / "whole"
    _finish(folder, whole)
    expected = world.outcome(whole)
    while sum(counts.values()) < kills:
        number += 1
        workdir = folder / f"run-{number}"
        for _ in range(KILLS_OF_A_RUN):
            moment, victim = chance.choice(MOMENTS), chance.randrange(HOSTS)
            team = _start(folder, workdir)
            if not _kill(team, victim, moments(workdir, chance)[moment]):
                break  # it finished before the moment came
            seconds = _end_of_others(team)
            counts[f"process {victim} killed at {moment}, then equal"] += 1
            say(f"hosts: process {victim} killed at {moment}, the other one ended after {seconds:.0f} s")
            if sum(counts.values()) == kills:
                break
        _finish(folder, workdir)
        world.check_equal(workdir, expected)
        say(f"hosts: {sum(counts.values())} of {kills} kills; run {number} is equal")
    return dict(counts)


def _start(folder: Path, workdir: Path) -> list[subprocess.Popen]:
    """Start the processes of the small run."""
    where = [f"--coordinator=127.0.0.1:{hosts.free_port()}", f"--processes={HOSTS}", "--start_timeout=30"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(DEVICES)}
    command = world.command(folder, workdir, evaluate__batch_size=HOSTS * DEVICES)
    return [world.start([*command, *where, f"--process_id={host}"], env=environment) for host in range(HOSTS)]


def _kill(team: list[subprocess.Popen], victim: int, due) -> bool:
    """Send SIGKILL to a process as soon as `due()`; return whether the run was still going on."""
    while not due():
        if any(process.poll() is not None for process in team):
            for process in team:
                if process.wait():
                    raise UserError(f"a process of the run failed: {process.communicate()[1][-1000:]}")
            return False
        time.sleep(0.001)
    alive = team[victim].poll() is None
    team[victim].kill()
    return alive


def _end_of_others(team: list[subprocess.Popen]) -> float:
    """Wait for the end of all processes, and return how many seconds it took. Raises `UserError` after `PATIENCE`."""
    started = time.monotonic()
    for process in team:
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            for each in team:
                each.kill()
            raise UserError(f"a process still ran {PATIENCE:g} s after another one was killed") from error
    return time.monotonic() - started


def _finish(folder: Path, workdir: Path) -> None:
    """Run to the end. Raises `UserError` if a process fails."""
    team = _start(folder, workdir)
    for process in team:
        _, err = process.communicate()
        if process.returncode:
            raise UserError(f"the run in {workdir} ended with code {process.returncode}: {err[-1000:]}")
