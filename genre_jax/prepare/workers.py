"""Decode items to 16-bit clips in worker processes, so that a bad file costs one clip only.

A bad file may crash its worker, hang, or use too much memory. Each worker process is served by a thread that waits on a
pipe to it, and the thread replaces a worker that dies or hangs. Workers are spawned, and import neither TensorFlow nor
JAX. Results come in the order of the items; at most `_AHEAD` results per worker are held in memory.
"""

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import math
import multiprocessing
import os
import queue
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np

from genre_jax import checksum
from genre_jax.console import UserError, printable
from genre_jax.datasets.types import Item, Render
from genre_jax.prepare import condition, silence
from genre_jax.prepare.audio import AudioError, explained, to_pcm

SHORTEST = 0.1  # seconds; a shorter clip is quarantined
_AHEAD = 8  # clips per worker that may be in progress or waiting to be written
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the passport records of a clip: the format of its file, and the levels in [0, 1] of the 16-bit result."""

    sha256: str  # of the file, or of the 16-bit samples if the clip is in a container or was synthesised
    codec: str
    rate: int
    channels: int
    seconds: float
    maximum: float
    peak: float
    rms: float
    scaled: bool  # the peak exceeded 1.0, and the clip was scaled down
    warning: str = ""  # a sentence about a file that is used, but may have lost its end


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A clip that is ready to be written: mono int16 `pcm` (samples,), its class names and its facts."""

    pcm: np.ndarray
    labels: tuple[str, ...]
    facts: Facts


Result = Rendered | str  # a string is the reason why the clip is quarantined
Renderer = Callable[[Iterable[Item]], Iterator[tuple[Item, Result]]]


def render_clip(render: Callable[[Item, int], Render], item: Item, sample_rate: int, steps: Sequence[str] = ()) -> Rendered:
    """Decode one clip, condition it by the `steps` of `condition.STEPS`, and convert it to 16 bits.

    Raises `AudioError` with the reason if the clip cannot be used.
    """
    made = render(item, sample_rate)
    audio, samples = made.audio, made.audio.samples
    _check_length(samples, sample_rate)
    loudest = _peak(samples)
    if not math.isfinite(loudest):
        raise AudioError("the file holds samples that are not finite (NaN or infinity)")
    fault = silence.fault(loudest, None if item.member else item.path, item.start, item.duration)
    if fault:
        raise AudioError(fault)
    if steps:
        samples = condition.apply(steps, samples, sample_rate)
        _check_length(samples, sample_rate, f" after {', '.join(steps)}")
        loudest = _peak(samples)
    pcm = to_pcm(samples, loudest)
    facts = Facts(
        sha256=_file_sha256(item.path) if item.path and not item.member else hashlib.sha256(pcm.tobytes()).hexdigest(),
        codec=audio.format.codec,
        rate=audio.format.rate,
        channels=audio.format.channels,
        seconds=round(len(samples) / sample_rate, 4),
        maximum=int(pcm.max()) / 32768,
        peak=max(int(pcm.max()), -int(pcm.min())) / 32768,
        rms=float(np.sqrt(np.mean(np.square(pcm, dtype=np.float32), dtype=np.float64))) / 32768,
        scaled=loudest > 1.0,
        warning=audio.format.warning,
    )
    return Rendered(pcm, item.labels if made.labels is None else made.labels, facts)


def _check_length(samples: np.ndarray, sample_rate: int, after: str = "") -> None:
    """Raise `AudioError` if a clip is too short; `after` says what shortened it."""
    if not len(samples):
        raise AudioError("empty: the file holds no samples")
    if len(samples) / sample_rate < SHORTEST:
        raise AudioError(f"too short{after}: {len(samples) / sample_rate:.3f} s, the minimum is {SHORTEST} s")


def _peak(samples: np.ndarray) -> float:
    """Returns the largest magnitude. Makes no copy, because the clip may be hours long."""
    return float(max(samples.max(), -samples.min()))


