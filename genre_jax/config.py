"""The base config: every legal key, typed and commented; how config files, presets and the command line change it.

A config is plain JSON. Components that are chosen by name (front end, model, optimiser, schedule) hold the name and the
options of that component; the legal options and their defaults are the arguments of the function or Module itself.
Durations are strings such as "30 epochs", "2000 steps" or "1e6 examples".
"""

import importlib.util
import inspect
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from genre_jax import console, freezing, frontends, losses, models, optim
from genre_jax.augment import validate as augment
from genre_jax.console import UserError
from genre_jax.data import order
from genre_jax.data.locate import check_name
from genre_jax.weights import files

COMPONENTS: dict[str, dict[str, Callable]] = {
    "frontend": frontends.FRONTENDS,
    "model": models.MODELS,
    "optimizer": optim.OPTIMIZERS,
    "schedule": optim.SCHEDULES,
}
CHOICES = {
    "dtype": ("float32", "bfloat16", "float64"),
    "data.labels": ("multi", "first"),
    "data.sampling": order.SAMPLINGS,
    "data.segments": order.SEGMENTS,
    "data.copies.draw": ("each", "one"),
    "data.reader": ("auto", "tfdata", "threads"),
    "augment.mixup.of": ("waveform", "features"),
    "loss.name": tuple(losses.LOSSES),
    "loss.class_weights": ("none", "balanced"),
    "freeze.optimizer_from": ("release", "start"),
    "evaluate.windows": ("consecutive", "centre"),
    "evaluate.weights": ("best", "last"),
}
DURATIONS = ("train.duration", "train.evaluate_every", "train.checkpoint_every", "train.log_every")
_UNITS = ("steps", "epochs", "examples")


