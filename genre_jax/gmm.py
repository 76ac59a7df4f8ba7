"""Networks that are fitted to the training split instead of trained step by step: those whose Module has `fit` (`models.Gmm`).

Such a run goes through `main` like any other, to the same checkpoint, predictions and results; its fit is its step 1. It
reads front end, data, loss, evaluation and seed of its config; there is no order, augmentation, optimiser or schedule.
"""

import time
from typing import Any

import jax
import numpy as np

from genre_jax import evaluate
from genre_jax.checkpoint import Checkpoints
from genre_jax.console import UserError, say
from genre_jax.data.batches import EvalBatches
from genre_jax.logbook import Logbook


def fits(run: Any) -> bool:
    """Whether the network of a `train.Run` is fitted; raises `UserError` where its config asks it for what it has not."""
    config = run.config
    if not hasattr(run.network.model, "fit"):
        return False
    name = config.model.name
    if config.loss.name != "softmax":
        wrong = f"loss.name must be 'softmax', and was given {config.loss.name!r}"
        raise UserError(f"model {name!r} needs one label a clip: {wrong}")
    if config.init_from:
        raise UserError(f"model {name!r} is fitted anew: init_from must be '', and was given {config.init_from!r}")
    return True


def refuse_steps(run: Any) -> None:
    """Raise `UserError` where the network of a `train.Run` is fitted: what is asked about its training steps has no answer."""
    if fits(run):
        raise UserError(
            f"model {run.config.model.name!r} is fitted at once and takes no training steps: run it without this flag"
        )


def fit(run: Any, state: Any, start: int, checkpoints: Checkpoints, logbook: Logbook, profile: Any = None) -> Any:
    """The state of a `train.Run` after its fit, which is checkpointed and evaluated; `state` itself where it has `start`ed.

    Frames are taken evenly from every window of the training split, as many in all as `frames` a class.
    """
    del profile
    if start:
        return state
    model, index, began = run.network.model, run.splits["train"], time.perf_counter()
    features, targets = _frames(run, state)
    say(f"fitting {run.config.model.name} to {len(features):,} frames of {features.shape[-1]} features")
    params, likelihood = model.fit(features, targets, index.classes, run.config.seed)
    state = run.devices.replicate(run.state_of({"params": params, "batch_stats": state.batch_stats}).replace(step=np.int32(1)))
    logbook.metrics(1, "train", {"log_likelihood": likelihood})
    logbook.timing(1, len(index) / (time.perf_counter() - began), 0.0)
    scores = None
    if "validation" in run.splits:
        scores = evaluate.headline(evaluate.scores(run.evaluate(state, "validation"), run.config))
        logbook.metrics(1, "validation", scores)
        say("validation: " + "  ".join(f"{key} {value:.4g}" for key, value in scores.items()))
    checkpoints.save(1, state, scores)
    return state


def _frames(run: Any, state: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features (frames, bins) of the training split and the class number (frames,) of each."""
    from genre_jax.train import condition  # which imports this module

    config, network, index = run.config, run.network, run.splits["train"]
    batches = EvalBatches(index, config, jax.process_index(), jax.process_count())
    share = -(-network.model.frames * len(index.classes) // len(batches.clip))  # of a window

    def features(variables, constants, batch):
        del constants
        x = network.frontend.apply(
            {"batch_stats": variables["batch_stats"].get("frontend", {})}, condition(batch, network, config)
        )
        chosen = np.linspace(0, x.shape[1] - 1, min(share, x.shape[1])).round().astype(int)
        return {"features": x[:, chosen]}

    step = run.devices.eval_step(features)
    table = evaluate.predict(step, {"batch_stats": state.batch_stats}, {}, batches, run.devices, config)
    kept = table["features"]
    return kept.reshape(-1, kept.shape[-1]), table["labels"].argmax(1).repeat(kept.shape[1])
