"""Checkpoints of a run, through Orbax: written in the background, the best one and the last k kept.

What a run starts from, in this order: (1) its own last checkpoint in the workdir, (2) fresh weights from the seed.

A checkpoint has two items, "model" (parameters, batch statistics, moving average: all that prediction needs) and
"training" (step, optimiser state). Orbax writes into a temporary folder and renames it, so that a killed run finds its
last whole one.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

logging.set_verbosity(logging.ERROR)  # Orbax reports every save, and warns of each that has no metrics

MODEL = ("params", "batch_stats", "ema")
TRAINING = ("step", "opt_state")


class Checkpoints:
    """The checkpoints under `directory`; `best` names the validation metric whose largest value marks the best one."""

    def __init__(self, directory: Path, keep: int = 2, best: str = "accuracy"):
        self._best = best
        self._manager = ocp.CheckpointManager(
            directory.resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                    [
                        checkpoint_managers.LatestN(n=keep),
                        checkpoint_managers.BestN(
                            get_metric_fn=self._metric, n=1, keep_checkpoints_without_metrics=False
                        ),
                    ]
                ),
                best_fn=self._metric,
                best_mode="max",
                cleanup_tmp_directories=True,
            ),
            item_names=("model", "training"),
        )

    def _metric(self, metrics: dict[str, float]) -> float:
        return metrics[self._best]

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

    def wait(self) -> None:
        """Return when all is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()
