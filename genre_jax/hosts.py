"""Several processes, usually one a host, that train one run together: start, end, and what they tell each other.

The first process coordinates and is the only one that writes and prints. All processes take the same steps. They talk through
the key-value store of `jax.distributed`, which the first process serves. Two threads of each process watch the others:

- Each process counts up its heartbeat every second. A process whose count stands still for `LOST` seconds is lost, and the
  others end with its name.
- A process that ends early, by an error or a signal, says so, and the others end with the same exit code.

If the first process dies, `jax.distributed` ends the others as well, within milliseconds and with a message of its own ("the
leader task died"), which may come before the sentence of this module.

With a single process every function here does nothing, or what a single process does.
"""

import atexit
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from genre_jax import console
from genre_jax.console import UserError

T = TypeVar("T")
BEAT = 1.0  # seconds between heartbeats
LOST = 30.0  # seconds without a heartbeat after which a process is lost
LOST_AFTER_ERROR = 10.0  # the same, when this process has already failed, which a lost process is likely to have caused
END = 15.0  # seconds in which a process ends by itself after another one has ended
AHEAD = 4  # ticks from an agreement to its tick: more than the steps by which one process may be ahead of another
FOREVER = 2**31 - 1  # milliseconds

_team: "Team | None" = None


def start(coordinator: str | None, processes: int | None, process_id: int | None, patience: int = 300) -> None:
    """Join the other processes of the run. Call it before anything touches a device.

    Args:
      coordinator: HOST:PORT of the first process. None, here and in the next two, leaves it to JAX to find out, which knows
        SLURM, TPU pods, Kubernetes and Open MPI.
      processes: number of processes.
      process_id: number of this process, from 0.
      patience: seconds after which the run ends if a process has not come.

    Raises `UserError` for illegal values, if JAX cannot find out, and if it cannot connect.
    """
    global _team
    _check(coordinator, processes, process_id)
    import jax
    from jax._src import distributed  # the key-value store has no public name; Orbax takes it from here, too

    came = threading.Event()

    def give_up() -> None:
        if not came.wait(patience):
            where = f" at {coordinator}" if coordinator else ""
            _die(
                f"not all processes of the run have met the coordinator, process 0{where}, within {patience} s: start all of "
                "them, and check that the address is that of process 0 and that its port is open", 1
            )  # fmt: skip

    threading.Thread(target=give_up, daemon=True).start()
    try:
        # JAX's own time limits end the process without a sentence; they come after those of this module.
        jax.distributed.initialize(
            coordinator, processes, process_id, initialization_timeout=patience + 60, heartbeat_timeout_seconds=100,
            shutdown_timeout_seconds=30,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(
            f"the other processes of the run are not known ({str(error).rstrip('.')}): start it in a SLURM step, on a TPU pod, "
            "by mpirun, or set --coordinator, --processes and --process_id"
        ) from error
    except RuntimeError as error:  # jax.errors.JaxRuntimeError, as for a port that is in use
        raise UserError(f"the processes of the run cannot be joined: {str(error).strip().splitlines()[0]}") from error
    finally:
        came.set()
    state = distributed.global_state
    _team = Team(state.client, state.process_id, state.num_processes)


def _check(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Raise `UserError` unless all three are set and legal, or none is set."""
    if coordinator is None and processes is None and process_id is None:
        return
    if coordinator is None or processes is None or process_id is None:
        raise UserError("--coordinator, --processes and --process_id go together: set all three, or --distributed")
    if not re.fullmatch(r".+:[0-9]+", coordinator):
        raise UserError(f"--coordinator must be HOST:PORT, and was given {coordinator!r}")
    if not 0 <= process_id < processes:
        raise UserError(
            f"--process_id must lie in [0, {processes - 1}] for --processes={processes}, and was given {process_id}"
        )
    host = coordinator.rpartition(":")[0].strip("[]")
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise UserError(f"the host {host!r} of --coordinator={coordinator} cannot be resolved: check the name") from error
    if process_id == 0:  # JAX would abort the process
        port, dual = int(coordinator.rpartition(":")[2]), socket.has_dualstack_ipv6()
        try:
            family = socket.AF_INET6 if dual else socket.AF_INET
            socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
        except OSError as error:
            raise UserError(
                f"port {port} of --coordinator={coordinator} cannot be opened ({os.strerror(error.errno or 0)})"
            ) from error


def count() -> int:
    """The number of processes."""
    return _team.count if _team else 1


def index() -> int:
    """The number of this process, from 0."""
    return _team.index if _team else 0


def is_first() -> bool:
    """Whether this process writes the workdir."""
    return index() == 0


def broadcast(make: Callable[[], T]) -> T:
    """What `make` returns on the first process, a JSON value, or the `UserError` that it raises there, on all processes."""
    return _team.broadcast(make) if _team else make()


def wait_for_all() -> None:
    """Return when all processes have called this."""
    if _team:
        _team.barrier()


def in_turn(call: Callable[[], T]) -> T:
    """Let the processes call `call` one after the other, and return the result of this process."""
    result: Any = None
    for turn in range(count()):
        if turn == index():
            result = call()
        wait_for_all()
    return result


def free_port() -> int:
    """A port of this machine that no process uses now, for the coordinator of processes on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def ask_to_stop(number: int) -> None:
    """Ask all processes to save and end as after signal `number`."""
    if _team:
        _team.ask_to_stop(number)


def ticked() -> int:
    """Count a step or an evaluation batch; return the number of the signal by which all processes end now, or 0.

    All processes call this equally often, and the number comes at the same call on all of them.
    """
    return _team.tick() if _team else 0


def check() -> None:
    """As `ticked`, but raise KeyboardInterrupt or `console.Terminated`."""
    if number := ticked():
        raise KeyboardInterrupt if number == signal.SIGINT else console.Terminated


def stopped() -> int:
    """The number of the signal by which all processes end, or 0 while none is agreed upon."""
    return _team.signal if _team else 0


def announce_end(code: int, text: str) -> None:
    """Tell the other processes that this one ends now, with exit code `code`, because of `text`."""
    if _team:
        _team.announce_end(code, text)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """End all processes together: after the block, or as soon as one of them fails in it."""
    if _team is None:
        yield
        return
    try:
        yield
    except BaseException as error:
        _team.fail(error)
        raise
    finish()


def finish() -> None:
    """End the connection of this process, after the first one has called this. `together` does it at its end."""
    if _team:
        _team.finish()


def _die(sentence: str, code: int) -> NoReturn:
    console.complain(sentence)
    sys.stdout.flush()
    os._exit(code)


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ends by this exception; `console.run` has the same."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    kinds = ((KeyboardInterrupt, 128 + signal.SIGINT), (console.Terminated, 128 + signal.SIGTERM))
    return next((code for kind, code in kinds if isinstance(error, kind)), 1)


class Team:
    """The processes of a run, as one of them sees them.

    Args:
      client: of the key-value store.
      index: number of this process.
      count: number of processes.

    Attributes:
      signal: number of the signal by which all processes end, 0 while none is agreed upon.
    """

    def __init__(self, client: Any, index: int, count: int):
        self.index, self.count, self.signal = index, count, 0
        self._client = client
        self._numbers = itertools.count()  # of broadcasts and barriers, which all processes make in the same order
        self._ticks = 0
        self._stop_at: int | None = None
        self._asked = 0
        self._ending = threading.Event()  # this process ends by itself
        self._left = threading.Event()  # it says nothing more
        self._failed = False
        self._seen: dict[int, tuple[str, float]] = {}  # process → its last heartbeat, and when it came
        self._set(f"name/{index}", socket.gethostname())
        self._names = [self._get(f"name/{number}") for number in range(count)]
        for target in (self._beat, self._listen):
            threading.Thread(target=target, name=target.__name__, daemon=True).start()
        console.mute(index > 0)
        console.say(f"{count} processes on {', '.join(dict.fromkeys(self._names))}")
        if index:
            console.note(f"{self._who(index)}: {self._who(0)} coordinates the run and prints its progress")

    def _set(self, key: str, value: str) -> None:
        self._client.key_value_set(f"genre_jax/{key}", value, allow_overwrite=True)

    def _get(self, key: str, patience: float = FOREVER) -> str:
        """The value of a key, as soon as a process has set it; an exception of JAX after `patience` milliseconds."""
        value: str = self._client.blocking_key_value_get(f"genre_jax/{key}", int(patience))
        return value

    def _all(self, folder: str) -> dict[str, str]:
        """The keys below `folder` that are set, without the folder, and their values."""
        start = f"genre_jax/{folder}/"
        return {key.removeprefix(start): value for key, value in self._client.key_value_dir_get(start)}

    def _who(self, number: int) -> str:
        return f"process {number} on {self._names[number]}"

    # ------------------------------------------------------------ what they tell each other

    def broadcast(self, make: Callable[[], T]) -> T:
        """See `hosts.broadcast`."""
        key = f"broadcast/{next(self._numbers)}"
        if self.index == 0:
            try:
                value = make()
            except UserError as error:
                self._set(key, json.dumps({"error": str(error)}))
                raise
            self._set(key, json.dumps({"value": value}))
            return value
        answer = json.loads(self._get(key))
        if "error" in answer:
            raise UserError(answer["error"])
        result: T = answer["value"]
        return result

    def barrier(self) -> None:
        """See `wait_for_all`."""
        self._client.wait_at_barrier(f"genre_jax_{next(self._numbers)}", FOREVER)

    def ask_to_stop(self, number: int) -> None:
        """See `hosts.ask_to_stop`."""
        with contextlib.suppress(Exception):  # the store may have gone, and then all processes end anyway
            self._set("control/ask", str(number))

    def tick(self) -> int:
        """See `ticked`. The first process chooses the tick at which all end, and waits until the others know it."""
        self._ticks += 1
        if self.index == 0 and self._asked and self._stop_at is None:
            self._set("control/stop", json.dumps([self._ticks + AHEAD, self._asked]))
            for number in range(1, self.count):
                self._get(f"ack/{number}")
            self._stop_at, self.signal = self._ticks + AHEAD, self._asked
        return self.signal if self._stop_at is not None and self._ticks >= self._stop_at else 0

    # ------------------------------------------------------------ watching each other

    def _beat(self) -> None:
        """Count up the heartbeat, look at those of the others, and take notice of a request to stop."""
        for number in itertools.count():
            if self._left.wait(BEAT):
                return
            try:
                self._set(f"beat/{self.index}", str(number))
                beats, control = self._all("beat"), self._all("control")
            except Exception:
                return  # the store has gone: `_listen` reports it
            now = time.monotonic()
            for other in range(self.count):
                beat = beats.get(str(other), "")
                if other not in self._seen or self._seen[other][0] != beat:
                    self._seen[other] = (beat, now)
            if lost := self._silent(LOST_AFTER_ERROR if self._failed else LOST):
                _die(
                    f"{self._who(lost[0])} has given no sign of life for {now - self._seen[lost[0]][1]:.0f} s, so that all "
                    "processes end: the same command resumes the run from its last checkpoint", 1
                )  # fmt: skip
            self._asked = int(control.get("ask", 0))
            if self.index and "stop" in control and self._stop_at is None:
                self._stop_at, self.signal = json.loads(control["stop"])
                self._set(f"ack/{self.index}", "")

    def _silent(self, seconds: float) -> list[int]:
        """The other processes without a heartbeat for so many seconds."""
        now = time.monotonic()
        return [other for other, (_, since) in self._seen.items() if other != self.index and now - since > seconds]

    def _listen(self) -> None:
        """Wait until a process ends early, or the first process has gone; then end this process, too."""
        try:
            end = json.loads(self._get("end"))
        except Exception:
            if not self._left.is_set():
                _die(f"{self._who(0)}, which coordinates the run, has gone: the same command resumes the run", 1)
            return
        if end["process"] != self.index and not self._ending.wait(END):
            self._say_goodbye()
            _die(f"{self._who(end['process'])} ended: {end['text']}", end["code"])

    # ------------------------------------------------------------ the end

    def announce_end(self, code: int, text: str) -> None:
        """Tell the other processes that this one ends early. If another process ends early as well, the first word counts."""
        with contextlib.suppress(Exception):
            self._client.key_value_set("genre_jax/end", json.dumps({"process": self.index, "code": code, "text": text}))

    def fail(self, error: BaseException) -> None:
        """Prepare the end of this process by `error`. What all processes report alike is printed by the first one alone."""
        code, text = exit_code(error), str(error) or type(error).__name__
        self._failed = True
        if isinstance(error, Exception):  # a lost process may be the cause: `_beat` then ends this process with its name
            time.sleep(3 * BEAT)
            while self._silent(2.5 * BEAT):
                time.sleep(BEAT)
        alike = self.index > 0 and self._first_said(text)
        self.announce_end(code, text)
        self._ending.set()
        if self.index:
            self._say_goodbye()
        else:
            self._wait_for_goodbyes()
        self._left.set()
        # Python's own end would wait for the other processes in JAX's shutdown.
        atexit.register(_leave, code)
        if alike:
            raise SystemExit(code) from error

    def _say_goodbye(self) -> None:
        """Tell the first process that this one needs the store no longer."""
        with contextlib.suppress(Exception):
            self._set(f"left/{self.index}", "")

    def _wait_for_goodbyes(self) -> None:
        """Keep the store until the others have left, if they still live: without it JAX would end them in its own way."""
        deadline = time.monotonic() + 2 * END
        while time.monotonic() < deadline and len(self._all("left").keys() | map(str, self._silent(5 * BEAT))) < self.count - 1:
            time.sleep(BEAT / 4)
        time.sleep(BEAT / 2)

    def _first_said(self, text: str) -> bool:
        """Whether the first process announces in the next seconds that it ends because of `text`."""
        with contextlib.suppress(Exception):
            return json.loads(self._get("end", 3000 * BEAT))["text"] == text
        return False

    def finish(self) -> None:
        """End this process after the first one, which may still write the report."""
        import jax

        if self.index:
            self._get("done")
        self._ending.set()
        self._left.set()
        if not self.index:
            self._set("done", "")
        jax.distributed.shutdown()


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
