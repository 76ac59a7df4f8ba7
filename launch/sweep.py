"""Search config keys for the best validation score, by TPE or at random, with Optuna.

    python launch/sweep.py --config=FILE:presets --workdir=DIR --trials=20 \
        --space=schedule.learning_rate=log:1e-5:1e-2 --space=model.width=int:8:64:8 --space=train.batch_size=choice:16,32 \
        [--method=tpe|random] [--metric=KEY] [--seed=0] [--noprune] [--config.KEY=VALUE …]

A trial is a run in DIR/trial_NNN. Its value is the best value of the metric over its evaluations of the validation split: the
test split chooses nothing. A trial whose value is below the median of the earlier trials at the same evaluation is ended early.
DIR/study.db holds the study. The same command goes on with it after a stop, and with a larger --trials adds trials. A trial
that was interrupted is resumed in its workdir. The draws depend on --seed and on the finished trials alone.
"""

import csv
import importlib.util
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import child
import space
from absl import flags

from genre_jax import console, lock
from genre_jax.atomic import write_whole
from genre_jax.console import UserError, say

MOST_FAILURES = 3  # in a row; then something else than the keys is wrong
FALLING = ("loss",)  # metrics whose smallest value is the best
METHODS = ("tpe", "random")


def define_flags() -> None:
    """Define the flags of this command. Not at import, because the tests import it beside other commands."""
    flags.DEFINE_string("config", None, "Config file or name of a shipped config, with presets and key=value after a colon.")
    flags.DEFINE_string("workdir", None, "Folder of the trials and of the study.")
    flags.DEFINE_integer("trials", 20, "Number of trials of the study, those that ended early included.", lower_bound=1)
    flags.DEFINE_multi_string("space", [], f"A config key and its values: {space.FORMS}.")
    flags.DEFINE_string("method", "tpe", "tpe (tree-structured Parzen estimator) or random.")
    flags.DEFINE_string("metric", "score", "Metric of the validation lines of metrics.jsonl.")
    flags.DEFINE_integer("seed", 0, "Seed of the draws.")
    flags.DEFINE_bool("prune", True, "End a trial early whose value is below the median of the trials before it.")
    flags.DEFINE_integer("startup", 5, "Trials before the median ends trials, and before TPE draws.", lower_bound=1)


