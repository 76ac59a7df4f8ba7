"""Checkpoints of a run, through Orbax: written in the background, with checksums; the best one and the last k are kept.

A run starts from the first of these that exists:
(1) the last whole checkpoint in its workdir (resume);
(2) the weights that `config.init_from` names, the workdir of a run or a file (`weights.pretrained.transplant`). The classifier
    is new if the classes differ; the step and the optimiser state start at 0;
(3) random weights from the seed.

A checkpoint has three items: "model" (parameters, batch statistics, front-end statistics, moving average: everything that
prediction needs), "training" (step, optimiser state), and "about" (see `Checkpoints.save`). Orbax writes into a temporary
folder and renames it, so that a killed run finds its last complete checkpoint.

Of several hosts the first one alone reads and writes checkpoints. It sends the state to the others, which therefore need not
see the workdir. All hosts call the methods together, and an error of the first one is raised on all. Each host reads the
checkpoints that are opened read-only, as for `init_from`.
"""

import contextlib
import errno
import functools
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from genre_jax import checksum, hosts, placing
from genre_jax import config as configs
from genre_jax.console import UserError, say
from genre_jax.weights.files import listed, not_finite

T = TypeVar("T")
MODEL = ("params", "batch_stats", "frontend", "ema")
TRAINING = ("step", "opt_state", "skipped")
NOT_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # the next try may succeed
SPARE = 1.1  # free disk space that a save requires, as a multiple of the state's size
About = dict[str, Any]


class Damaged(Exception):
    """A checkpoint is not what was written. The text is the cause."""


def best(abouts: Mapping[int, About]) -> int | None:
    """Step with the largest validation "score", the latest of equals; None if no step was evaluated."""
    scores = [(about["metrics"]["score"], step) for step, about in abouts.items() if about["metrics"]]
    return max(scores)[1] if scores else None


