"""Checkpoints of a run, through Orbax: written in the background, the best one and the last k kept.

What a run starts from, in this order, resume > init_from > scratch:
(1) its own last checkpoint in the workdir; where there is one, nothing else is read;
(2) the weights that `config.init_from` names, a run's workdir or a file (`pretrained.transplant`), the classifier fresh
    where the classes differ; step and optimiser state start at 0;
(3) fresh weights from the seed.

A checkpoint has two items, "model" (parameters, batch statistics, moving average: all that prediction needs) and
"training" (step, optimiser state). Orbax writes into a temporary folder and renames it, so that a killed run finds its
last whole one.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from genre_jax.console import UserError

MODEL = ("params", "batch_stats", "frontend", "ema")
TRAINING = ("step", "opt_state")


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


class Checkpoints:
    """The checkpoints under `directory`: the last `keep`, and the one with the largest validation "score"."""

    def __init__(self, directory: Path, keep: int = 2):
        self._manager = ocp.CheckpointManager(
            directory.resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                    [
                        checkpoint_managers.LatestN(n=keep),
                        checkpoint_managers.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False),
                    ]
                ),
                best_fn=_score,
                best_mode="max",
                cleanup_tmp_directories=True,
            ),
            item_names=("model", "training"),
        )

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Write `state` in the background; `metrics` are those of the evaluation at this step, if there was one.

        The state is copied to the host first: the next step is given its buffers to write over.
        """
        state = jax.tree.map(np.array, state)
        items = ocp.args.Composite(
            model=ocp.args.StandardSave({key: getattr(state, key) for key in MODEL}),
            training=ocp.args.StandardSave({key: getattr(state, key) for key in TRAINING}),
        )
        self._manager.save(step, args=items, metrics=metrics)

    def restore(self, abstract: Any, step: int) -> Any:
        """The state at `step`, with the shapes, types and placement of `abstract` (a TrainState)."""
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore({key: getattr(abstract, key) for key in MODEL}),
                training=ocp.args.StandardRestore({key: getattr(abstract, key) for key in TRAINING}),
            ),
        )
        return abstract.replace(**items.model, **items.training)

    def restore_model(self, step: int) -> dict[str, Any]:
        """{"params", "batch_stats", "ema"} at `step`, as host arrays."""
        item = ocp.args.Composite(model=ocp.args.StandardRestore())
        return self._manager.restore(step, args=item).model

    def latest(self) -> int | None:
        """Step of the last whole checkpoint."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Step of the best checkpoint on validation (of equals the latest); the last one where none was evaluated."""
        best = self._manager.best_step()
        return self.latest() if best is None else best

    def final(self, which: str) -> int:
        """Step of the checkpoint that is evaluated: the "best" or the "last". Raises `UserError` where there is none."""
        step = self.best() if which == "best" else self.latest()
        if step is None:
            raise UserError(f"{self._manager.directory} holds no checkpoint yet")
        return step

    def wait(self) -> None:
        """Return when all is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()
