"""Distillation (Hinton, Vinyals & Dean 2015, arXiv 1503.02531): a network learns from the logits of a trained one, the teacher.

The loss of a clip is share · soft + (1 - share) · loss on the labels. The soft loss is the Kullback-Leibler divergence
KL(teacher ‖ student) of their outputs, whose logits are divided by the temperature T. With `distill.squared` it is multiplied
by T², which keeps the size of its gradient when T changes. Document 003 has a share of 0.9, and does not say whether it
multiplies by T².

The teacher reads the augmented waveform of the student through its own front end, in the same compiled step. It runs in
evaluation mode. Its variables are constants of the step, which get no gradient, are not donated and are in no checkpoint. With
`distill.cached` its logits for each cut are computed once, before training, from the cut without augmentation.
"""

import dataclasses
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from genre_jax import checksum, evaluate, forward, losses, parallel
from genre_jax.console import UserError, say
from genre_jax.data.batches import Batch, Cut, EvalBatches, TrainBatches
from genre_jax.weights import files, pretrained

EQUAL = ("data.sample_rate", "data.conditioning", "augment.gain_cap")  # keys in which teacher and student must not differ


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network, as a training step reads it.

    Attributes:
      network: front end and network.
      trained: its config, labels and variables.
      loss: the student's loss, whose `values` take the pair (labels, logits of the teacher) in the place of labels.
      cached: whether the logits come with the batch, as "soft".
    """

    network: forward.Forward
    trained: pretrained.Trained
    loss: losses.Loss
    cached: bool

    def constants(self, labels: tuple[str, ...]) -> dict[str, Any]:
        """What the step reads of the teacher: "variables", and "columns", the places of the classes `labels` in its logits.

        Raises `UserError` if the teacher does not know one of the classes.
        """
        known = self.trained.labels
        if unknown := sorted(set(labels) - set(known)):
            raise UserError(
                f"the teacher does not know the class{'es' * (len(unknown) > 1)} {', '.join(unknown)}: its classes are "
                f"{', '.join(known)}"
            )
        columns = np.array([known.index(label) for label in labels], np.int32)
        return {"variables": {} if self.cached else self.trained.variables, "columns": columns}

    def features(self, constants: dict[str, Any], waveform: jax.Array) -> Any:
        """The teacher's input for waveforms (batch, samples); nothing if its logits are cached."""
        return () if self.cached else self.network.features(constants["variables"], waveform.astype(self.network.wide))

    def logits(self, constants: dict[str, Any], features: Any, batch: dict[str, jax.Array]) -> jax.Array:
        """The teacher's logits (batch, classes of the student) for the result of `features`."""
        if self.cached:
            return batch["soft"]
        logits, _, _ = self.network.logits(constants["variables"], features)
        return jnp.take(logits, constants["columns"], 1)

    def checksum(self) -> str:
        """The checksum of labels and weights: a run that is resumed must learn from the same teacher."""
        arrays = flax.traverse_util.flatten_dict(self.trained.variables, sep="/")
        return checksum.of_json([self.trained.labels, checksum.of_arrays(arrays)])


def load(config: ConfigDict) -> Teacher | None:
    """The teacher of a config; None without `distill.teacher`. Raises `UserError` if it cannot teach this student."""
    settings = config.distill
    if not settings.teacher:
        return None
    check_source(config)
    trained = pretrained.load_trained(settings.teacher)
    theirs = trained.config.copy_and_resolve_references()
    if "float64" in (theirs.dtype, config.dtype):
        theirs.dtype = config.dtype
    _check(settings.teacher, theirs, config)
    network = forward.build(theirs, len(trained.labels))
    waveform = jax.ShapeDtypeStruct((1, config.data.samples), network.wide)
    try:
        jax.eval_shape(lambda y: network.logits(trained.variables, network.features(trained.variables, y)), waveform)
    except UserError as error:
        raise UserError(f"the teacher {settings.teacher} cannot read cuts of {config.data.samples} samples: {error}") from error
    return Teacher(network, trained, distilled(losses.LOSSES[config.loss.name], settings), settings.cached)


def check_source(config: ConfigDict) -> None:
    """Raise `UserError` if `distill.teacher` cannot be a trained network. Reads no weights."""
    teacher = config.distill.teacher
    if teacher and not Path(teacher, "labels.json").is_file():
        try:
            files.check(teacher)
        except UserError as error:
            raise UserError(
                f"there is no trained network in distill.teacher={teacher}: train it first, or name another"
            ) from error