def base(name: str) -> ConfigDict:
    """The locked base config of the run called `name`: what a config file starts from."""
    config = ConfigDict(
        {
            "version": 1,  # of this schema; a run of an older one loads with the defaults of the keys it lacks
            "name": name,  # the default workdir is runs/NAME
            "seed": 0,  # of weights, order, cuts, dropout and augmentation
            "dtype": "float32",  # of the network's compute; float64 also holds parameters and front end in float64
            "devices": 0,  # accelerators to use, 0 = all
            # Whose weights the run starts from, with a new head where classes differ: a workdir, a file of save_pretrained,
            # a published ResNet, DenseNet or MobileNet (.safetensors .pth .pt .h5 .keras), hf://owner/name[/file]; #sha256=…
            "init_from": "",
            "data": {
                "name": "synthetic",  # a prepared data set, or an embedded one, which is made on first use
                "data_dir": "data",
                "sample_rate": 16_000,  # Hz; a data set of another rate is refused
                "train": "train",  # the splits that play each part; validation may be ""
                "validation": "validation",
                "test": "test",
                "samples": 57_344,  # length of a cut
                "labels": "multi",  # multi: multi-hot; first: only the first label of each clip
                "mix": [],  # more data sets to train on, with weights beside this one's 1, as in ["my_music=0.5"]
                # uniform: every clip once an epoch; balanced: a class, then one of its clips; sqrt: a class by the root of its
                # clips; weighted: a class by its class_weights. A clip of several classes is drawn for each of them.
                "sampling": "uniform",
                "class_weights": [],  # of `weighted`, as in ["jazz=2", "rock=0.5"]; 1 for classes that are not named
                # random: one cut a clip, drawn at each visit; fixed: segments_per_track a track, drawn once; consecutive: all
                "segments": "random",
                "segments_per_track": 15,
                "segment_hop": 0,  # samples between consecutive segments, 0 = `samples`
                "copies": {  # augmented copies that enlarge the training split; none where the first two are empty
                    "semitones": [],  # pitch shifts
                    "stretches": [],  # speeds: 2 = twice as fast; a shorter segment is padded with zeros, a longer one cut
                    "draw": "each",  # each: every stretch with every shift; one: one of them a segment, drawn once
                    "segments": 0,  # fixed segments a track, drawn for the copies alone; 0 = the segments there are
                },
                "refresh_epochs": 1,  # a clip's cut and augmentations are redrawn every this many visits
                "reader": "auto",  # tfdata where TensorFlow is installed, else threads; the batches are the same
                "prefetch": 4,  # batches read ahead
            },
            "augment": {  # on the device, redrawn by (seed, clip, visit), in the order of augment.NAMES; 0 = off
                "gain_cap": 0.0,  # clips whose maximum exceeds this are scaled down to it (the thesis: 0.7); also in evaluation
                "speed": 0.0,  # random speed (pitch and tempo), a factor of at most 1 + this either way
                "pitch": 0.0,  # random pitch, uniform in ± this many semitones, by phase vocoder
                "stretch": 0.0,  # random tempo, a factor of at most 1 + this either way, by phase vocoder
                "vocoder_fft": 2048,  # samples of the phase vocoder's windows, a multiple of 4; of data.copies too
                "equalise_db": 0.0,  # random equaliser, gains uniform in ± this many dB
                "band_limit": {  # one of the two filters, either as often
                    "probability": 0.0,
                    "low_pass": [2000.0, 7000.0],  # range of cut-off frequencies in Hz, uniform in log; [] = never
                    "high_pass": [50.0, 500.0],
                },
                "gain_db": 0.0,  # random gain, uniform in ± this many dB
                "noise": {  # from a bank of recordings in the device's memory
                    "data_set": "",  # a prepared data set of the same rate; "" = off
                    "split": "train",
                    "label": "",  # only its clips of this class, as in "noise"; "" = all
                    "probability": 0.5,
                    "gain": [0.14, 0.26],  # range of factors (the thesis's)
                    "snr_db": [],  # range of signal-to-noise ratios, in the place of `gain`, as in [5.0, 20.0]
                    "count": 1,  # noises at once
                },
                "polarity": 0.0,  # probability of a sign flip
                "shift": 0.0,  # probability of a circular shift by a uniform number of samples
                "mixup": {  # with the next example of the batch; labels are mixed too
                    "alpha": 0.0,  # shares are drawn from Beta(alpha, alpha); 0 = off
                    "of": "waveform",  # or features: after the front end
                },
                "mask": {  # SpecAugment: bands and spans of the features set to their minimum
                    "frequency": 0,  # bands a clip
                    "frequency_width": 0.2,  # largest width, as a share of all bins
                    "time": 0,  # spans a clip
                    "time_width": 0.2,  # largest width, as a share of all frames
                },
                "start": [],  # of those that are off at first, as in ["noise=10 epochs"]
                "refresh": [],  # visits between redraws, where they are not data.refresh_epochs, as in ["noise=10"]
            },
            "loss": {
                "name": "softmax",  # softmax (one label a clip) or sigmoid (many)
                "class_weights": "none",  # balanced: inverse to the classes' frequency in the training split
                "label_smoothing": 0.0,  # share of the labels spread evenly over the classes (softmax) or set to 1/2 (sigmoid)
            },
            "freeze": {  # parameters that stand still: freezing.py has the patterns
                "patterns": [],  # as in ["*", "!fc/*"], all but the classifier; [] = none
                "until": "",  # the duration after which they move, as in "10 epochs"; "" = the whole run
                "batch_stats": False,  # also the statistics of their batch norms, which then normalise as in evaluation
                "optimizer_from": "release",  # their optimiser state starts at release, or at the start of the run
            },
            "learning_rates": [],  # factors of the scheduled rate by pattern, as in ["layer1*=0.1"]
            "gradient_clip": 0.0,  # global norm, 0 = off
            "ema": 0.0,  # decay of an exponential moving average of the parameters, evaluated in their stead; 0 = off
            "train": {
                "batch_size": 16,  # clips a step over all devices and hosts
                "accumulate": 1,  # micro-batches a device splits its share into
                "duration": "10 epochs",
                "log_every": "20 steps",
                "evaluate_every": "1 epochs",
                "checkpoint_every": "1 epochs",
                "keep": 2,  # last checkpoints kept, beside the best one
            },
            "evaluate": {
                "batch_size": 16,
                "windows": "consecutive",  # consecutive: every `hop` samples (as `tag` does always); centre: one a clip
                "hop": 0,  # samples between windows, 0 = `data.samples`
                "weights": "best",  # checkpoint of the final evaluation: best on validation, or last
            },
        }
    )
    for kind, chosen in {"frontend": "waveform", "model": "bytenet", "optimizer": "adam", "schedule": "constant"}.items():
        config[kind] = ConfigDict(_with_defaults(kind, chosen))
    config.lock()
    return config


def options(component: Callable) -> dict[str, Any]:
    """The options of a component: its arguments whose defaults are plain JSON."""
    legal = {}
    for parameter in inspect.signature(component).parameters.values():
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        if isinstance(default, bool | int | float | str | list) and parameter.name not in ("name", "axis_name"):
            legal[parameter.name] = default
    return legal


