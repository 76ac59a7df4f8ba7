"""The training state and the two pure steps, in reading order.

`TrainStep` and `eval_step` are functions of (state, constants, batch). They know neither devices nor files: `parallel.py`
runs them on all devices, and `run.py` brings them to data, checkpoints and logs.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from genre_jax import forward, freezing, losses, optim, parallel
from genre_jax.augment import features as feature_augment
from genre_jax.augment import waveform as augment
from genre_jax.data import order

Batch = dict[str, jax.Array]


class TrainState(struct.PyTreeNode):
    """Everything that a step changes, and the fixed statistics of the front end.

    Attributes:
      step: steps taken, int32.
      params, batch_stats: of the network.
      frontend: statistics of the training split that the front end scales by; empty for most front ends.
      ema: exponential moving average of `params`; empty unless the config switches it on.
      opt_state: of the optimiser.
      skipped: steps whose update was left out because loss or gradient was not finite, int32.
    """

    step: Any
    params: Any
    batch_stats: Any
    frontend: Any
    ema: Any
    opt_state: Any
    skipped: Any

    def variables(self) -> dict[str, Any]:
        """The variables for evaluation and prediction: with the moving average of the parameters, if there is one."""
        return {"params": self.ema or self.params, "batch_stats": self.batch_stats, "frontend": self.frontend}


@dataclasses.dataclass(frozen=True, eq=False)  # JAX keys its cache by the object
class TrainStep:
    """The training step `(state, constants, batch) -> (state, metrics)`, of `inputs`, `gradients` and `update`.

    Attributes:
      network, optimizer, schedule: the forward pass, the direction and the learning rate of an update.
      config: the run's config.
      axis_name: of the devices; None for a single device.
      freeze: parameters that are frozen at first or throughout; None for none.
      starts: augmentation → first step at which it is on, for those that start late.
      visits: augmentation → number of visits between redraws (`augment.validate.visits`).
      teacher: the `distill.Teacher` from which the step learns; None for none.
    """

    network: forward.Forward
    optimizer: optax.GradientTransformationExtraArgs
    schedule: optim.Schedule
    config: ConfigDict
    axis_name: str | None
    freeze: freezing.Freeze | None = None
    starts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    visits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    teacher: Any = None

    @property
    def loss(self) -> losses.Loss:
        """The loss of the config, or with a teacher the loss on both labels and the teacher's logits."""
        return self.teacher.loss if self.teacher else losses.LOSSES[self.config.loss.name]

    def __call__(self, state: TrainState, constants: dict[str, Any], batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        """Update the state from this device's share of the batch; loss and gradient are those of the whole batch.

        Args:
          state: replicated over the devices.
          constants: as `run.Program.constants_of` returns them.
          batch: this device's share of a batch of `data.batches`.

        Returns the new state, and {"loss", "accuracy", "gradient_norm", "learning_rate"}, equal on all devices. The accuracy
        counts labels before mixup and smoothing. With `train.skip_nonfinite`, `_guarded` leaves out an update that is not
        finite.
        """
        return self.update(state, *self.gradients(state, constants, batch))

    def gradients(self, state: TrainState, constants: dict[str, Any], batch: Batch) -> tuple[Any, Any, dict[str, jax.Array]]:
        """The gradient, the new batch statistics, and {"loss", "accuracy"}, of the whole batch. Reads no optimiser state."""
        config, network, freeze, loss = self.config, self.network, self.freeze, self.loss
        batch = self.inputs(state, constants, batch)
        weight = loss.weights(batch["labels"], constants["class_weights"]) * batch["mask"]
        total_weight, count = parallel.sum((weight.sum(), batch["mask"].sum()), self.axis_name)
        total_weight, count = (jnp.maximum(x, jnp.finfo(x.dtype).tiny) for x in (total_weight, count))  # 0 if all are masked

        def loss_of(params, batch_stats, part):
            params = freeze.detached(params) if freeze else params
            keys = augment.example_keys(constants["dropout_key"], part["visit"], part["clip"], part["variant"])
            logits, _, batch_stats = network.logits(
                {"params": params, "batch_stats": batch_stats}, part["features"], train=True, mask=part["mask"], keys=keys
            )
            values = loss.values(logits, part["targets"], constants["class_weights"])
            weight = loss.weights(part["labels"], constants["class_weights"]) * part["mask"]
            share = (values * weight).sum() / total_weight
            hits = (losses.hits(logits, part["clean_labels"]) * part["mask"]).sum() / count
            return share, (batch_stats, {"loss": share, "accuracy": hits})

        with freeze.statistics(state.step) if freeze else contextlib.nullcontext():
            gradients, batch_stats, sums = _accumulate(loss_of, state, batch, config.train.accumulate)
        if config.batch_norm_devices:  # each group of devices has other statistics, and the state holds their mean
            batch_stats = parallel.mean(batch_stats, self.axis_name)
        gradients, metrics = parallel.sum((gradients, sums), self.axis_name)
        return gradients, batch_stats, metrics

    def inputs(self, state: TrainState, constants: dict[str, Any], batch: Batch) -> Batch:
        """Augment a batch and turn it into the inputs and targets of the network.

        Returns "features" (batch, …), "labels" after mixup and "clean_labels" before (both (batch, classes)), "targets" (the
        smoothed labels; with a teacher the pair of them and its logits), and the batch's "clip", "visit", "variant" and "mask".
        All random numbers come from the keys of the clips. Mixup alone reads another clip, the next one of the global batch.
        """
        network, config, settings, key = self.network, self.config, self.config.augment, constants["augment_key"]
        mixup, upright = settings.mixup, config.frontend.upright
        on = {name: state.step >= first for name, first in self.starts.items()}
        keys = augment.keys_by_name(key, batch, self.visits)
        waveform = network.waveform(batch)
        if order.versions(config.data.copies):
            fixed = augment.example_keys(key, jnp.zeros_like(batch["visit"]), batch["clip"], batch["variant"])
            waveform = augment.copy(waveform, fixed, batch["variant"], config.data.copies, settings.vocoder_fft)
        rate, bank = config.data.sample_rate, constants.get("noise")
        waveform = augment.augment(waveform, keys, settings, sample_rate=rate, bank=bank, on=on)
        labels = batch["labels"].astype(network.wide)

        def mixed(example):
            following, valid = parallel.following((example, batch["mask"]), self.axis_name, config.model.get("time_shards", 1))
            mix = functools.partial(feature_augment.mixup, keys["mixup"], other=following, valid=valid, alpha=mixup.alpha)
            return augment.switch(["mixup"], on, mix, example)

        if mixup.alpha and mixup.of == "waveform":
            waveform, labels = mixed((waveform, labels))
        features = network.features(state.variables(), waveform)
        heard = self.teacher.features(constants["teacher"], waveform) if self.teacher else ()
        if mixup.alpha and mixup.of == "features":
            (features, heard), labels = mixed(((features, heard), labels))
        if settings.mask.frequency or settings.mask.time:
            blank = functools.partial(feature_augment.mask, keys=keys["mask"], config=settings.mask, upright=upright)
            features = augment.switch(["mask"], on, blank, features)
        targets: Any = self.loss.smooth(labels, config.loss.label_smoothing)
        if self.teacher:
            targets = targets, self.teacher.logits(constants["teacher"], heard, batch)
        kept = {name: batch[name] for name in ("clip", "visit", "variant", "mask")}
        return kept | {"features": features, "labels": labels, "targets": targets, "clean_labels": batch["labels"]}

    def update(
        self, state: TrainState, gradients: Any, batch_stats: Any, metrics: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """The new state from the results of `gradients`, and the metrics of the step."""
        config, freeze = self.config, self.freeze
        rate = self.schedule(state.step)
        directions, opt_state = self.optimizer.update(gradients, state.opt_state, state.params, step=state.step)
        params = jax.tree.map(lambda p, d: p - rate.astype(p.dtype) * d, state.params, directions)
        ema = jax.tree.map(lambda e, p: config.ema * e + (1 - config.ema) * p, state.ema, params) if config.ema else state.ema
        if freeze:
            ema = freeze.keep(state.step, state.ema, ema)
        updated = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, ema=ema, opt_state=opt_state)
        metrics |= {"gradient_norm": optax.global_norm(gradients), "learning_rate": rate}
        return _guarded(state, updated, metrics, config.train.skip_nonfinite), metrics


def _guarded(state: TrainState, updated: TrainState, metrics: dict[str, jax.Array], most: int) -> TrainState:
    """The updated state if loss and gradient are finite. Otherwise the old one, whose step advances up to `most` times a run.

    After that the state never changes again: whenever the host notices, it holds the state before the failed step. The guard
    costs memory, because all gradients must be there before the first parameter changes; if `most` is 0 there is none.
    """
    if not most:
        return updated
    running = state.skipped <= most
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
    kept = jax.tree.map(lambda old, new: jnp.where(running & finite, new, old), state, updated)
    skipped = state.skipped + (running & ~finite)
    return kept.replace(step=jnp.where(skipped <= most, updated.step, state.step), skipped=skipped)


def _accumulate(loss_of, state: TrainState, batch: Batch, parts: int):
    """Gradient, batch statistics and sums over `parts` micro-batches in turn; the shares of the loss add up to the whole."""
    gradient_of = jax.value_and_grad(loss_of, has_aux=True)
    if parts == 1:
        (_, (batch_stats, sums)), gradients = gradient_of(state.params, state.batch_stats, batch)
        return gradients, batch_stats, sums
    micro = jax.tree.map(lambda x: x.reshape(parts, len(x) // parts, *x.shape[1:]), batch)

    def body(carry, part):
        gradients, batch_stats, sums = carry
        (_, (batch_stats, more)), gradient = gradient_of(state.params, batch_stats, part)
        return (jax.tree.map(jnp.add, gradients, gradient), batch_stats, jax.tree.map(jnp.add, sums, more)), None

    shapes = jax.eval_shape(gradient_of, state.params, state.batch_stats, jax.tree.map(lambda x: x[0], micro))
    (_, (_, sum_shapes)), gradient_shapes = shapes
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (gradient_shapes, sum_shapes))
    (gradients, batch_stats, sums), _ = jax.lax.scan(body, (zeros[0], state.batch_stats, zeros[1]), micro)
    return gradients, batch_stats, sums


def eval_step(
    variables: Any, constants: dict[str, Any], batch: Batch, *, network: forward.Forward, config: ConfigDict
) -> dict[str, jax.Array]:
    """Scores of each example: {"logits" (batch, classes), "loss", "weight" (batch,), "embedding" (batch, dimensions)}."""
    logits, intermediates = network(variables, batch)
    loss, labels, class_weights = losses.LOSSES[config.loss.name], batch["labels"], constants["class_weights"]
    values = loss.values(logits, labels, class_weights)
    weights = loss.weights(labels, class_weights)
    return {"logits": logits, "loss": values, "weight": weights, "embedding": intermediates["embedding"].astype(network.wide)}
