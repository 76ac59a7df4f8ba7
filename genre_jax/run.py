"""A config brought to its data and devices: the program and the run. `loop.py` trains it in a workdir."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from genre_jax import distill, durations, evaluate, forward, freezing, hosts, optim, parallel, placing, probe
from genre_jax.augment import noise, validate
from genre_jax.config_section import component_options
from genre_jax.console import UserError, say
from genre_jax.data import locate, mix, select, shards
from genre_jax.data.batches import EvalBatches, TrainBatches, label_matrix
from genre_jax.data.bucket import Place
from genre_jax.data.order import parse_pairs
from genre_jax.frontends import scaling
from genre_jax.models.bytenet.network import Reach
from genre_jax.planning import flops
from genre_jax.train import TrainState, TrainStep, eval_step
from genre_jax.weights import pretrained


def devices_of(config: ConfigDict) -> parallel.Devices:
    """The devices of a config; a network that can share a clip among devices states by how many."""
    devices = parallel.Devices(config.devices, config.model.get("time_shards", 1), config.runner, config.shard_optimizer)
    if config.batch_norm_devices and len(devices.all) % config.batch_norm_devices:
        raise UserError(
            f"config key 'batch_norm_devices' must divide {len(devices.all)}, the number of devices, and was given "
            f"{config.batch_norm_devices}"
        )
    return devices


class Program:
    """Network, optimiser and compiled steps of a config on its devices: everything of a run that needs no data.

    Args:
      config: the run's config.
      devices: where the steps run.
      classes: number of classes of the network.
      clips: number of clips of the training split, which durations in epochs count.

    Attributes:
      network, teacher: the forward pass of the run, and what it distils from or None.
      step: the training step before it is compiled as `train_step`.
    """

    def __init__(self, config: ConfigDict, devices: parallel.Devices, classes: int, clips: int):
        self.config, self.devices, self.classes, self.clips = config, devices, classes, clips
        self.total = self._count_or_zero(config.train.duration, "train.duration")
        self.network = forward.build(config, classes, parallel.AXIS)
        freeze = freezing.build(config.freeze, lambda text: self.count(text, "freeze.until"))
        rates = freezing.rates_of(config.learning_rates, self.network.model)
        options = component_options(config.optimizer)
        self._optimizer = optim.build(config.optimizer.name, config.gradient_clip, freeze, rates, **options)
        schedule = optim.SCHEDULES[config.schedule.name](
            lambda text: self.count(text, "schedule"), self.total, **component_options(config.schedule)
        )
        starts = validate.durations(config.augment)
        self.teacher = distill.load(config)
        self.step = TrainStep(
            self.network, self._optimizer, schedule, config, parallel.AXIS, freeze,
            starts={name: self._count_or_zero(text, "augment.start") for name, text in starts.items()},
            visits=validate.visits(config.augment, config.data.refresh_epochs),
            teacher=self.teacher,
        )  # fmt: skip
        self.train_step: Any = devices.train_step(self.step)
        self.eval_step = devices.eval_step(functools.partial(eval_step, network=self.network, config=config))
        self._key = jax.random.key(config.seed)

    def count(self, duration: str, key: str) -> int:
        """The steps of a duration, the value of config key `key`."""
        return durations.steps(duration, self.config.train.batch_size, self.clips, key)

    def _count_or_zero(self, duration: str, key: str) -> int:
        """As `count`, but 0 for a duration of 0."""
        return self.count(duration, key) if durations.parse_duration(duration)[0] else 0

    def init(self) -> dict[str, Any]:
        """Fresh variables of the network."""
        return self.network.init(jax.random.fold_in(self._key, 0), self.config.data.samples)

    def state_of(self, variables: dict[str, Any]) -> TrainState:
        """The state at step 0 with these variables."""
        params = variables["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables["batch_stats"],
            frontend=variables["frontend"],
            ema=jax.tree.map(jnp.copy, params) if self.config.ema else {},
            opt_state=self._optimizer.init(params),
            skipped=jnp.zeros((), jnp.int32),
        )

    def abstract_state(self) -> TrainState:
        """Shapes, types and placement of the state, into which a checkpoint is restored."""
        return self.devices.abstract(jax.eval_shape(lambda: self.state_of(self.init())))

    def constants_of(self, class_weights: Any, labels: tuple[str, ...]) -> dict[str, Any]:
        """What the steps read and never change, for the classes `labels`.

        "augment_key", "dropout_key", "class_weights" (classes,), the bank of "noise", and what the step reads of the "teacher".
        """
        keys = {"augment_key": jax.random.fold_in(self._key, 1), "dropout_key": jax.random.fold_in(self._key, 2)}
        teacher = {"teacher": self.teacher.constants(labels)} if self.teacher else {}
        return keys | teacher | {"class_weights": class_weights, "noise": noise.load_bank(self.config)}

    def shapes(self) -> tuple[TrainState, dict[str, Any], dict[str, Any]]:
        """Shapes and types of the arguments of `train_step`, for which it can be lowered without any data."""
        size = self.config.train.batch_size // hosts.count()
        batch: dict[str, Any] = {
            "audio": jax.ShapeDtypeStruct((size, self.config.data.samples), jnp.int16),
            "labels": jax.ShapeDtypeStruct((size, self.classes), jnp.uint8),
        }
        batch |= dict.fromkeys(("maximum", "mask"), jax.ShapeDtypeStruct((size,), jnp.float32))
        numbers = ("length", "clip", "track", "start", "variant", "visit")
        batch |= dict.fromkeys(numbers, jax.ShapeDtypeStruct((size,), jnp.int32))
        if self.teacher and self.teacher.cached:
            batch["soft"] = jax.ShapeDtypeStruct((size, self.classes), jnp.float32)
        state = jax.eval_shape(lambda: self.state_of(self.init()))
        labels = self.teacher.trained.labels[: self.classes] if self.teacher else ()  # any of them have the shapes
        constants = jax.eval_shape(lambda: self.constants_of(jnp.ones(self.classes), labels))
        return state, constants, self.devices.shard_shapes(batch)

    def runnable(self, compiled: Any) -> Any:
        """`compiled`, the step compiled ahead; under pmap on several hosts, where it takes no batch, the step itself."""
        return self.train_step if self.devices.runner == "pmap" and hosts.count() > 1 else compiled

    def flops_per_clip(self) -> int:
        """Floating-point operations of the products and convolutions of a training step, for one clip."""
        clips = self.config.train.batch_size // len(self.devices.all)  # the count is of one device
        return flops.flops(self.train_step, *self.shapes()) // max(1, clips)

    def reach(self) -> tuple[Reach, float] | None:
        """The network's reach within a cut, and the seconds of one step of its input; None if it does not know its reach."""
        if not hasattr(self.network.model, "reach"):
            return None
        samples = self.config.data.samples
        waveform = jax.ShapeDtypeStruct((1, samples), self.network.wide)
        features = jax.eval_shape(self.network.frontend.init_with_output, self._key, waveform)[0]
        steps = features.shape[1]
        return self.network.model.reach(steps), samples / self.config.data.sample_rate / steps