class Sweep:
    """A study and its trials.

    Args:
      folder: the workdir of the sweep.
      config: the value of --config.
      dimensions: the keys that vary.
      fixed: overrides of all trials.
      metric: of the validation lines.
      method, seed, prune, startup: as the flags of these names say.
      run: runs a trial, as `child.run`.

    Raises `UserError` if the folder holds a study with other arguments.
    """

    def __init__(
        self, folder: Path, config: str, dimensions: list[space.Dimension], fixed: dict[str, str], *,
        metric: str = "score", method: str = "tpe", seed: int = 0, prune: bool = True, startup: int = 5,
        run: Callable[..., int] = child.run,
    ):  # fmt: skip
        import optuna
        from sqlalchemy.pool import NullPool

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.config, self.dimensions, self.fixed, self.metric = folder, config, dimensions, fixed, metric
        self.method, self.seed, self.startup, self._run, self._optuna = method, seed, startup, run, optuna
        pruner = optuna.pruners.MedianPruner(n_startup_trials=startup) if prune else optuna.pruners.NopPruner()
        self.falling = metric in FALLING
        what = {"config": config, "fixed": fixed, "space": [repr(d) for d in dimensions], "metric": metric, "method": method}
        what |= {"seed": seed, "prune": prune, "startup": startup}
        place = f"sqlite:///{(folder / 'study.db').resolve()}"
        # Without a pool every connection is closed after its use, and none is left open at the end.
        storage = optuna.storages.RDBStorage(place, engine_kwargs={"poolclass": NullPool})
        options: Any = {"storage": storage, "study_name": "sweep", "pruner": pruner, "load_if_exists": True}
        options["direction"] = "minimize" if self.falling else "maximize"
        self.study = optuna.create_study(**options)
        known = self.study.user_attrs.get("what", what)
        differing = sorted(key for key in what if known.get(key) != what[key])
        if differing and self.ended():
            raise UserError(
                f"{folder} holds a study with other arguments (they differ in {', '.join(differing)}): choose another --workdir"
            )
        if differing:  # nothing depends on them yet
            optuna.delete_study(study_name="sweep", storage=storage)
            self.study = optuna.create_study(**options)
        self.study.set_user_attr("what", what)

    def ended(self) -> list[Any]:
        """The trials that are complete, were ended early, or failed, in their order."""
        states = self._optuna.trial.TrialState
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state in (states.COMPLETE, states.PRUNED) or "exit_code" in trial.user_attrs
        ]

    def work(self, trials: int) -> int:
        """Do trials until the study has `trials` of them. Returns the exit code of the command."""
        self._queue_interrupted()
        failures = 0
        while (number := len(self.ended())) < trials:
            code = self._trial(number)
            failures = failures + 1 if code else 0
            if failures == MOST_FAILURES:
                console.complain(f"{failures} trials failed one after the other: correct what their lines say")
                return code if code > 0 else 128 - code
        return 0

    def _queue_interrupted(self) -> None:
        """Put the trials that an earlier command left unfinished in the queue again, with their values."""
        states = self._optuna.trial.TrialState
        for trial in self.study.get_trials(states=(states.RUNNING,)):
            self.study.tell(trial.number, state=states.FAIL)
            if trial.params.keys() == {dimension.key for dimension in self.dimensions}:
                self.study.enqueue_trial(trial.params)

    def _trial(self, number: int) -> int:
        """Do a trial; return its exit code, 0 also if it was ended early."""
        # A sampler that is new for each trial makes the draws independent of where the command was stopped.
        seed = 1_000_003 * self.seed + number
        samplers = self._optuna.samplers
        tpe = self.method == "tpe"
        self.study.sampler = (
            samplers.TPESampler(seed=seed, n_startup_trials=self.startup) if tpe else samplers.RandomSampler(seed)
        )
        trial = self.study.ask()
        values = {dimension.key: dimension.suggest(trial) for dimension in self.dimensions}
        name = f"trial_{number:03d}"
        trial.set_user_attr("name", name)
        say(f"{name}: " + "  ".join(f"{key}={value}" for key, value in values.items()))
        watch = _Watch(trial, self.folder / name, self.metric, self.falling)
        arguments = child.command(self.config, space.overrides(self.dimensions, values, self.fixed), self.folder / name)
        code = self._run(arguments, name, watch)
        watch.report()
        states = self._optuna.trial.TrialState
        if watch.stopped and code:
            self.study.tell(trial, state=states.PRUNED)
            say(f"{name} was ended early: its {self.metric} is {watch.best:.4g}")
        elif code:
            trial.set_user_attr("exit_code", code)
            self.study.tell(trial, state=states.FAIL)
            console.complain(f"{child.exit_sentence(name, code)}; the sweep goes on without it")
        elif watch.best is None:
            raise UserError(f"{name} has no evaluation of the validation split: set --config.data.validation")
        else:
            self.study.tell(trial, watch.best)
        self.write_table()
        return 0 if watch.stopped else code

    def rows(self) -> list[dict[str, Any]]:
        """The trials as rows of trials.csv."""
        return [
            {
                "trial": trial.user_attrs["name"],
                "state": "failed"
                if trial.state.name == "FAIL"
                else "ended early"
                if trial.state.name == "PRUNED"
                else "complete",
                self.metric: "" if trial.value is None else repr(trial.value),
                "evaluations": len(trial.intermediate_values),
                **trial.params,
            }
            for trial in self.ended()
        ]

    def write_table(self) -> None:
        """Write DIR/trials.csv."""
        rows = self.rows()
        with write_whole(self.folder / "trials.csv", "w") as file:
            writer = csv.DictWriter(file, ["trial", "state", self.metric, "evaluations", *(d.key for d in self.dimensions)])
            writer.writeheader()
            writer.writerows(rows)

    def best_command(self) -> str | None:
        """The command of the best complete trial, for the shell; None if no trial is complete."""
        complete = [trial for trial in self.ended() if trial.state.name == "COMPLETE"]
        if not complete:
            return None
        best = (min if self.falling else max)(complete, key=lambda trial: trial.value)
        values = {key: str(value) for key, value in best.params.items()}
        say(f"best: {best.user_attrs['name']} with {self.metric} {best.value:.4g}")
        keys = space.overrides(self.dimensions, values, self.fixed)
        return shlex.join(["python", "-m", "genre_jax.main", *child.command(self.config, keys, self.folder / "best")])

    def draw(self) -> None:
        """Draw the values of the trials and the best so far as DIR/history.png, if Matplotlib is installed."""
        if importlib.util.find_spec("matplotlib") is None:
            console.complain("no history.png: Matplotlib is not installed")
            return
        from matplotlib.figure import Figure

        rows = [(number, trial) for number, trial in enumerate(self.ended()) if trial.value is not None]
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for state, marker in (("COMPLETE", "o"), ("PRUNED", "x")):
            of_state = [(number, trial.value) for number, trial in rows if trial.state.name == state]
            if of_state:
                label = "complete" if state == "COMPLETE" else "ended early"
                axes.plot(*zip(*of_state, strict=True), marker, label=label)
        complete = [(number, trial.value) for number, trial in rows if trial.state.name == "COMPLETE"]
        if complete:
            choose, best = (min if self.falling else max), []
            for _, value in complete:
                best.append(choose([*best[-1:], value]))
            axes.step([number for number, _ in complete], best, where="post", label="best so far")
            figure.legend(loc="outside upper center", ncols=3)
        axes.set(xlabel="trial", ylabel=f"validation {self.metric}")
        figure.savefig(self.folder / "history.png", dpi=120)


