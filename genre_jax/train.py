"""The training state, the pure train and eval steps, and the run around them, in reading order."""

import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from ml_collections import ConfigDict

from genre_jax import config as configs
from genre_jax import evaluate, forward, freezing, losses, models, optim, parallel
from genre_jax.atomic import write_json
from genre_jax.augment import noise
from genre_jax.augment import waveform as augment
from genre_jax.checkpoint import Checkpoints
from genre_jax.console import UserError, say
from genre_jax.data import locate, order, shards
from genre_jax.data.batches import EvalBatches, TrainBatches, label_matrix, prefetch, resolve_reader
from genre_jax.frontends import scaling
from genre_jax.frontends.stft import resolve_engine
from genre_jax.gmm import fit, fits
from genre_jax.logbook import Logbook, environment
from genre_jax.meter import Meter
from genre_jax.models.bytenet.network import Reach, resolve_backend
from genre_jax.weights import pretrained

# Config keys that a resumed run may change: none of them changes its numbers beyond rounding.
FREE_ON_RESUME = (
    "devices",
    "model.remat",
    "model.backend",
    "model.time_shards",
    "data.data_dir",
    "data.reader",
    "data.prefetch",
)


class TrainState(struct.PyTreeNode):
    """All that a step changes. `ema` is empty unless the config asks for a moving average."""

    step: Any
    params: Any
    batch_stats: Any
    ema: Any
    opt_state: Any

    def variables(self) -> dict[str, Any]:
        """What evaluation and prediction use: the moving average where there is one."""
        return {"params": self.ema or self.params, "batch_stats": self.batch_stats}


# ---------------------------------------------------------------- the steps