class Run:
    """A program with its data: splits, batches, constants and the first state. Reads and writes no workdir."""

    def __init__(self, config: ConfigDict):
        self.config = config
        distill.check_source(config)  # before an embedded data set is prepared
        devices = devices_of(config)
        devices.check_batch("train.batch_size", config.train.batch_size, config.train.accumulate)
        devices.check_batch("evaluate.batch_size", config.evaluate.batch_size)
        self.folder = hosts.in_turn(lambda: locate.find(config))  # it may prepare an embedded data set
        splits = {part: config.data[part] for part in ("train", "validation", "test") if config.data[part]}
        self.splits = {part: _load_split(self.folder, split, config) for part, split in splits.items()}
        self.splits["train"], sets = _mixture(self.splits["train"], config)
        self.batches = TrainBatches(self.splits["train"], config, hosts.index(), hosts.count(), sets)
        self.program = Program(config, devices, len(self.splits["train"].classes), len(self.batches.rows))
        self.every = {key: self.program.count(config.train[f"{key}_every"], key) for key in ("log", "evaluate", "checkpoint")}
        class_weights = _class_weights(self.batches.labels, config.loss.class_weights)
        labels, teacher = self.splits["train"].classes, self.program.teacher
        self.constants = devices.replicate(self.program.constants_of(class_weights, labels))
        if teacher and teacher.cached:
            self.batches = distill.cache(teacher, labels, self.batches, devices, config)

    def initial_state(self) -> TrainState:
        """The state at step 0, on the devices."""
        variables, network = self.program.init(), self.program.network
        if self.config.init_from:
            labels = self.splits["train"].classes
            variables = pretrained.transplant(self.config.init_from, variables, network.model, labels)
        if network.frontend.scale == "standardise":
            variables["frontend"] = self._fitted_scaler()
        if self.config.head.start == "logistic":
            variables = self._with_probe(variables, "train")
        return self.program.devices.replicate(self.program.state_of(variables))

    def refitted(self, state: TrainState) -> TrainState:
        """The state, at the step of `state`, with a classifier that is fitted on the training and the validation split."""
        variables = self._with_probe(placing.to_host(state.variables()), "train", "validation")
        return self.program.devices.replicate(self.program.state_of(variables).replace(step=state.step))

    def _with_probe(self, variables: dict[str, Any], *parts: str) -> dict[str, Any]:
        """The variables with a logistic regression on these parts as the classifier."""
        indices = [self.splits[part] for part in parts]
        fc = probe.fit(indices, variables, self.program.network, self.program.devices, self.config)
        return variables | {"params": variables["params"] | {"fc": fc}}

    def _fitted_scaler(self) -> dict[str, np.ndarray]:
        """Mean and standard deviation (bins,) of the front end's features over all windows of the training split."""
        network = self.program.network

        def moments(variables, constants, batch):
            del variables, constants
            x = network.frontend.unscaled(network.waveform(batch))
            return {"mean": x.mean(-2), "var": x.var(-2)}

        say(f"fitting mean and standard deviation of {self.config.frontend.name} on the training split")
        table = self.over_windows(self.program.devices.eval_step(moments), {}, {}, "train")
        mean, std = scaling.pooled_statistics(table["mean"], table["var"])
        return {"mean": mean.astype(network.wide), "std": std.astype(network.wide)}

    def _windows(self, part: str) -> EvalBatches:
        return EvalBatches(self.splits[part], self.config, hosts.index(), hosts.count())

    def count_windows(self, part: str) -> int:
        """The number of windows of a part ("train", "validation" or "test")."""
        return len(self._windows(part).clip)

    def over_windows(
        self, step: Callable, variables: Any, constants: Any, part: str, embeddings: evaluate.TrackMeans | None = None
    ) -> evaluate.Table:
        """The outputs of a compiled evaluation step for every window of a part; `embeddings` as in `evaluate.predict`."""
        windows, devices = self._windows(part), self.program.devices
        return evaluate.predict(step, variables, constants, windows, devices, self.config, embeddings)

    def evaluate(self, state: TrainState, part: str, embeddings: evaluate.TrackMeans | None = None) -> evaluate.Table:
        """The table of predictions for a part ("train", "validation" or "test"); `embeddings` as in `evaluate.predict`."""
        return self.over_windows(self.program.eval_step, state.variables(), self.constants, part, embeddings)