def _check(source: str, theirs: ConfigDict, config: ConfigDict) -> None:
    """Raise `UserError` if the teacher was trained on other waveforms, or for the other task."""
    for key in EQUAL:
        section, name = key.split(".")
        if theirs[section][name] != config[section][name]:
            raise UserError(
                f"the teacher {source} was trained with {key}={theirs[section][name]!r}, and the student has "
                f"{config[section][name]!r}: they must hear the same waveform"
            )
    if evaluate.task(theirs) != evaluate.task(config):
        raise UserError(
            f"the teacher {source} was trained with loss {theirs.loss.name!r}, and the student has {config.loss.name!r}: "
            "they must have the same task"
        )


def distilled(loss: losses.Loss, settings: ConfigDict) -> losses.Loss:
    """`loss` with the soft loss of the section `distill` added: its `values` take the pair (labels, logits of the teacher)."""
    temperature, share = settings.temperature, settings.share
    factor = temperature**2 if settings.squared else 1.0

    def values(logits, targets, class_weights):
        labels, teacher = targets
        soft = divergence(loss.task, logits / temperature, teacher.astype(logits.dtype) / temperature, class_weights)
        return share * factor * soft + (1 - share) * loss.values(logits, labels, class_weights)

    return loss._replace(values=values)


def divergence(task: str, logits: jax.Array, teacher: jax.Array, class_weights: jax.Array) -> jax.Array:
    """The Kullback-Leibler divergence KL(teacher ‖ student), (batch,), of two arrays of logits (batch, classes).

    Task "single" compares the distributions over the classes. Task "multi" compares, for each class, the probability that it is
    there, and takes the mean over the classes, each multiplied by its weight (classes,).
    """
    if task == "single":
        return optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(logits), jax.nn.log_softmax(teacher))
    ours, theirs = (jnp.stack([jax.nn.log_sigmoid(x), jax.nn.log_sigmoid(-x)], -1) for x in (logits, teacher))
    terms = optax.losses.kl_divergence_with_log_targets(ours, theirs)
    return (terms * class_weights.astype(logits.dtype)).mean(-1)


class CachedBatches(TrainBatches):
    """Training batches with the teacher's logits of their cuts, "soft" (B, classes).

    Args:
      batches: the training batches, whose cuts are the same in each epoch.
      table: logits float32 (cuts, classes), and "clip" and "start" (cuts,), in the order of (clip, start); a damaged clip has
        none.
    """

    def __init__(self, batches: TrainBatches, table: evaluate.Table):
        vars(self).update(vars(batches))
        self._logits, self._places = table["logits"], _place(table["clip"], table["start"])

    def __call__(self, number: int, cut: Cut | None = None) -> Batch:
        batch = super().__call__(number, cut)
        places = _place(batch["clip"], batch["start"])
        row = np.searchsorted(self._places, places).clip(max=len(self._places) - 1)
        known = self._places[row] == places
        return batch | {"soft": np.where(known[:, None], self._logits[row], 0).astype(np.float32)}


def _place(clip: np.ndarray, start: np.ndarray) -> np.ndarray:
    """A number for each cut, which grows with (clip, start)."""
    return (clip.astype(np.int64) << 32) + start


def cache(
    teacher: Teacher, labels: tuple[str, ...], batches: TrainBatches, devices: parallel.Devices, config: ConfigDict
) -> CachedBatches:
    """Compute the teacher's logits of the classes `labels` for all cuts of the training split."""
    cuts = EvalBatches(batches.index, config, batches.host, batches.hosts)
    cuts.clip, cuts.start = batches.rows.clip, batches.rows.start
    say(f"distill.cached: the teacher hears the {len(cuts.clip):,} cuts of the training split once")

    def step(variables, columns, batch):
        logits, _ = teacher.network(variables, batch)
        return {"logits": jnp.take(logits, columns, 1).astype(jnp.float32)}

    variables, columns = devices.replicate((teacher.trained.variables, teacher.constants(labels)["columns"]))
    table = evaluate.predict(devices.eval_step(step), variables, columns, cuts, devices, config)
    return CachedBatches(batches, table)