def train_step(
    state: TrainState,
    constants: dict[str, jax.Array],
    batch: dict[str, jax.Array],
    *,
    network: forward.Forward,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: optim.Schedule,
    config: ConfigDict,
    axis_name: str | None,
    freeze: freezing.Freeze = freezing.NOTHING,
    starts: Mapping[str, int] | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from this device's share of the batch; losses and gradients are those of the whole batch.

    `starts` holds the first step of those augmentations that are off at first. Returns the new state and {"loss", "accuracy",
    "gradient_norm", "learning_rate"}, equal on all devices; the accuracy is in labels before they were mixed or smoothed.
    """
    criterion = losses.LOSSES[config.loss.name]
    batch = learning_inputs(batch, constants, state, network, config, starts or {}, axis_name)
    weight = criterion.weights(batch["labels"], constants["class_weights"]) * batch["mask"]
    total_weight, count = parallel.sum((weight.sum(), batch["mask"].sum()), axis_name)

    def loss_of(params, batch_stats, part):
        keys = augment.example_keys(constants["dropout_key"], part["visit"], part["clip"], part["variant"])
        logits, _, batch_stats = network.logits(
            {"params": params, "batch_stats": batch_stats}, part["features"], train=True, mask=part["mask"], keys=keys
        )
        values = criterion.values(logits, part["targets"], constants["class_weights"])
        weight = criterion.weights(part["labels"], constants["class_weights"]) * part["mask"]
        share = (values * weight).sum() / total_weight
        hits = (losses.hits(logits, part["own_labels"]) * part["mask"]).sum() / count
        return share, (batch_stats, {"loss": share, "accuracy": hits})

    with freeze.statistics(state.step):
        gradients, batch_stats, sums = _accumulate(loss_of, state, batch, config.train.accumulate)
    gradients, metrics = parallel.sum((gradients, sums), axis_name)
    rate = schedule(state.step)
    directions, opt_state = optimizer.update(gradients, state.opt_state, state.params, step=state.step)
    params = jax.tree.map(lambda p, d: p - rate.astype(p.dtype) * d, state.params, directions)
    ema = jax.tree.map(lambda e, p: config.ema * e + (1 - config.ema) * p, state.ema, params) if config.ema else state.ema
    ema = freeze.keep(state.step, state.ema, ema)
    state = TrainState(step=state.step + 1, params=params, batch_stats=batch_stats, ema=ema, opt_state=opt_state)
    return state, metrics | {"gradient_norm": optax.global_norm(gradients), "learning_rate": rate}


def learning_inputs(
    batch: dict[str, jax.Array],
    constants: dict[str, Any],
    state: TrainState,
    network: forward.Forward,
    config: ConfigDict,
    starts: Mapping[str, int],
    axis_name: str | None,
) -> dict[str, jax.Array]:
    """What the network learns from: augmented "features" (batch, …), their "labels", mixed, and "targets", smoothed too.

    Every random number comes from the clip's keys; only mixup looks beyond a clip, at the next of the global batch. `starts`
    as in `train_step`; "own_labels" are the batch's, and (batch,) "clip", "visit", "variant" and "mask" are passed on.
    """
    settings, key, on = config.augment, constants["augment_key"], {name: state.step >= first for name, first in starts.items()}
    keys = augment.keys_by_name(key, batch, settings, config.data.refresh_epochs)
    waveform = condition(batch, network, config)
    if order.versions(config.data.copies):
        fixed = augment.example_keys(key, jnp.zeros_like(batch["visit"]), batch["clip"], batch["variant"])
        waveform = augment.copy(waveform, fixed, batch["variant"], config.data.copies, settings.vocoder_fft)
    waveform = augment.augment(
        waveform, keys, settings, sample_rate=config.data.sample_rate, bank=constants.get("noise"), on=on
    )
    labels = batch["labels"].astype(network.wide)

    def mixed(example):
        if not settings.mixup.alpha:
            return example
        following, valid = parallel.following((example, batch["mask"]), axis_name, config.model.get("time_shards", 1))
        mix = functools.partial(augment.mixup, keys["mixup"], other=following, valid=valid, alpha=settings.mixup.alpha)
        return augment.switch(["mixup"], on, mix, example)

    if settings.mixup.of == "waveform":
        waveform, labels = mixed((waveform, labels))
    features = network.features(state.variables(), waveform)
    if settings.mixup.of == "features":
        features, labels = mixed((features, labels))
    if settings.mask.frequency or settings.mask.time:
        blank = functools.partial(augment.mask, keys=keys["mask"], config=settings.mask)
        features = augment.switch(["mask"], on, blank, features)
    targets = losses.LOSSES[config.loss.name].smooth(labels, config.loss.label_smoothing)
    kept = {name: batch[name] for name in ("clip", "visit", "variant", "mask")}
    return kept | {"features": features, "labels": labels, "targets": targets, "own_labels": batch["labels"]}


def condition(batch: dict[str, jax.Array], network: forward.Forward, config: ConfigDict) -> jax.Array:
    """Waveforms of a batch with their gain capped, as training and evaluation both see them."""
    waveform = forward.to_waveform(batch["audio"], network.wide)
    cap = config.augment.gain_cap
    return augment.cap_gain(waveform, batch["maximum"], cap) if cap else waveform


def _accumulate(loss_of, state: TrainState, batch: dict[str, jax.Array], parts: int):
    """Gradient, batch statistics and sums over `parts` micro-batches, one after the other; sums of shares are the whole."""
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
    variables: Any,
    constants: dict[str, jax.Array],
    batch: dict[str, jax.Array],
    *,
    network: forward.Forward,
    config: ConfigDict,
) -> dict[str, jax.Array]:
    """Scores of each example: {"logits" (batch, classes), "loss", "weight" (batch,)}."""
    logits, _, _ = network(variables, condition(batch, network, config))
    criterion, labels, class_weights = losses.LOSSES[config.loss.name], batch["labels"], constants["class_weights"]
    loss = criterion.values(logits, labels, class_weights)
    return {"logits": logits, "loss": loss, "weight": criterion.weights(labels, class_weights)}


# ---------------------------------------------------------------- the run


def devices_of(config: ConfigDict) -> parallel.Devices:
    """The devices that a config asks for; a network that can share a clip among them says by how many."""
    return parallel.Devices(config.devices, config.model.get("time_shards", 1))


class Program:
    """Network, optimiser and compiled steps of a config on its devices: all of a run that needs no data.

    Args:
      classes: how many the network tells apart.
      clips: of the training split, by which durations in epochs are counted.
    """

    def __init__(self, config: ConfigDict, devices: parallel.Devices, classes: int, clips: int):
        self.config, self.devices, self.classes, self.clips = config, devices, classes, clips
        self.total = self._count(config.train.duration, "train.duration")
        network = forward.build(config, classes, parallel.AXIS)
        freeze = freezing.build(config.freeze, lambda text: self._count(text, "freeze.until"))
        optimizer = optim.build(
            config.optimizer.name, config.gradient_clip, freeze, freezing.rates_of(config.learning_rates, network.model),
            **configs.component_options(config.optimizer),
        )  # fmt: skip
        schedule = optim.SCHEDULES[config.schedule.name](
            lambda text: self._count(text, "schedule"), self.total, **configs.component_options(config.schedule)
        )
        self.network, self._optimizer = network, optimizer
        self.train_step: Any = devices.train_step(
            functools.partial(
                train_step,
                network=network,
                optimizer=optimizer,
                schedule=schedule,
                config=config,
                axis_name=parallel.AXIS,
                freeze=freeze,
                starts={name: self._first(text) for name, text in augment.durations(config.augment).items()},
            )
        )
        self.eval_step = devices.eval_step(functools.partial(eval_step, network=network, config=config))
        self._key = jax.random.key(config.seed)

    def _count(self, duration: str, key: str) -> int:
        return configs.steps(duration, self.config.train.batch_size, self.clips, key)

    def _first(self, duration: str) -> int:
        """The first step after `duration`, from 0."""
        return self._count(duration, "augment.start") if configs.parse_duration(duration)[0] else 0

    def init(self) -> Any:
        """Fresh variables of the network."""
        return self.network.init(jax.random.fold_in(self._key, 0), self.config.data.samples)

    def state_of(self, variables: Any) -> TrainState:
        """The state at step 0 with these variables."""
        params = variables["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            ema=jax.tree.map(jnp.copy, params) if self.config.ema else {},
            opt_state=self._optimizer.init(params),
        )

    def constants_of(self, class_weights: Any) -> dict[str, Any]:
        """What the steps read and never change, the noise bank with it; `class_weights` (classes,)."""
        keys = {"augment_key": jax.random.fold_in(self._key, 1), "dropout_key": jax.random.fold_in(self._key, 2)}
        return keys | {"class_weights": class_weights, "noise": noise.load_bank(self.config)}

    def shapes(self) -> tuple[TrainState, dict[str, Any], dict[str, Any]]:
        """State, constants and batch of `train_step` as shapes and types: it can be lowered for them without any data."""
        size = self.config.train.batch_size // jax.process_count()
        batch: dict[str, Any] = {
            "audio": jax.ShapeDtypeStruct((size, self.config.data.samples), jnp.int16),
            "labels": jax.ShapeDtypeStruct((size, self.classes), jnp.uint8),
        }
        batch |= dict.fromkeys(("maximum", "mask"), jax.ShapeDtypeStruct((size,), jnp.float32))
        numbers = ("length", "clip", "track", "start", "variant", "visit")
        batch |= dict.fromkeys(numbers, jax.ShapeDtypeStruct((size,), jnp.int32))
        state = jax.eval_shape(lambda: self.state_of(self.init()))
        constants = jax.eval_shape(lambda: self.constants_of(jnp.ones(self.classes)))
        return state, constants, jax.eval_shape(self.devices.shard, batch)

    def reach(self) -> tuple[Reach, float] | None:
        """What the network sees of a cut, and seconds a step of its input; None for a network that does not know."""
        if not hasattr(self.network.model, "reach"):
            return None
        samples = self.config.data.samples
        waveform = jax.ShapeDtypeStruct((1, samples), self.network.wide)
        features = jax.eval_shape(self.network.frontend.init_with_output, self._key, waveform)[0]
        steps = features.shape[1]
        return self.network.model.reach(steps), samples / self.config.data.sample_rate / steps


class Run(Program):
    """A config brought to its data and devices: splits, compiled steps, first state. Reads and writes no workdir."""

    def __init__(self, config: ConfigDict):
        devices = devices_of(config)
        devices.check_batch("train.batch_size", config.train.batch_size, config.train.accumulate)
        devices.check_batch("evaluate.batch_size", config.evaluate.batch_size)
        self.folder = locate.find(config)
        splits = {part: config.data[part] for part in ("train", "validation", "test") if config.data[part]}
        self.splits = {part: _load_split(self.folder, split, config) for part, split in splits.items()}
        self.splits["train"], sets = _mixture(self.splits["train"], config)
        self.batches = TrainBatches(self.splits["train"], config, jax.process_index(), jax.process_count(), sets)
        super().__init__(config, devices, len(self.splits["train"].classes), len(self.batches.rows))
        self.every = {key: self._count(config.train[f"{key}_every"], key) for key in ("log", "evaluate", "checkpoint")}
        self.constants = devices.replicate(self.constants_of(_class_weights(self.batches.labels, config.loss.class_weights)))

    def initial_state(self, fresh: bool = True) -> TrainState:
        """The state at step 0, on the devices; of one that is not `fresh` only the shapes count, a checkpoint will fill it."""
        variables = self.init()
        if self.config.init_from and fresh:
            labels = self.splits["train"].classes
            variables = pretrained.transplant(self.config.init_from, variables, self.network.model, labels)
        if self.network.frontend.scale == "standardise" and fresh:
            variables["batch_stats"]["frontend"] = self._fitted_scaler()
        return self.devices.replicate(self.state_of(variables))

    def _fitted_scaler(self) -> dict[str, np.ndarray]:
        """Mean and standard deviation (bins,) of the front end's features over all windows of the training split."""

        def moments(variables, constants, batch):
            del variables, constants
            x = self.network.frontend.unscaled(condition(batch, self.network, self.config))
            return {"mean": x.mean(-2), "var": x.var(-2)}

        say(f"fitting mean and standard deviation of {self.config.frontend.name} on the training split")
        batches = EvalBatches(self.splits["train"], self.config, jax.process_index(), jax.process_count())
        step = self.devices.eval_step(moments)
        table = evaluate.predict(step, {}, {}, batches, self.devices, self.config)
        mean, std = scaling.pooled_statistics(table["mean"], table["var"])
        return {"mean": mean.astype(self.network.wide), "std": std.astype(self.network.wide)}

    def evaluate(self, state: TrainState, part: str) -> evaluate.Table:
        """The table of predictions for one part: validation or test."""
        index = self.splits[part]
        batches = EvalBatches(index, self.config, jax.process_index(), jax.process_count())
        variables = state.variables()
        return evaluate.predict(self.eval_step, variables, self.constants, batches, self.devices, self.config)


def _load_split(folder: Path, split: str, config: ConfigDict) -> shards.Index:
    index = shards.load_index(folder, split)
    counts = label_matrix(index, config.data.labels).sum(1)
    if config.loss.name == "softmax" and len(index) and not (counts == 1).all():
        row = int(np.flatnonzero(counts != 1)[0])
        raise UserError(
            f"loss 'softmax' needs one label a clip, and {index.names[row]!r} has {counts[row]}: "
            "set data.labels to 'first' or loss.name to 'sigmoid'"
        )
    return index


def _mixture(first: shards.Index, config: ConfigDict) -> tuple[shards.Index, list[tuple[int, float]]]:
    """The training split with those of `data.mix` behind it, and the (clips, weight) of each."""
    indices, weights = [first], [1.0]
    for name, weight in order.parse_pairs("data.mix", config.data.mix).items():
        other = config.copy_and_resolve_references()
        other.data.name = name
        indices.append(_load_split(locate.find(other), config.data.train, config))
        weights.append(weight)
    return order.merge(indices), [(len(index), weight) for index, weight in zip(indices, weights, strict=True)]


def _class_weights(labels: np.ndarray, how: str) -> np.ndarray:
    """(classes,) float64: ones, or clips / (classes · clips of the class) over the training split."""
    counts = labels.sum(0, dtype=np.int64)
    if how == "none":
        return np.ones(len(counts))
    return counts.sum() / (len(counts) * np.maximum(counts, 1))


def train_and_evaluate(config: ConfigDict, workdir: Path, profile: bool = False) -> dict[str, Any]:
    """Train from where `checkpoint.py` says to the end, evaluate on test, write results.

    Returns what `results.json` holds. A workdir whose run is finished is left as it is.
    """
    results = workdir / "results.json"
    _check_workdir(workdir, config)
    if results.exists():
        say(f"{workdir} holds a finished run: its results stand (another --workdir starts a new one)")
        return json.loads(results.read_text())
    run = Run(config)
    learn = fit if fits(run) else _train
    clips = shards.digest(run.splits.values())
    _check_clips(workdir, clips)
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", configs.to_json(config))
    write_json(workdir / "labels.json", run.splits["train"].classes)
    chosen = {"reader": resolve_reader(config.data.reader), "data_set": str(run.folder), "clips_sha256": clips}
    if "engine" in config.frontend:
        chosen["fft_engine"] = resolve_engine(config.frontend.engine)
    if "backend" in config.model:
        chosen["convolution_backend"] = resolve_backend(config.model.backend)
    write_json(workdir / "environment.json", environment(**chosen))
    checkpoints = Checkpoints(workdir / "checkpoints", config.train.keep)
    start = checkpoints.latest() or 0
    state = run.initial_state(fresh=not start)
    if start:
        say(f"resuming {workdir} from its checkpoint at step {start}")
        state = checkpoints.restore(run.devices.abstract(state), start)
    parameters = models.count(state.params)
    say(
        f"{config.name}: {config.model.name} with {parameters:,} parameters on {len(run.devices.all)} device(s), "
        f"{run.total} steps of {config.train.batch_size} clips, {run.clips} clips an epoch"
    )
    seen = run.reach()
    if seen and seen[0].dead_blocks:
        say(
            f"{seen[0].dead_blocks} of {seen[0].blocks} dilated blocks see only padding beside their middle tap: "
            "their dilation exceeds their sequence; model.cap_dilation=true caps it"
        )
    logbook = Logbook(workdir, start)
    state = learn(run, state, start, checkpoints, logbook, workdir if profile else None)
    checkpoints.wait()
    step = checkpoints.final(config.evaluate.weights)
    if step != run.total:
        state = checkpoints.restore(run.devices.abstract(state), step)
    checkpoints.close()
    summary = _final(run, state, step, workdir, {"parameters": parameters, "train_seconds": round(logbook.seconds, 1)})
    logbook.close()
    return summary


def _check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Raise `UserError` where the workdir holds checkpoints of another config's run."""
    path = workdir / "config.json"
    if not path.exists() or not any((workdir / "checkpoints").glob("[0-9]*")):
        return
    old = configs.flat(configs.from_json(json.loads(path.read_text())))
    changed = [key for key, value in configs.flat(config).items() if old.get(key) != value and key not in FREE_ON_RESUME]
    if changed:
        raise UserError(
            f"{workdir} holds a run of another config (it differs in {', '.join(changed)}): choose another --workdir"
        )


def _check_clips(workdir: Path, clips: str) -> None:
    """Raise `UserError` where the workdir holds a run on other clips."""
    path = workdir / "environment.json"
    if path.exists() and json.loads(path.read_text()).get("clips_sha256", clips) != clips:
        raise UserError(
            f"{workdir} holds a run on other clips: its data set, or the exclude.csv beside it, has changed since; choose "
            "another --workdir"
        )


def _train(
    run: Run, state: TrainState, start: int, checkpoints: Checkpoints, logbook: Logbook, profile: Path | None
) -> TrainState:
    """The loop: step, and at their times log, evaluate and save."""
    config, total = run.config, run.total
    meter = Meter(run, logbook, start, checkpoints)
    batches = prefetch(run.batches, start, total, config.data.reader, config.data.prefetch)
    for step in range(start + 1, total + 1):
        batch = meter.next(batches)
        if profile and step == start + 10:
            jax.profiler.start_trace(str(profile / "profile"))
        state, metrics = run.train_step(state, run.constants, run.devices.shard(batch))
        meter.add(step, metrics, batch["clip"])
        if profile and step == min(start + 20, total) and step >= start + 10:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
        due = {key: step % every == 0 or step == total for key, every in run.every.items()}
        if any(due.values()):
            meter.flush(step)
        scores = None
        if due["evaluate"] and "validation" in run.splits:
            scores = evaluate.headline(evaluate.scores(run.evaluate(state, "validation"), config))
            logbook.metrics(step, "validation", scores)
            say(f"validation at step {step}: " + "  ".join(f"{key} {value:.4g}" for key, value in scores.items()))
            meter.restart()
        if scores or due["checkpoint"]:
            checkpoints.save(step, state, scores)
    return state


def _final(run: Run, state: TrainState, step: int, workdir: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Evaluate on test and write predictions.npz and results.json."""
    index, config = run.splits["test"], run.config
    started = time.perf_counter()
    table = run.evaluate(state, "test")
    seconds = time.perf_counter() - started
    evaluate.save_predictions(workdir / "predictions.npz", table, index, config)
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
        "task": evaluate.task(config),
        "clips_per_second": round(len(table["clip"]) / seconds, 2),
        **known,
        **evaluate.scores(table, config),
    }
    write_json(workdir / "results.json", summary)
    values = evaluate.headline(summary)
    say(f"test at step {step}: " + "  ".join(f"{key} {value:.4g}" for key, value in values.items() if key != "score"))
    return summary