def _with_defaults(kind: str, name: str) -> dict[str, Any]:
    if name not in COMPONENTS[kind]:
        raise console.unknown(kind, name, COMPONENTS[kind])
    return {"name": name} | options(COMPONENTS[kind][name])


def component_options(component: ConfigDict) -> dict[str, Any]:
    """The options of `config.model` and its like, without the name; lists as tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in component.to_dict().items() if k != "name"}


def choose(config: ConfigDict, kind: str, name: str, **changes: Any) -> None:
    """Put another component into the config: `choose(config, "model", "resnet34", width=16)`."""
    with config.unlocked():
        config[kind] = ConfigDict(_with_defaults(kind, name))
    config[kind].lock()
    for key, value in changes.items():
        override(config, f"{kind}.{key}", value)


def override(config: ConfigDict, key: str, value: Any) -> None:
    """Set the dotted `key`; text is read as the type that the key has. Raises `UserError` with the legal keys."""
    *path, last = key.split(".")
    section = config
    for part in path:
        if not isinstance(section, ConfigDict) or not isinstance(section.get(part), ConfigDict):
            raise console.unknown("config key", key, flat(config))
        section = section[part]
    if last not in section or isinstance(section[last], ConfigDict):
        prefix = "".join(f"{part}." for part in path)
        raise console.unknown("config key", key, [k for k in flat(config) if k.startswith(prefix)])
    if last == "name" and path and path[0] in COMPONENTS:
        if value != section.name:
            choose(config, path[0], value)
        return
    section[last] = _typed(key, section[last], value)


def _typed(key: str, old: Any, value: Any) -> Any:
    kind = type(old)
    try:
        if isinstance(value, str) and kind is not str:
            value = json.loads(value.lower() if kind is bool else value)
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if kind is float and type(value) is int:
            value = float(value)
        if kind is list and isinstance(value, tuple):
            value = list(value)
    except ValueError:
        pass
    if type(value) is not kind:
        raise UserError(f"config key {key!r} must be {kind.__name__}, as in {old!r}, and was given {value!r}")
    return value


def flat(config: ConfigDict) -> dict[str, Any]:
    """Dotted key → value."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            out |= {f"{key}.{inner}": v for inner, v in flat(value).items()}
        else:
            out[key] = value
    return out


def with_argument(config: ConfigDict, argument: str, **presets: Callable[[ConfigDict], None]) -> ConfigDict:
    """Apply what follows the colon in `--config=FILE:argument`: names of presets and `key=value`, comma-separated."""
    for part in filter(None, argument.split(",")):
        if "=" in part:
            key, _, value = part.partition("=")
            override(config, key, value)
        elif part in presets:
            presets[part](config)
            config.name = f"{config.name}_{part}"
        else:
            raise console.unknown("preset", part, list(presets) or ["(none)"])
    return config


def load(spec: str, overrides: dict[str, str] | None = None) -> ConfigDict:
    """The validated config of `FILE[:argument]` with the command line's `overrides` (dotted key → text)."""
    path, _, argument = spec.partition(":")
    if not Path(path).is_file():
        nearby = sorted(str(p) for p in Path(path).parent.glob("*.py")) if Path(path).parent.is_dir() else []
        raise console.unknown("config file", path, nearby or ["configs/bytenet.py"])
    module_spec = importlib.util.spec_from_file_location("genre_jax_config", path)
    assert module_spec and module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        config = module.get_config(argument)
    except (AttributeError, KeyError, TypeError) as error:  # ml_collections' own, for keys set as attributes
        raise UserError(_sentence(path, error)) from error
    for key, value in (overrides or {}).items():
        override(config, key, value)
    validate(config)
    return config


def _sentence(path: str, error: Exception) -> str:
    text = str(error)
    if match := re.search(r'Key \\?"(\w+)\\?" does not exist', text):
        return f"{path}: {console.unknown('config key', match[1], flat(base('')))}"
    return f"{path}: {' '.join(text.split())}"