_file_sha256 = functools.lru_cache(maxsize=16)(checksum.of_file)  # many clips may be cut from one long file


# ---------------------------------------------------------------- worker processes


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one clip: `timeout` in seconds, and `memory_gb` of its worker process in GiB."""

    timeout: float = 60.0
    memory_gb: float = 4.0


@contextlib.contextmanager
def renderer(
    render: Callable[[Item, int], Render], sample_rate: int, workers: int, limits: Limits, steps: Sequence[str] = ()
) -> Iterator[Renderer]:
    """Yield a function from items to (item, result) in the same order. The `workers` processes end with the block.

    The other arguments are those of `render_clip`.
    """
    pool = [_Worker(render, sample_rate, limits, tuple(steps)) for _ in range(workers)]
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in pool:
        idle.put(worker)

    def result(item: Item) -> Result:
        worker = idle.get()
        try:
            return worker.result(item)
        finally:
            idle.put(worker)

    def rendered(items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            waiting.append((item, threads.submit(result, item)))
            if len(waiting) >= _AHEAD * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()

    # Otherwise BLAS reserves memory for one thread per core, which decoding does not use.
    with _environment("OPENBLAS_NUM_THREADS", "1"), ThreadPoolExecutor(workers) as threads:
        try:
            yield rendered
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in pool:
                worker.kill()
            threads.shutdown()
            for worker in pool:
                worker.end()


class _Worker:
    """One process with a pipe of its own. The parent notices its death at once, and no lock or queue is left locked."""

    def __init__(self, render: Callable[[Item, int], Render], sample_rate: int, limits: Limits, steps: tuple[str, ...]) -> None:
        self._job = (render, sample_rate, limits, steps)
        self._process: BaseProcess | None = None

    def result(self, item: Item) -> Result:
        """Render one clip. A process that dies or exceeds the time limit is replaced when the next clip comes."""
        if self._process is None:
            self._start()
        timeout = self._job[2].timeout
        try:
            self._pipe.send(item)
            if self._pipe.poll(timeout):
                return self._pipe.recv()
        except (EOFError, OSError):
            return f"the decoder crashed (exit code {self.end()})"
        self.kill()
        self.end()
        return f"time limit: the file was not decoded within {timeout:g} s"

    def kill(self) -> None:
        """Kill the process, if it runs, without waiting for its end."""
        if process := self._process:
            process.kill()

    def end(self) -> int | None:
        """Wait until the process has ended, and return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        self._pipe.close()
        process.join()
        return process.exitcode

    def _start(self) -> None:
        """Start the process and wait until it is ready."""
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_pipe, *self._job), daemon=True)
        self._process.start()
        child_pipe.close()
        try:
            self._pipe.recv()  # wait for the imports, because the time limit is for the clip alone
        except EOFError:
            raise UserError(
                f"a decoding process could not start (exit code {self.end()}): check that --memory_gb is high enough, and that "
                "the machine has memory left for all --workers"
            ) from None


def _serve(
    pipe: Connection, render: Callable[[Item, int], Render], sample_rate: int, limits: Limits, steps: tuple[str, ...]
) -> None:
    """The main function of a worker process: render the items that arrive, until the pipe closes."""
    _limit_process(int(limits.memory_gb * 2**30))
    pipe.send("ready")
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            item = pipe.recv()
            try:
                try:
                    with explained():  # any error of a decoder costs one clip only
                        result: Result = render_clip(render, item, sample_rate, steps)
                except AudioError as error:
                    result = printable(str(error))
                pipe.send(result)
            except MemoryError:
                pipe.send(f"memory limit: decoding needs more than {limits.memory_gb:g} GiB")


def _limit_process(memory: int) -> None:
    """Limit the memory of this process, end it when its parent ends, ignore Ctrl-C, and silence C libraries."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    if sys.platform == "linux":  # macOS does not support these calls
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable while the block runs."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def cores() -> int:
    """Returns the number of cores that this process may use (Linux), or of all cores on other systems."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
