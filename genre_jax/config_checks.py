"""Checks of the values of a config: each is legal, they fit together, and the network can read the features."""

import json

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from genre_jax import console, durations, evaluate, freezing, frontends, losses, models, parallel
from genre_jax.augment import validate as augment
from genre_jax.config_section import component_options, flat
from genre_jax.console import UserError
from genre_jax.data import order, shard_order

CHOICES = {
    "dtype": ("float32", "bfloat16", "float64"),
    "runner": parallel.RUNNERS,
    "data.labels": ("multi", "first"),
    "data.sampling": order.SAMPLINGS,
    "data.segments": order.SEGMENTS,
    "data.last_window": order.LAST_WINDOWS,
    "data.copies.draw": ("each", "one"),
    "data.order": order.ORDERS,
    "data.reader": ("auto", "tfdata", "threads", "sequential"),
    "data.verify": ("first", "always", "never"),
    "data.on_corrupt": ("stop", "skip"),
    "augment.mixup.of": ("waveform", "features"),
    "head.start": ("random", "logistic"),
    "loss.name": ("auto", *losses.LOSSES),
    "loss.class_weights": ("none", "balanced"),
    "freeze.optimizer_from": ("release", "start"),
    "evaluate.windows": order.WINDOWS,
    "evaluate.weights": ("best", "last"),
}
DURATIONS = ("train.duration", "train.evaluate_every", "train.checkpoint_every", "train.log_every")


def check_values(config: ConfigDict) -> None:
    """Check the values that can be checked without reading files and without building the network. Raises `UserError`."""
    values = flat(config)
    for key, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise UserError(f"config key {key!r} must hold finite numbers, and was given {value}") from None
    for key, legal in CHOICES.items():
        if values[key] not in legal:
            raise console.unknown(key, values[key], legal)
    for key in DURATIONS:
        durations.parse_duration(values[key], f"config key {key!r}")
    for key in ("train.batch_size", "train.accumulate", "evaluate.batch_size", "data.samples", "data.sample_rate",
                "data.refresh_epochs", "data.prefetch", "data.segments_per_track", "data.streams", "data.shuffle_buffer",
                "train.keep"):  # fmt: skip
        if values[key] < 1:
            raise UserError(f"config key {key!r} must be at least 1, and was given {values[key]}")
    for key in ("ema", "loss.label_smoothing", "distill.share"):
        if not 0 <= values[key] <= 1:
            raise UserError(f"config key {key!r} must lie in [0, 1], and was given {values[key]}")
    for key in ("batch_norm_devices", "evaluate.hop", "gradient_clip", "train.skip_nonfinite", "train.patience",
                "data.segment_hop", "data.margin", "data.copies.segments"):  # fmt: skip
        if values[key] < 0:
            raise UserError(f"config key {key!r} must be at least 0, and was given {values[key]}")
    if config.shard_optimizer and config.runner != "jit":
        raise UserError(f"config key 'shard_optimizer' needs runner 'jit', and runner is {config.runner!r}")
    if config.batch_norm_devices and config.model.get("time_shards", 1) > 1:
        raise UserError(
            f"config key 'batch_norm_devices' must be 0 with model.time_shards, and was given {config.batch_norm_devices}"
        )
    for key in ("head.c", "distill.temperature"):
        if not values[key] > 0:
            raise UserError(f"config key {key!r} must be above 0, and was given {values[key]}")
    if config.distill.cached:
        _check_cached(config)
    if not durations.parse_duration(config.train.duration)[0] and config.head.start == "random":
        raise UserError(
            f"config key 'train.duration' must be above 0 with head.start 'random', and was given {config.train.duration!r}"
        )
    if config.train.patience and not config.data.validation:
        raise UserError("config key 'train.patience' needs a validation split, and data.validation is ''")
    evaluate.check_select(config)
    order.check(config.data)
    shard_order.check(config)
    augment.check(config.augment)
    for duration in augment.durations(config.augment).values():
        durations.parse_duration(duration, "config key 'augment.start'")
    resampled = config.augment.speed or config.augment.pitch or config.augment.stretch or order.versions(config.data.copies)
    if resampled and config.data.samples >= 2**20:
        raise UserError(
            "config key 'data.samples' must be below 1048576 with augment.speed, pitch, stretch or data.copies, and was given "
            f"{config.data.samples}"
        )
    if config.freeze.until:
        durations.parse_duration(config.freeze.until, "config key 'freeze.until'")


def _check_cached(config: ConfigDict) -> None:
    """Check that the cuts of the training clips are the same in each epoch, so that logits of a teacher can be kept."""
    needs = {"data.segments": ("fixed", "consecutive"), "data.order": ("global",), "augment.mixup.alpha": (0,)}
    values = flat(config)
    for key, legal in needs.items():
        if values[key] not in legal:
            raise UserError(f"config key 'distill.cached' needs {key} {' or '.join(map(str, legal))}, and it is {values[key]}")
    if order.versions(config.data.copies):
        raise UserError("config key 'distill.cached' needs a training split without data.copies")


def check_pairing(config: ConfigDict) -> None:
    """Check that the front end can process a cut and that the model can read the features. Raises `UserError`."""
    model = models.build(config.model.name, num_classes=2, **component_options(config.model))
    frontend = frontends.build(config.frontend.name, config.data.sample_rate, **component_options(config.frontend))
    waveform = jax.ShapeDtypeStruct((1, config.data.samples), jnp.float32)
    features = jax.eval_shape(frontend.init_with_output, jax.random.key(0), waveform)[0].shape[1:]
    if (config.augment.mask.frequency or config.augment.mask.time) and (len(features) < 2 or 1 in features[:2]):
        raise UserError(
            f"augment.mask needs features (frames, bins), and front end {config.frontend.name!r} computes features {features}"
        )
    if len(features) != len(model.input_shape):
        raise UserError(
            f"model {config.model.name!r} reads features with {len(model.input_shape)} axes, such as {model.input_shape}, "
            f"and front end {config.frontend.name!r} computes features {features}"
        )
    try:
        params = models.abstract_variables(model, features)["params"]
    except UserError as error:
        raise UserError(
            f"model {config.model.name!r} cannot read the features {features} of front end {config.frontend.name!r}: {error}"
        ) from error
    freezing.check_patterns("freeze.patterns", config.freeze.patterns, params)
    freezing.check_patterns("optimizer.kernel_l2_patterns", config.optimizer.get("kernel_l2_patterns", []), params)
    freezing.check_patterns("learning_rates", [*freezing.parse_rates(config.learning_rates)], params)