def from_json(values: dict[str, Any]) -> ConfigDict:
    """A config read back from a run's `config.json`; keys it lacks get today's defaults."""
    config = base(values["name"])
    for kind in COMPONENTS:
        choose(config, kind, values[kind]["name"])
    for key, value in flat(ConfigDict(values, convert_dict=True)).items():
        override(config, key, value)
    return config


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values."""
    return json.loads(json.dumps(config.to_dict()))


def parse_duration(text: str, key: str = "duration") -> tuple[float, str]:
    """(number, unit) of a duration such as "30 epochs"."""
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE]\+?[0-9]+)?)\s*([a-z]+)\s*", text)
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    unit = (match[2].rstrip("s") + "s") if match else ""
    if unit not in _UNITS or not number >= 0:
        raise UserError(f"{key} must be a number and one of {', '.join(_UNITS)}, as in '30 epochs', and was given {text!r}")
    return number, unit


def steps(text: str, batch_size: int, examples: int, key: str = "duration") -> int:
    """A duration in steps of `batch_size` over a training split of `examples` clips, rounded up; at least 1."""
    number, unit = parse_duration(text, key)
    per_unit = {"steps": 1.0, "examples": 1.0 / batch_size, "epochs": examples / batch_size}[unit]
    return max(1, math.ceil(number * per_unit - 1e-9))


def validate(config: ConfigDict) -> None:
    """Check names, ranges and sizes before any data is read. Raises `UserError`."""
    validate_values(config)
    if config.init_from and not Path(config.init_from, "checkpoints").is_dir():
        files.check(config.init_from)
    check_name(config.data.name, config.data.data_dir)
    _check_pairing(config)


def validate_values(config: ConfigDict) -> None:
    """The part of `validate` that needs no files and builds nothing."""
    values = flat(config)
    for key, legal in CHOICES.items():
        if values[key] not in legal:
            raise console.unknown(key, values[key], legal)
    for key in DURATIONS:
        parse_duration(values[key], f"config key {key!r}")
    for key in ("train.batch_size", "train.accumulate", "evaluate.batch_size", "data.samples", "data.sample_rate",
                "data.refresh_epochs", "data.prefetch", "data.segments_per_track", "train.keep"):  # fmt: skip
        if values[key] < 1:
            raise UserError(f"config key {key!r} must be at least 1, and was given {values[key]}")
    for key in ("ema", "loss.label_smoothing"):
        if not 0 <= values[key] <= 1:
            raise UserError(f"config key {key!r} must lie in [0, 1], and was given {values[key]}")
    for key in ("evaluate.hop", "gradient_clip", "data.segment_hop", "data.copies.segments"):
        if values[key] < 0:
            raise UserError(f"config key {key!r} must be at least 0, and was given {values[key]}")
    order.check(config.data)
    augment.check(config.augment)
    for duration in augment.durations(config.augment).values():
        parse_duration(duration, "config key 'augment.start'")
    resampled = config.augment.speed or config.augment.pitch or config.augment.stretch or order.versions(config.data.copies)
    if resampled and config.data.samples >= 2**20:
        raise UserError(
            "config key 'data.samples' must be below 1048576 with augment.speed, pitch, stretch or data.copies, and was given "
            f"{config.data.samples}"
        )
    if config.freeze.until:
        parse_duration(config.freeze.until, "config key 'freeze.until'")


def _check_pairing(config: ConfigDict) -> None:
    """The front end must take a cut, and give as many axes a clip as the network reads, and as much as it needs."""
    model = models.build(config.model.name, num_classes=2, **component_options(config.model))
    frontend = frontends.build(config.frontend.name, config.data.sample_rate, **component_options(config.frontend))
    waveform = jax.ShapeDtypeStruct((1, config.data.samples), jnp.float32)
    features = jax.eval_shape(frontend.init_with_output, jax.random.key(0), waveform)[0].shape[1:]
    if (config.augment.mask.frequency or config.augment.mask.time) and (len(features) < 2 or 1 in features[:2]):
        raise UserError(f"augment.mask needs frames and bins, and front end {config.frontend.name!r} gives {features}")
    if len(features) != len(model.input_shape):
        raise UserError(
            f"model {config.model.name!r} reads {len(model.input_shape)} axes a clip, as in {model.input_shape}, "
            f"and front end {config.frontend.name!r} gives {features}"
        )
    try:
        params = models.abstract_variables(model, features)["params"]
    except UserError as error:
        raise UserError(
            f"model {config.model.name!r} cannot read what front end {config.frontend.name!r} gives, {features}: {error}"
        ) from error
    freezing.check_patterns("freeze.patterns", config.freeze.patterns, params)
    freezing.check_patterns("learning_rates", [*freezing.parse_rates(config.learning_rates)], params)
