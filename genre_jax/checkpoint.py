"""Checkpoints of a run, through Orbax: written in the background; the best one and the last k are kept.

A run starts from the first of these that exists:
(1) the last checkpoint in its workdir (resume);
(2) the weights that `config.init_from` names, the workdir of a run or a file (`weights.pretrained.transplant`). The classifier
    is new if the classes differ; the step and the optimiser state start at 0;
(3) random weights from the seed.

A checkpoint has two items: "model" (parameters, batch statistics, front-end statistics, moving average: everything that
prediction needs) and "training" (step, optimiser state). Orbax writes into a temporary folder and renames it, so that a
killed run finds its last complete checkpoint.
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
        """Write `state` in the background, with the `metrics` of the evaluation at this step, if there was one.

        The state is copied to the host first, because the next step overwrites its buffers.
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
        """The item "model" at `step`, as host arrays."""
        item = ocp.args.Composite(model=ocp.args.StandardRestore())
        return self._manager.restore(step, args=item).model

    def latest(self) -> int | None:
        """Step of the last complete checkpoint."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Step of the checkpoint with the best validation score, the latest of equals; the last one if none was evaluated."""
        best = self._manager.best_step()
        return self.latest() if best is None else best

    def final(self, which: str) -> int:
        """Step of the checkpoint to evaluate, the "best" or the "last". Raises `UserError` if there is no checkpoint."""
        step = self.best() if which == "best" else self.latest()
        if step is None:
            raise UserError(f"{self._manager.directory} holds no checkpoint yet")
        return step

    def wait(self) -> None:
        """Wait until everything is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and release the folder."""
        self._manager.close()