class _LastAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the last `keep` checkpoints and the best one of `abouts`."""

    def __init__(self, keep: int, abouts: Mapping[int, About]):
        self._keep, self._abouts = keep, abouts

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self._keep :], best({step: self._abouts[step] for step in steps})}
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of a workdir: the last `train.keep`, and the one with the largest validation "score".

    Opening them verifies the item "about" of each. A damaged checkpoint is moved to WORKDIR/damaged and named on the console.

    Args:
      workdir: the workdir of the run.
      config: the config of the run.
      labels: the classes of the run, in the order of the logits.
      read_only: for prediction: nothing is written into the workdir, and a damaged checkpoint is a `UserError`.

    Raises `UserError` if a checkpoint belongs to another config or to other labels, or has no checksums.
    """

    def __init__(self, workdir: Path, config: ConfigDict, labels: Sequence[str], read_only: bool = False):
        self._workdir, self._read_only, self._keep = workdir, read_only, config.train.keep
        self._directory = (workdir / "checkpoints").resolve()
        self._origin = {"config": configs.digest(config), "labels": checksum.of_json(list(labels))}
        self._abouts: dict[int, About] = {}
        self._lost = 0  # number of checkpoints that were set aside
        self._shared(self._read_abouts)

    def _shared(self, call: Callable[[], T]) -> T:
        """What `call` returns on the first host; each host calls it if the checkpoints are read-only."""
        return call() if self._read_only else hosts.broadcast(call)

    def _read_abouts(self) -> None:
        self._manager = self._open()
        for step in self._manager.all_steps():
            try:
                self._abouts[step] = self._read_about(step)
            except Damaged as cause:
                self._set_aside(step, cause)

    def _open(self) -> ocp.CheckpointManager:
        with self._writing():
            if not self._read_only:
                self._directory.mkdir(parents=True, exist_ok=True)
            return ocp.CheckpointManager(
                self._directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=_LastAndBest(self._keep, self._abouts),
                    create=False,
                    multiprocessing_options=ocp.options.MultiprocessingOptions(
                        primary_host=hosts.index(), active_processes={hosts.index()}
                    ),
                    cleanup_tmp_directories=not self._read_only,
                    # Threads that wait for a folder which cannot be created would hold up the end of the process for minutes.
                    async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
                    lightweight_initialize=True,  # reads no file of a checkpoint: a damaged one could stop it
                ),
                item_names=("model", "training", "about"),
            )

    # ---------------------------------------------------------------- write

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None, progress: Any = None) -> None:
        """Write `state` in the background, and replace a checkpoint of the same step.

        The state is copied to the host first, because the next step overwrites its buffers.

        The item "about" holds the step, `metrics` and `progress`, the checksums of the config, of the labels, of the arrays
        of "model" and of "training", of the names, types and shapes of all arrays, and of all these entries together.

        Args:
          step: the step of the state.
          state: a TrainState.
          metrics: the scores of the evaluation at this step, if there was one.
          progress: a JSON value that `resume` returns again.

        Raises `UserError` if the state or the metrics hold NaN or infinity, if the disk has too little space, or if this
        checkpoint or the one before it cannot be written.
        """
        model, training = _items(placing.to_host(state))
        self._shared(lambda: self._write(step, model, training, metrics, progress))

    def _write(self, step: int, model: Any, training: Any, metrics: dict[str, float] | None, progress: Any) -> None:
        self._wait()
        arrays = named(model | training)
        self._check_finite(step, arrays | {f"metrics/{name}": np.array(value) for name, value in (metrics or {}).items()})
        self._check_space(sum(array.nbytes for array in arrays.values()))
        about = self._origin | {"step": step, "metrics": metrics, "progress": progress, "layout": _layout(arrays)}
        about |= {"model": checksum.of_arrays(named(model)), "training": checksum.of_arrays(named(training))}
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            training=ocp.args.StandardSave(training),
            about=ocp.args.JsonSave(about | {"sha256": checksum.of_json(about)}),
        )
        with self._writing():
            if step in self._abouts:
                self._manager.delete(step)
            self._abouts[step] = about
            try:
                self._manager.save(step, args=items, force=True)
            finally:
                self._forget()

    def wait(self) -> None:
        """Wait until everything is written. Raises `UserError` if it cannot be written."""
        self._shared(self._wait)

    def _wait(self) -> None:
        with self._writing():
            try:
                self._manager.wait_until_finished()
            finally:
                self._forget()

    def close(self) -> None:
        """Wait, and release the folder. Raises `UserError` as `wait` does."""
        self._shared(self._close)

    def _close(self) -> None:
        with self._writing():
            self._manager.close()

    def _forget(self) -> None:
        """Forget the checkpoints that Orbax deletes, and the one that it could not write."""
        for step in self._abouts.keys() - self._manager.all_steps():
            del self._abouts[step]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        _hide_late_errors()
        try:
            yield
        except (OSError, ValueError) as error:  # TensorStore raises ValueError for the errors of the disk
            raise UserError(
                f"a checkpoint cannot be written to {self._directory} ({_cause(error)}): correct this, and run the same "
                "command again to resume"
            ) from error

    def _check_finite(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        if broken := not_finite(arrays):
            latest = self._latest()
            raise UserError(
                f"the state at step {step} holds NaN or infinity in {listed(broken)}, and is not saved; the last whole "
                f"checkpoint in {self._workdir} is {'none' if latest is None else f'of step {latest}'}"
            )

    def _check_space(self, size: int) -> None:
        free = shutil.disk_usage(self._directory).free
        if free < SPARE * size:
            raise UserError(
                f"a checkpoint needs {SPARE * size / 1e6:.3g} MB in {self._directory}, and {free / 1e6:.3g} MB are free: free "
                "some space and run the same command again to resume"
            )

    # ---------------------------------------------------------------- read

    def resume(self, abstract: Any) -> tuple[Any, int, Any] | None:
        """State, step and `progress` of the newest whole checkpoint; None if there is none, and the run then starts anew.

        Args:
          abstract: a TrainState with the shapes, types and placement of the state.
        """
        state: Any = abstract

        def read() -> tuple[int, Any] | None:
            nonlocal state
            while (step := self._latest()) is not None:
                if (restored := self._restore(step, abstract)) is not None:
                    state = restored
                    return step, self._abouts[step]["progress"]
            if self._lost:
                say(f"no whole checkpoint is left in {self._workdir}: the run starts anew")
            return None

        found = self._shared(read)
        return (placing.place(state, abstract), *found) if found else None

    def final(self, which: str, abstract: Any) -> tuple[Any, int]:
        """State and step to evaluate, of the "best" or the "last" checkpoint that is whole.

        Raises `UserError` if there is none.
        """
        state: Any = abstract

        def read() -> int:
            nonlocal state
            while (restored := self._restore(step := self.choose(which), abstract)) is None:
                pass
            state = restored
            return step

        step = self._shared(read)
        return placing.place(state, abstract), step

    def restore_model(self, step: int) -> dict[str, Any]:
        """The item "model" at `step`, as host arrays. Raises `UserError` if it is damaged."""
        try:
            with _reading():
                model = self._manager.restore(step, args=ocp.args.Composite(model=ocp.args.StandardRestore())).model
            self._verify(step, "model", model)
        except Damaged as cause:
            raise self._refusal(step, cause) from cause
        return model

    def latest(self) -> int | None:
        """Step of the last complete checkpoint."""
        return self._shared(self._latest)

    def _latest(self) -> int | None:
        return max(self._abouts, default=None)

    def scores(self, step: int) -> dict[str, float] | None:
        """The validation scores with which the checkpoint of `step` was saved; None if it was not evaluated."""
        return self._shared(lambda: self._abouts[step]["metrics"])

    def choose(self, which: str) -> int:
        """Step of the "best" checkpoint on validation (the last one if none was evaluated) or of the "last" one.

        Raises `UserError` if there is no checkpoint.
        """
        step = best(self._abouts) if which == "best" else None
        step = self._latest() if step is None else step
        if step is None:
            raise UserError(
                f"{self._directory} holds no {'whole ' if self._lost else ''}checkpoint{'' if self._lost else ' yet'}"
            )
        return step

    def _restore(self, step: int, abstract: Any) -> Any:
        """The state at `step` as arrays of this host, or None if the checkpoint was damaged and is now set aside."""
        model, training = _items(jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), abstract))
        if self._abouts[step]["layout"] != _layout(named(model | training)):
            raise UserError(
                f"the checkpoint of step {step} in {self._workdir} holds arrays of other names, types or shapes than this run: "
                "another version of genre_jax wrote it, choose another --workdir"
            )
        items = ocp.args.Composite(model=ocp.args.StandardRestore(model), training=ocp.args.StandardRestore(training))
        try:
            with _reading():
                restored = self._manager.restore(step, args=items)
            for item in ("model", "training"):
                self._verify(step, item, restored[item])
        except Damaged as cause:
            return self._set_aside(step, cause)
        return abstract.replace(**restored.model, **restored.training)

    def _verify(self, step: int, item: str, tree: Any) -> None:
        if checksum.of_arrays(named(tree)) != self._abouts[step][item]:
            raise Damaged(f"the arrays of its item {item!r} have another checksum than those that were written")

    def _read_about(self, step: int) -> About:
        """The verified item "about", without its checksum."""
        folder = self._directory / str(step)
        with _reading():
            listed_items = folder / "_CHECKPOINT_METADATA"
            if not (folder / "about").exists() and b'"about"' not in listed_items.read_bytes():
                raise UserError(
                    f"{folder} was written by an earlier genre_jax, without checksums: train again in another workdir"
                )
            about = dict(ocp.JsonCheckpointHandler().restore(folder / "about"))  # type: ignore[arg-type]
            if about.pop("sha256", None) != checksum.of_json(about) or about["step"] != step:
                raise Damaged("its item 'about' has another checksum than the one that was written")
        for key, digest in self._origin.items():
            if about[key] != digest:
                raise UserError(
                    f"{key}.json of {self._workdir} has changed since its checkpoint of step {step} was written: restore the "
                    "file, or train in another workdir"
                )
        return about

    def _set_aside(self, step: int, cause: Damaged) -> None:
        """Move a damaged checkpoint out of the way. Raises `UserError` instead if the checkpoints are read-only."""
        if self._read_only:
            raise self._refusal(step, cause)
        self._close()
        folder = self._workdir / "damaged"
        names = [str(step), *(f"{step}_{number}" for number in range(2, 1000))]
        target = next(folder / name for name in names if not (folder / name).exists())
        with self._writing():
            folder.mkdir(exist_ok=True)
            os.rename(self._directory / str(step), target)
        self._abouts.pop(step, None)
        self._lost += 1
        self._manager = self._open()
        say(f"the checkpoint of step {step} is damaged ({cause}): it is now {target}, and is not used")

    def _refusal(self, step: int, cause: Damaged) -> UserError:
        finished = "delete results.json and " if (self._workdir / "results.json").exists() else ""
        return UserError(
            f"the checkpoint {self._directory / str(step)} is damaged ({cause}): {finished}run the training command again, "
            "which sets it aside and goes on from the one before"
        )