def resolved(config: ConfigDict) -> ConfigDict:
    """The config with `loss.name` "auto" replaced by the loss that fits the labels of all its clips."""
    if config.loss.name != "auto":
        return config
    folder, splits = locate.find(config), filter(None, (config.data[part] for part in ("train", "validation", "test")))
    indices = [select.load(folder, split, config.data.classes) for split in splits]
    single = all((label_matrix(index, config.data.labels).sum(1) == 1).all() for index in indices)
    config = config.copy_and_resolve_references()
    config.loss.name = "softmax" if single else "sigmoid"
    say(f"loss: {config.loss.name}, because {'each clip has one label' if single else 'clips have any number of labels'}")
    return config


def _load_split(folder: Place, split: str, config: ConfigDict) -> shards.Index:
    index = select.load(folder, split, config.data.classes)
    counts = label_matrix(index, config.data.labels).sum(1)
    if evaluate.task(config) == "single" and not (counts == 1).all():
        row = int(np.flatnonzero(counts != 1)[0])
        raise UserError(
            f"loss {config.loss.name!r} trains on one label per clip, and {index.names[row]!r} has {counts[row]}: "
            "set data.labels to 'first' or loss.name to 'sigmoid'"
        )
    return index


def _mixture(first: shards.Index, config: ConfigDict) -> tuple[shards.Index, list[tuple[int, float]]]:
    """The training split joined with those of `data.mix`, and (clips, weight) of each data set."""
    indices, weights = [first], [1.0]
    for name, weight in parse_pairs("data.mix", config.data.mix).items():
        other = config.copy_and_resolve_references()
        other.data.name = name
        indices.append(_load_split(locate.find(other), config.data.train, config))
        weights.append(weight)
    return mix.merge(indices), [(len(index), weight) for index, weight in zip(indices, weights, strict=True)]


def _class_weights(labels: np.ndarray, how: str) -> np.ndarray:
    """(classes,) float64: ones, or clips / (classes · clips of the class) over the training split."""
    counts = labels.sum(0, dtype=np.int64)
    if how == "none":
        return np.ones(len(counts))
    return counts.sum() / (len(counts) * np.maximum(counts, 1))
