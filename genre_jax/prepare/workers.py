"""From items to 16-bit clips, in worker processes that a bad file can crash, hang or fill without harm to the rest.

Workers are spawned and import neither TensorFlow nor JAX. Each is served by a thread that waits on its pipe, so that a
worker that dies or hangs is replaced. Results come in the order of the items, at most `_AHEAD` a worker are held.
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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np

from genre_jax.datasets.types import Item, Render
from genre_jax.prepare.audio import AudioError, to_pcm

SHORTEST = 0.1  # seconds; a shorter clip is quarantined
SILENT = 1e-4  # -80 dB below full scale; a clip that never gets above is quarantined
_AHEAD = 8  # clips per worker that may be under way or waiting to be written
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the passport tells of a clip: the file as it came, and the levels of the 16-bit result in [0, 1]."""

    sha256: str  # of the file, or of the samples where the clip is no file of its own
    codec: str
    rate: int
    channels: int
    seconds: float
    maximum: float
    peak: float
    rms: float
    scaled: bool  # peaks went over 1.0 and were scaled to fit


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A clip ready to be written: mono int16 (samples,), its class names, its facts."""

    pcm: np.ndarray
    labels: tuple[str, ...]
    facts: Facts


Result = Rendered | str  # or the reason why the clip goes to quarantine
Renderer = Callable[[Iterable[Item]], Iterator[tuple[Item, Result]]]


def render_clip(render: Callable[[Item, int], Render], item: Item, sample_rate: int) -> Rendered:
    """Decode and convert one clip. Raises `AudioError` with the reason where it is no use."""
    made = render(item, sample_rate)
    audio = made.audio
    seconds = len(audio.samples) / sample_rate
    if not len(audio.samples):
        raise AudioError("empty: the file holds no samples")
    loudest = float(max(audio.samples.max(), -audio.samples.min()))  # without copies: the clip may be hours long
    if not math.isfinite(loudest):
        raise AudioError("holds samples that are not finite (NaN or infinity)")
    if seconds < SHORTEST:
        raise AudioError(f"too short: {seconds:.3f} s, the least is {SHORTEST} s")
    pcm = to_pcm(audio.samples, loudest)
    peak = max(int(pcm.max()), -int(pcm.min())) / 32768
    if peak < SILENT:
        raise AudioError(f"silent: no sample above {SILENT:g} of full scale")
    facts = Facts(
        sha256=_file_sha256(item.path) if item.path and not item.member else hashlib.sha256(pcm.tobytes()).hexdigest(),
        codec=audio.format.codec,
        rate=audio.format.rate,
        channels=audio.format.channels,
        seconds=round(seconds, 4),
        maximum=int(pcm.max()) / 32768,
        peak=peak,
        rms=float(np.sqrt(np.mean(np.square(pcm, dtype=np.float32), dtype=np.float64))) / 32768,
        scaled=loudest > 1.0,
    )
    return Rendered(pcm, item.labels if made.labels is None else made.labels, facts)


@functools.lru_cache(maxsize=16)  # many clips may be cut from one long file
def _file_sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- worker processes


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one clip may take: `timeout` seconds, `memory_gb` GiB."""

    timeout: float = 60.0
    memory_gb: float = 4.0


@contextlib.contextmanager
def renderer(render: Callable[[Item, int], Render], sample_rate: int, workers: int, limits: Limits) -> Iterator[Renderer]:
    """A function from items to (item, result) in the same order, served by `workers` processes while the block lasts."""
    pool = [_Worker(render, sample_rate, limits) for _ in range(workers)]
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

    # BLAS would reserve memory for threads on every core, and decoding has no use for them.
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
    """One process behind a pipe of its own: its death is known at once, and no lock or queue dies with it."""

    def __init__(self, render: Callable[[Item, int], Render], sample_rate: int, limits: Limits) -> None:
        self._job = (render, sample_rate, limits)
        self._process: BaseProcess | None = None

    def result(self, item: Item) -> Result:
        """Render one clip; a process that dies or takes too long is replaced when the next one comes."""
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
        return f"time limit: not decoded within {timeout:g} s"

    def kill(self) -> None:
        if process := self._process:
            process.kill()

    def end(self) -> int | None:
        """Wait for the process to be gone; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        self._pipe.close()
        process.join()
        return process.exitcode

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._job), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._pipe.recv()  # imports are done: from now on the time belongs to the clip
        except EOFError:
            raise RuntimeError(f"a worker process could not start (exit code {self.end()})") from None


def _serve(pipe: Connection, render: Callable[[Item, int], Render], sample_rate: int, limits: Limits) -> None:
    """What a worker process does: clips on demand, until the pipe closes."""
    _restrain(int(limits.memory_gb * 2**30))
    pipe.send("ready")
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            item = pipe.recv()
            try:
                try:
                    result: Result = render_clip(render, item, sample_rate)
                except AudioError as error:
                    result = str(error)
                pipe.send(result)
            except MemoryError:
                pipe.send(f"memory limit: needs more than {limits.memory_gb:g} GiB")
            except BrokenPipeError:
                raise
            except Exception as error:  # whatever a decoder raises costs one clip
                pipe.send(f"{type(error).__name__}: {error}")


def _restrain(memory: int) -> None:
    """Bound this process's memory, end it with its parent, leave Ctrl-C to that, and keep C libraries quiet."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # macOS refuses these
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
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
    """The cores this process may use, where the system tells (Linux), else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
