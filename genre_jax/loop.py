"""The life of a run in its workdir: resume, the training loop, checkpoints, the end by a signal, and the results."""

import contextlib
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from genre_jax import config as configs
from genre_jax import evaluate, gmm, hosts, lock, mirror, models, replay
from genre_jax.atomic import read_json, write_json
from genre_jax.checkpoint import Checkpoints
from genre_jax.console import Terminated, UserError, say
from genre_jax.data import shards
from genre_jax.data.batches import prefetch, resolve_reader, resolve_verify
from genre_jax.frontends.stft import resolve_engine
from genre_jax.interrupt import Interrupt
from genre_jax.logbook import Logbook, Meter, NotFinite, environment, peak_memory
from genre_jax.models.bytenet.network import resolve_backend
from genre_jax.planning import backends
from genre_jax.run import Run, resolved
from genre_jax.train import TrainState

# The progress at the start of a run.
FRESH: dict[str, Any] = {"rows": [], "due": False, "damaged": [], "best": None, "stale": 0}


def train_and_evaluate(
    config: ConfigDict, workdir: Path, profile: bool = False, place: mirror.Place | None = None
) -> dict[str, Any]:
    """Train from the start that `checkpoint.py` describes to the end, evaluate on the test split, and write the results.

    Returns the content of `results.json`. The workdir of a finished run stays as it is. SIGINT and SIGTERM save the state and
    raise KeyboardInterrupt and `console.Terminated`; the next call resumes. Raises `UserError`, also if another process
    holds the workdir. Of several hosts the first one reads and writes it. `place` says where it is copied to.
    """
    place = place or mirror.Place(str(workdir))
    if not hosts.is_first():
        with Interrupt() as interrupt:
            return _work(config, workdir, interrupt, profile, place)
    new = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    busy = (
        f"another run holds the workdir {workdir}: wait until it ends, or choose another --workdir; the processes of a run on "
        "several hosts need --distributed"
    )
    try:
        with lock.hold(workdir / ".lock", busy), Interrupt() as interrupt:
            return _work(config, workdir, interrupt, profile, place)
    finally:
        if new and not any(workdir.iterdir()):
            workdir.rmdir()


def _work(config: ConfigDict, workdir: Path, interrupt: Interrupt, profile: bool, place: mirror.Place) -> dict[str, Any]:
    config = resolved(config)
    if finished := hosts.broadcast(lambda: _finished(workdir, config)):
        say(
            f"{place.shown} holds a finished run: its results are kept (another --workdir starts a new one, and "
            f"--config.init_from={workdir} starts it from these weights)"
        )
        return finished
    config = backends.choose(config, workdir)
    run = Run(config)
    fitted = gmm.check(config, run.program.network.model)
    clips = shards.digest(run.splits.values())
    teacher = run.program.teacher.checksum() if run.program.teacher else ""
    hosts.broadcast(lambda: _check_same(workdir, clips, teacher))
    checkpoints = Checkpoints(workdir, config, run.splits["train"].classes)
    if hosts.is_first():
        _describe(run, workdir, clips_sha256=clips, teacher_sha256=teacher)
    abstract = run.program.abstract_state()
    state, start, progress = checkpoints.resume(abstract) or (run.initial_state(), 0, None)
    progress = progress or FRESH | {"due": config.head.start == "logistic"}
    if start:
        say(f"resuming {workdir} from its checkpoint at step {start}")
    parameters = models.count(state.params)
    _announce(run, parameters)
    with contextlib.closing(Logbook(workdir, start - progress["due"])) as logbook:
        if not fitted:
            state = Loop(run, checkpoints, logbook, interrupt, workdir, place).train(state, start, progress, profile)
        elif not start:
            state = _fit(run, state, checkpoints, logbook)
        skipped = int(state.skipped)
        del state  # the devices need not hold two states
        state, step = checkpoints.final(config.evaluate.weights, abstract)
        if not step and "validation" in run.splits:  # only a fitted classifier is saved at step 0
            state, step = _refit(run, state, checkpoints)
        checkpoints.close()
        known: dict[str, Any] = {"parameters": parameters, "train_seconds": round(logbook.seconds, 1), "skipped_steps": skipped}
        known |= {"flops_per_clip": None if fitted else run.program.flops_per_clip(), "peak_memory_bytes": peak_memory()}
        return _final(run, state, step, workdir, known)