def _items(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The items "model" and "training" of a TrainState."""
    return {key: getattr(state, key) for key in MODEL}, {key: getattr(state, key) for key in TRAINING}


def named(tree: Any) -> dict[str, Any]:
    """Name → leaf, with names such as "params/conv1/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _layout(arrays: Mapping[str, Any]) -> str:
    """Checksum of the names, types and shapes of arrays."""
    return checksum.of_json({name: [jnp.dtype(array.dtype).name, array.shape] for name, array in arrays.items()})


@functools.cache
def _hide_late_errors() -> None:
    """Keep the message "Event loop is closed" off the console from now on.

    Orbax stops at the first array that it cannot read or write. The other arrays end later, in threads of TensorStore, each
    with this message, some of them after the command has ended.
    """
    unraisable, exception = sys.unraisablehook, sys.excepthook

    def closed(error: Any) -> bool:
        return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"

    sys.unraisablehook = lambda about: None if closed(about.exc_value) else unraisable(about)
    sys.excepthook = lambda kind, error, trace: None if closed(error) else exception(kind, error, trace)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Turn the errors of Orbax into `Damaged`, except those that say nothing about the files."""
    _hide_late_errors()
    try:
        yield
    except (Damaged, UserError, MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        if _error_number(error) in NOT_DAMAGE:
            raise
        raise Damaged(_cause(error)) from error


def _error_number(error: Exception) -> int | None:
    """The number of an error of the operating system, which TensorStore gives only in its text."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else getattr(error, "errno", None)


def _cause(error: Exception) -> str:
    """A few words on the cause of an error. TensorStore's text ends with them, and with specifications in brackets."""
    if number := _error_number(error):
        return os.strerror(number)
    line = (str(error).strip().splitlines() or [""])[0]
    words = re.sub(r" \[[\w\[\]]+='.*", "", line).split('": ')[-1]
    return f"no entry {words}" if isinstance(error, KeyError) else words[:120] or type(error).__name__
