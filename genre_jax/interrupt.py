"""Ending a run by SIGTERM (a preemption, a time limit of a cluster) or SIGINT (Ctrl-C), with its state saved first."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from genre_jax import console, hosts

GRACE = 25.0  # seconds from the signal to the end; Slurm and Kubernetes kill a process after 30
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Receives the signals of a run. Use it as a context manager around the run.

    A signal raises KeyboardInterrupt or `console.Terminated` at once, unless the block `deferred` runs: then `received` is set,
    and the caller saves and calls `end`. A second signal, or `GRACE` seconds without an end, end the process at once. A thread
    watches for this, because Python runs no handler while XLA compiles. Outside the main thread nothing is changed. A signal
    that the process ignores stays ignored, such as SIGINT of a job in the background.

    Attributes:
      received: the signal that came, or None.

    With several hosts, a signal that came while `deferred` runs ends them all at the same step, which `due` and `hosts.check`
    count.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._handle)
        if self._before:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._ended = threading.Event()
            threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            self._ended.set()
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._writer)
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only set `received` while the block runs."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """Raise at once while the block runs, also for a signal that came before, inside a block `deferred`.

        With several hosts the block must call `hosts.check` instead.
        """
        if hosts.count() > 1:
            yield
            return
        self._deferred = False
        try:
            if self.received:
                self.end()
            yield
        finally:
            self._deferred = True

    def due(self) -> bool:
        """Whether the run saves and ends after this step, at which all hosts call this."""
        return bool(hosts.ticked()) if hosts.count() > 1 else self.received is not None

    def end(self) -> NoReturn:
        """Raise the exception of the signal that came; of several hosts, of the signal by which all end."""
        raise KeyboardInterrupt if (hosts.stopped() or self.received) == signal.SIGINT else console.Terminated

    def _handle(self, number: int, _: object) -> None:
        self.received = signal.Signals(number)  # the thread may be later
        if not self._deferred:
            self.end()

    def _watch(self) -> None:
        """Wait for signals, whose numbers Python writes into the pipe as soon as they arrive."""
        received = 0
        while number := os.read(self._reader, 1):
            if number[0] not in SIGNALS:
                continue
            received += 1
            name = signal.Signals(number[0]).name
            if received > 1:
                self._end_now(number[0], f"a second signal ({name}) came")
            what = "saves its state and ends" if self._deferred else "ends"
            console.say(f"{name}: the run {what}; a second signal ends it at once")
            hosts.ask_to_stop(number[0])
            threading.Thread(target=self._limit, args=number, name="grace", daemon=True).start()
        os.close(self._reader)

    def _limit(self, number: int) -> None:
        if not self._ended.wait(GRACE):
            self._end_now(number, f"the run did not end within {GRACE:g} s")

    def _end_now(self, number: int, reason: str) -> NoReturn:
        console.complain(f"{reason}: the run ends without saving, and resumes from its last checkpoint")
        hosts.announce_end(128 + number, f"{reason}, and the run ends without saving")
        os._exit(128 + number)