def _finished(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """The results of a finished run, or None. Raises `UserError` if the workdir holds checkpoints of another config."""
    path, results = workdir / "config.json", workdir / "results.json"
    known: dict[str, Any] | None = read_json(results, dict) if results.exists() else None
    if not path.exists() or not any((workdir / "checkpoints").glob("[0-9]*")):
        return known
    old = configs.flat(configs.read_json(path))
    changed = [
        key for key, value in configs.flat(config).items() if old.get(key) != value and key not in configs.FREE_ON_RESUME
    ]
    if changed:
        onward = f", and set --config.init_from={workdir} to train its weights further" if known else ""
        raise UserError(
            f"{workdir} holds a run of another config (it differs in {', '.join(changed)}): choose another --workdir{onward}"
        )
    return known


def _check_same(workdir: Path, clips: str, teacher: str) -> None:
    """Raise `UserError` if the workdir holds a run on other clips, or a run that learned from another teacher."""
    path = workdir / "environment.json"
    known = read_json(path, dict) if path.exists() else {"clips_sha256": clips, "teacher_sha256": teacher}
    if known.get("clips_sha256") != clips:
        raise UserError(
            f"{workdir} holds a run on other clips: its data set, or the exclude.csv beside it, has changed since; choose "
            "another --workdir"
        )
    if known.get("teacher_sha256", "") != teacher:
        raise UserError(
            f"{workdir} holds a run that learned from another teacher than distill.teacher: choose another --workdir"
        )


def _describe(run: Run, workdir: Path, **checksums: str) -> None:
    """Write config.json, labels.json and environment.json, with the `checksums`."""
    config = run.config
    write_json(workdir / "config.json", configs.to_json(config))
    write_json(workdir / "labels.json", run.splits["train"].classes)
    verify = resolve_verify(config.data.verify)
    if verify != config.data.verify:
        say("google-crc32c is not installed: the audio is not verified against its checksums (pip install google-crc32c)")
    chosen = {"reader": resolve_reader(config.data.reader, run.folder), "verify": verify}
    chosen |= {"data_set": str(run.folder)} | {key: value for key, value in checksums.items() if value}
    if "engine" in config.frontend:
        chosen["fft_engine"] = resolve_engine(config.frontend.engine)
    if "backend" in config.model:
        chosen["convolution_backend"] = resolve_backend(config.model.backend)
    write_json(workdir / "environment.json", environment(**chosen))


def _announce(run: Run, parameters: int) -> None:
    config, program = run.config, run.program
    say(
        f"{config.name}: {config.model.name} with {parameters:,} parameters on {len(program.devices.all)} device(s), "
        f"{program.total} steps of {config.train.batch_size} clips, {program.clips} clips per epoch"
    )
    index = run.splits["train"]
    used = np.flatnonzero(index.labels.any(0))
    if len(used) == 1:
        only = index.classes[used[0]]
        say(f"warning: all training clips are of one class, {only!r}: there is nothing to learn, and a low loss means nothing")
    seen = program.reach()
    if seen and seen[0].dead_blocks:
        say(
            f"{seen[0].dead_blocks} of {seen[0].blocks} dilated blocks see only padding beside their middle tap: "
            "their dilation exceeds their sequence; model.cap_dilation=true caps it"
        )


class Loop:
    """The training loop: take a batch, take a step, and when they are due, record, evaluate and save.

    The progress in a checkpoint has these entries: "rows", the metrics of the steps since the last record; "due", true if the
    run was interrupted in an evaluation, or starts with a fitted classifier: it first does what is due at this step; "damaged",
    the training clips that are left out; "best" and "stale", the best validation score, and the number of evaluations since.
    """

    def __init__(
        self, run: Run, checkpoints: Checkpoints, logbook: Logbook, interrupt: Interrupt, workdir: Path, place: mirror.Place
    ):
        self.run, self.checkpoints, self.logbook, self.interrupt, self.workdir = run, checkpoints, logbook, interrupt, workdir
        self._place = place
        self._best: float | None = None
        self._stale = 0

    def train(self, state: TrainState, start: int, progress: dict[str, Any], profile: bool) -> TrainState:
        """Train from step `start` to the end of the run, and return the state. `progress` comes from the checkpoint."""
        run, config, total = self.run, self.run.config, self.run.program.total
        rows = [(step, {key: float.fromhex(value) for key, value in metrics.items()}) for step, metrics in progress["rows"]]
        most = config.train.skip_nonfinite
        meter = Meter(self.logbook, config.train.batch_size, total, most, int(state.skipped), rows)
        run.splits["train"].state[progress["damaged"]] = shards.DAMAGED
        self._best, self._stale = progress["best"] and float.fromhex(progress["best"]), progress["stale"]
        with self.interrupt.deferred():
            if progress["due"]:
                self._due(state, start, meter)
            batches = prefetch(run.batches, start, total, config.data.reader, config.data.prefetch)
            for step in range(start + 1, total + 1):
                if self._stopped(step - 1):
                    break
                with meter.waiting():
                    batch = next(batches)
                if profile and step == start + 10:
                    jax.profiler.start_trace(str(self.workdir / "profile"))
                state, metrics = run.program.train_step(state, run.constants, run.program.devices.shard(batch))
                meter.add(step, metrics)
                if profile and step == min(start + 20, total) and step >= start + 10:
                    jax.block_until_ready(state)
                    jax.profiler.stop_trace()
                saved = self._due(state, step, meter)
                if self.interrupt.due():
                    if not saved:
                        self._save(step, state, None, meter.take(), due=False)
                    self._end(step)
            self.checkpoints.wait()
        return state

    def _due(self, state: TrainState, step: int, meter: Meter) -> bool:
        """Record, evaluate and save, as far as they are due at this step; return whether the state was saved."""
        due = {key: step % every == 0 or step == self.run.program.total for key, every in self.run.every.items()}
        if not any(due.values()):
            return False
        rows, scores = meter.take(), None
        try:
            meter.record(step, rows)
        except NotFinite as error:
            raise self._not_finite(state, error) from error
        if due["evaluate"] and "validation" in self.run.splits:
            try:
                with self.interrupt.immediate():
                    scores = _validate(self.run, state, step, self.logbook)
                self._compare(scores["score"])
            except (KeyboardInterrupt, Terminated):
                self._save(step, state, None, rows, due=True)
                self._end(step)
            meter.restart()
        save = bool(scores or due["checkpoint"])
        if save:
            self._save(step, state, scores, [], due=False)
        self._place.push()
        return save

    def _compare(self, score: float) -> None:
        """Count the evaluations without a better score, for `train.patience`."""
        better = self._best is None or score > self._best
        self._best, self._stale = (score, 0) if better else (self._best, self._stale + 1)

    def _stopped(self, step: int) -> bool:
        """Whether the run ends early, after `step`, because the validation score no longer improves."""
        patience = self.run.config.train.patience
        early = 0 < patience <= self._stale
        if early:
            say(f"the validation score has not improved in {patience} evaluations: the training ends at step {step}")
        return early

    def _save(self, step: int, state: TrainState, scores: dict[str, float] | None, rows: list, due: bool) -> None:
        # Numbers as text in base 16, which is exact: JSON has no NaN.
        stored = [(at, {key: value.hex() for key, value in metrics.items()}) for at, metrics in rows]
        damaged = np.flatnonzero(self.run.splits["train"].state == shards.DAMAGED).tolist()
        best = None if self._best is None else self._best.hex()
        progress = {"rows": stored, "due": due, "damaged": damaged, "best": best, "stale": self._stale}
        self.checkpoints.save(step, state, scores, progress)

    def _end(self, step: int) -> None:
        """Finish the checkpoint and raise the exception of the signal."""
        self.checkpoints.wait()
        say(f"the state of step {step} is saved in {self._place.shown}: the same command resumes the run")
        self.interrupt.end()

    def _not_finite(self, state: TrainState, error: NotFinite) -> UserError:
        """Dump the failed step, and return the error that ends the run."""
        self.checkpoints.wait()
        good = self.checkpoints.latest()
        folder = self.workdir / "nonfinite"
        with self.interrupt.immediate():
            if not self.run.config.train.skip_nonfinite:  # otherwise the state is still the one before the step
                state = self._state_before(error)
            clips = replay.dump(folder, self.run, state, error.step, error.metrics)
        return UserError(
            f"{error}; {f'the last good checkpoint is of step {good}' if good else 'there is no checkpoint yet'}; "
            f"`python -m genre_jax.main --replay={folder}` explains the step; the clips of the batch: {', '.join(clips)}"
        )

    def _state_before(self, error: NotFinite) -> TrainState:
        """The state before the failed step, which is reached again from the last checkpoint."""
        program = self.run.program
        state, start, _ = self.checkpoints.resume(program.abstract_state()) or (self.run.initial_state(), 0, None)
        say(f"{error}: taking the steps from {start} to {error.step - 1} again, to save the state before the step")
        for step in range(start, error.step - 1):
            state, _ = program.train_step(state, self.run.constants, program.devices.shard(self.run.batches(step)))
        return state


def _fit(run: Run, state: TrainState, checkpoints: Checkpoints, logbook: Logbook) -> TrainState:
    """Fit a network that takes no training steps; its fit is step 1, which is evaluated and saved."""
    started = time.perf_counter()
    params, likelihood = gmm.fit(run, state)
    program = run.program
    variables = state.variables() | {"params": params}
    state = program.devices.replicate(program.state_of(variables).replace(step=np.int32(1)))
    logbook.metrics(1, "train", {"log_likelihood": likelihood})
    logbook.timing(1, len(run.splits["train"]) / (time.perf_counter() - started), 0.0)
    scores = _validate(run, state, 1, logbook) if "validation" in run.splits else None
    checkpoints.save(1, state, scores, FRESH)
    return state


def _refit(run: Run, state: TrainState, checkpoints: Checkpoints) -> tuple[TrainState, int]:
    """Fit the classifier on the validation split too, because training did not improve it; save it as the best checkpoint."""
    say("training did not improve the fitted classifier: it is fitted again, on the training and the validation split")
    step = (checkpoints.latest() or 0) + 1
    state = run.refitted(state)
    checkpoints.save(step, state, checkpoints.scores(0), FRESH)  # the best checkpoint is the latest of equals
    return state, step


def _validate(run: Run, state: TrainState, step: int, logbook: Logbook) -> dict[str, float]:
    table = run.evaluate(state, "validation")
    _check_finite(run, table, "validation", step)
    scores = evaluate.headline(evaluate.scores(table, run.config, run.splits["validation"].classes), run.config)
    logbook.metrics(step, "validation", scores)
    say(f"validation at step {step}: " + "  ".join(f"{key} {value:.4g}" for key, value in scores.items()))
    return scores


def _check_finite(run: Run, table: evaluate.Table, part: str, step: int) -> None:
    """Raise `UserError` if a window has a logit or loss that is not finite."""
    bad = ~(np.isfinite(table["logits"]).all(1) & np.isfinite(table["loss"]))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        clip, second = run.splits[part].names[table["clip"][row]], table["start"][row] / run.config.data.sample_rate
        raise UserError(
            f"{bad.sum()} of {len(bad)} windows of the {part} split have scores that are not finite at step {step}, the first "
            f"is {clip!r} at {second:.1f} s: lower schedule.learning_rate, or set gradient_clip"
        )


def _predict(run: Run, state: TrainState, step: int, part: str, path: Path) -> evaluate.Table:
    """The table of predictions for a part, which is also written to `path`."""
    index = run.splits[part]
    embeddings = evaluate.TrackMeans(len(index.tracks))
    table = run.evaluate(state, part, embeddings)
    _check_finite(run, table, part, step)
    if hosts.is_first():
        evaluate.save_predictions(path, table, embeddings.means(), index, run.config)
    return table


def _final(run: Run, state: TrainState, step: int, workdir: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Evaluate on the test split, with `evaluate.train` on the training split too, and write predictions and results.json."""
    index, config = run.splits["test"], run.config
    started = time.perf_counter()
    table = _predict(run, state, step, "test", workdir / "predictions.npz")
    seconds = time.perf_counter() - started
    if config.evaluate.train:
        training = _predict(run, state, step, "train", workdir / "predictions-train.npz")
        known |= {"train": evaluate.scores(training, config, index.classes)}
    summary = {
        "schema": 1,
        "run": config.name,
        "step": step,
        "split": index.split,
        "data_set": index.data_set,
        "sample_rate": index.sample_rate,
        "directory": str(run.folder.resolve()),
        "windows": len(table["clip"]),
        "clips": len(np.unique(table["clip"])),
        "tracks": len(np.unique(table["track"])),
        "damaged_clips": {part: int((split.state == shards.DAMAGED).sum()) for part, split in run.splits.items()},
        "task": evaluate.task(config),
        "clips_per_second": round(len(table["clip"]) / seconds, 2),
        **known,
        **evaluate.scores(table, config, index.classes),
    }
    if hosts.is_first():
        write_json(workdir / "results.json", summary)
    values = evaluate.headline(summary, config)
    say(f"test at step {step}: " + "  ".join(f"{key} {value:.4g}" for key, value in values.items() if key != "score"))
    return summary