class _Watch:
    """Reports the validation lines of a run to its trial while it runs, and ends it (SIGTERM) if it should be pruned.

    The n-th evaluation is step n of Optuna, because trials may have other batch sizes and therefore other numbers of steps.
    """

    def __init__(self, trial: Any, workdir: Path, metric: str, falling: bool):
        self.trial, self.workdir, self.metric, self.falling = trial, workdir, metric, falling
        self.best: float | None = None
        self.stopped = False
        self._reported = 0

    def __call__(self, process: Any) -> None:
        if self.report() and not self.stopped and self.trial.should_prune():
            self.stopped = True
            process.terminate()  # the run saves its state and ends with code 143

    def report(self) -> bool:
        """Report new evaluations; return whether there were any."""
        new = child.validations(self.workdir)[self._reported :]
        for line in new:
            if self.metric not in line:
                legal = line.keys() - {"step", "split"}
                raise console.unknown("--metric", self.metric, legal)
            value = line[self.metric]
            if self.best is None or (value < self.best if self.falling else value > self.best):
                self.best = value
            self._reported += 1
            self.trial.report(value, self._reported)
        return bool(new)


def check_keys(config: str, dimensions: list[space.Dimension], fixed: dict[str, str]) -> None:
    """Raise `UserError` unless the config accepts both bounds, or all choices, of each key, and has a validation split."""
    from genre_jax import config as configs

    first = {dimension.key: dimension.corners()[0] for dimension in dimensions}
    for dimension in dimensions:
        for text in dimension.corners():
            loaded = configs.load(config, space.overrides(dimensions, first | {dimension.key: text}, fixed))
    if not loaded.data.validation:
        raise UserError("a sweep needs a validation split, and config key 'data.validation' is empty")


def main(argv: list[str]) -> int:
    """Do the trials, and write DIR/trials.csv and DIR/history.png. The best trial is printed as a command."""
    args = flags.FLAGS
    if args.config is None or args.workdir is None:
        raise UserError("--config and --workdir are needed: python launch/sweep.py --config=FILE --workdir=DIR --space=…")
    if importlib.util.find_spec("optuna") is None:
        raise UserError("a sweep needs Optuna, which is not installed: pip install 'genre_jax[sweep]'")
    if args.method not in METHODS:
        raise console.unknown("--method", args.method, METHODS)
    fixed = console.overrides(argv[1:])
    dimensions = space.parse_all(args.space, fixed)
    check_keys(args.config, dimensions, fixed)
    folder = Path(args.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    with lock.hold(folder / ".lock", f"another command holds {folder}: wait until it ends, or choose another --workdir"):
        sweep = Sweep(
            folder, args.config, dimensions, fixed, metric=args.metric, method=args.method, seed=args.seed,
            prune=args.prune, startup=args.startup,
        )  # fmt: skip
        code = sweep.work(args.trials)
        sweep.write_table()
        sweep.draw()
        if command := sweep.best_command():
            say(command)
        return code


if __name__ == "__main__":
    define_flags()
    console.run(main, console.parse_flags)
