"""The base config, which is the reference manual of every config key, and the functions that change, check and store a config.

A config holds plain JSON values. The four components (front end, model, optimiser, schedule) are chosen by name. The section of
a component holds its name and its options; the options are the arguments of the component's function or Module, which documents
them. A duration is a text such as "30 epochs", "2000 steps" or "1e6 examples".
"""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from genre_jax import atomic, checksum, config_checks, config_files, console, frontends, models, optim
from genre_jax.config_section import Section, flat
from genre_jax.console import UserError
from genre_jax.data.locate import check_name
from genre_jax.weights import files

VERSION = 6  # schema version: it changes when a key is added, removed or renamed
COMPONENTS: dict[str, dict[str, Callable]] = {
    "frontend": frontends.FRONTENDS,
    "model": models.MODELS,
    "optimizer": optim.OPTIMIZERS,
    "schedule": optim.SCHEDULES,
}
# Config keys that may change when a run is resumed: none of them changes its numbers beyond rounding.
FREE_ON_RESUME = (
    "devices",
    "runner",
    "shard_optimizer",
    "made_by.config",
    "made_by.overrides",
    "model.remat",
    "model.backend",
    "model.time_shards",
    "data.data_dir",
    "data.reader",
    "data.prefetch",
    "data.verify",
    "data.on_corrupt",
)
_PLACES = ("init_from", "data.data_dir", "distill.teacher")  # of one machine: `save_pretrained` leaves them out


def base(name: str) -> ConfigDict:
    """Returns the base config of a run called `name`. Every config file starts from it. It is locked: no key can be added."""
    config = Section(
        {
            "version": VERSION,  # schema version; a run whose config.json has another version is refused
            "name": name,  # of the run; the default workdir is runs/NAME
            "seed": 0,  # of the random weights, the order of the clips, the cuts, dropout and augmentation
            # Type of the network's computation: float32, bfloat16 or float64. Parameters and front end are float64 with
            # float64, and float32 otherwise.
            "dtype": "float32",
            "devices": 0,  # number of accelerators; 0 = all, and always 0 on several hosts
            "runner": "pmap",  # what runs a step on the devices: pmap, or jit (with NamedSharding); the numbers are the same
            # Each device keeps and updates only its part of the optimiser state (ZeRO-1, Rajbhandari et al. 2020); needs
            # runner "jit".
            "shard_optimizer": False,
            # Number of neighbouring devices whose clips share the statistics of batch norm; 0 = all devices. With groups the
            # numbers of a run depend on the number of devices.
            "batch_norm_devices": 0,
            # The command line that made the config, for the report: `load` sets it.
            "made_by": {
                "config": "",  # the value of --config, such as schindler:shallow,exp
                "overrides": [],  # such as ["data.name=gtzan"]
            },
            # Initial weights: a published tagger (musicnn, musicnn-mtt, musicnn-vgg, musicnn-vgg-mtt), the workdir of a run, a
            # file of save_pretrained, or a published ResNet, DenseNet or MobileNet (.safetensors, .pth, .pt, .h5 or .keras), as
            # a path or as hf://owner/name[@revision][/file]; "" = random weights.
            # The ending #sha256=… checks the file. The classifier starts from random weights if they lack a class.
            "init_from": "",
            "head": _head(),
            "data": _data(),
            "augment": _augment(),
            "loss": {
                # softmax: each clip has one label; sigmoid: each clip has any number of labels; auto: softmax if each clip of
                # the run has one label, else sigmoid.
                "name": "softmax",
                "class_weights": "none",  # none, or balanced: inversely proportional to the class frequency in training
                # In [0, 1]: share of each label that is spread evenly over the classes (softmax) or set to 1/2 (sigmoid).
                "label_smoothing": 0.0,
            },
            "distill": _distill(),
            "freeze": _freeze(),
            "learning_rates": [],  # factors of the learning rate by name pattern, such as ["layer1*=0.1"]; [] = 1 for all
            "gradient_clip": 0.0,  # largest global norm of the gradient; 0 = no clipping
            # Decay, in [0, 1], of an exponential moving average of the parameters, which evaluation then uses; 0 = off.
            "ema": 0.0,
            "train": _train(),
            "evaluate": _evaluate(),
        }
    )
    for kind, component in {"frontend": "waveform", "model": "bytenet", "optimizer": "adam", "schedule": "constant"}.items():
        config[kind] = _with_defaults(kind, component)
    config.lock()
    return config


def _head() -> dict[str, Any]:
    return {
        # How the classifier starts. random: with random weights, or those of init_from if they fit; logistic: as a logistic
        # regression on the embeddings of the training split (probe.py), which is evaluated at step 0. If no later checkpoint is
        # better, the regression is fitted again at the end, on training and validation split.
        "start": "random",
        "c": 0.01,  # inverse strength of the L2 penalty of the logistic regression, above 0
    }


def _data() -> dict[str, Any]:
    return {
        "name": "synthetic",  # a prepared data set, or an embedded data set, which is prepared on first use
        "data_dir": "data",  # folder of the prepared data sets
        "sample_rate": 16_000,  # in Hz; the data set must have this rate
        # Steps of `prepare --condition` that the data set must have; `genre_jax.tag` applies them, too.
        "conditioning": [],
        # Splits: a name, a slice in the order of the clips' names such as eval[:-100], a slice after a seeded shuffle such as
        # eval[:100@12345], or a sum of these such as fold1+fold2.
        "train": "train",  # split for training
        "validation": "validation",  # split for validation; "" = no validation
        "test": "test",  # split for the final evaluation
        "classes": [],  # use only the clips and labels of these classes; [] = all
        "samples": 57_344,  # length of a cut (the network's input) in samples
        # Labels that the loss reads. multi: all labels of a clip, as a multi-hot vector; first: its first label alone.
        # Evaluation scores and stores all labels.
        "labels": "multi",
        "mix": [],  # more training sets with their weights, such as ["my_music=0.5"]; data.name has weight 1; [] = none
        # How training clips are drawn. uniform: every clip once an epoch. balanced: first a class, all with the same
        # probability, then one of its clips. sqrt: the same, with probabilities proportional to the square root of the class's
        # number of clips. weighted: the same, with probabilities proportional to class_weights. Every class of a clip counts.
        "sampling": "uniform",
        "class_weights": [],  # for `weighted` alone, such as ["jazz=2", "rock=0.5"]; 1 for classes without an entry
        # Cuts of the training clips. random: one cut of each clip, drawn at each visit. fixed: segments_per_track cuts of each
        # track, drawn once. consecutive: all cuts of each clip, segment_hop samples apart.
        "segments": "random",
        "segments_per_track": 15,  # number of cuts for `fixed`, at least 1
        "margin": 0,  # samples at both ends of a clip that random cuts never use; it shrinks in short clips
        "segment_hop": 0,  # samples between the starts of the cuts for `consecutive`; 0 = data.samples
        # The last consecutive cut or window of a clip ends with the clip (aligned), or is left out if it starts less than half
        # a hop after the one before (dropped).
        "last_window": "aligned",
        "copies": {  # augmented copies that enlarge the training split; no copies if semitones and stretches are both []
            "semitones": [],  # pitch shifts in semitones, each in [-24, 24]
            # Tempo factors, each in [0.1, 4]; 2 = twice as fast. A shorter copy is padded with zeros, a longer copy is cut.
            "stretches": [],
            # each: a copy for every combination of stretch and shift; one: one copy with a random combination, drawn once.
            "draw": "each",
            "segments": 0,  # more fixed segments of each track, from which the copies are made; 0 = copies of the normal cuts
        },
        "refresh_epochs": 1,  # number of visits for which a clip keeps its random cut and augmentations, at least 1
        # Order of the training clips. global: any clip can follow any other. by_shard: the shards come in a random order, cut
        # into `streams` parts, and the clips of a part are shuffled within a buffer. Readers can then read files from start to
        # end, as a bucket needs. In both orders each clip comes once an epoch.
        "order": "global",
        "streams": 8,  # for by_shard: streams that are read at once; it divides the batch size, and the hosts divide it
        "shuffle_buffer": 256,  # for by_shard: number of clips of a stream that are shuffled together, at least 1
        # What reads the clips; the batches are the same. tfdata and threads read each cut by its place in a local file;
        # sequential reads whole shards through tf.data, from a disk or a bucket, and needs order "by_shard". auto: sequential
        # for a bucket, otherwise tfdata if TensorFlow is installed, otherwise threads.
        "reader": "auto",
        "prefetch": 4,  # number of batches that are read ahead, at least 1
        # When the checksum of a clip's record is compared: first: when the run reads the clip for the first time, and again
        # after its shard has changed; always: at each read; never. It needs google-crc32c; without it, never.
        "verify": "first",
        "on_corrupt": "stop",  # a damaged clip ends the run (stop), or counts neither in training nor in evaluation (skip)
    }


def _augment() -> dict[str, Any]:
    """Augmentations run on the device in the order of `augment.NAMES`. Their random numbers depend on seed, clip and visit."""
    return {
        # A clip whose largest sample exceeds this value is scaled down to it, in evaluation too; 0 = off. Document 000: 0.7.
        "gain_cap": 0.0,
        "speed": 0.0,  # s in [0, 1]: change pitch and tempo together by a random factor in [1 / (1 + s), 1 + s]; 0 = off
        "pitch": 0.0,  # in [0, 24]: shift the pitch by up to ± this many semitones (phase vocoder), uniform; 0 = off
        "stretch": 0.0,  # s in [0, 1]: change the tempo by a random factor in [1 / (1 + s), 1 + s] (phase vocoder); 0 = off
        "vocoder_fft": 2048,  # window of the phase vocoder in samples, a multiple of 4; data.copies uses it too
        "equalise_db": 0.0,  # random equaliser with gains of up to ± this many dB, uniform; 0 = off
        "band_limit": {  # a random low-pass or high-pass filter, both with the same probability
            "probability": 0.0,  # in [0, 1]; 0 = off
            "low_pass": [2000.0, 7000.0],  # least and largest cut-off frequency in Hz, uniform in log; [] = no low-pass
            "high_pass": [50.0, 500.0],  # the same for the high-pass filter
        },
        "gain_db": 0.0,  # random gain of up to ± this many dB, uniform; 0 = off
        "noise": {  # recordings added to the clip; they stay in the device's memory
            "data_set": "",  # a prepared data set of the same sample rate; "" = off
            "split": "train",  # split of that data set
            "label": "",  # use the recordings of this class alone, such as "noise"; "" = all
            "probability": 0.5,  # in [0, 1]
            "gain": [0.14, 0.26],  # least and largest factor of the noise, uniform; the default is document 000's
            "snr_db": [],  # least and largest signal-to-noise ratio in dB, such as [5.0, 20.0]; [] = use `gain`
            "count": 1,  # number of recordings added at once, at least 1
        },
        "polarity": 0.0,  # probability of a sign flip; 0 = off
        "shift": 0.0,  # probability of a circular shift by a random number of samples; 0 = off
        "mixup": {  # mix each example and its labels with the next example of the batch
            "alpha": 0.0,  # the shares are drawn from Beta(alpha, alpha); 0 = off
            "of": "waveform",  # what is mixed: waveform, or features (the output of the front end)
        },
        "mask": {  # SpecAugment: set random bands of bins and spans of frames to the clip's minimum
            "frequency": 0,  # number of bands in each clip; 0 = off
            "frequency_width": 0.2,  # in [0, 1]: largest width of a band, as a share of all bins
            "time": 0,  # number of spans in each clip; 0 = off
            "time_width": 0.2,  # in [0, 1]: largest width of a span, as a share of all frames
        },
        "start": [],  # augmentations that are off at first, with the duration, such as ["noise=10 epochs"]; [] = none
        "refresh": [],  # visits between redraws, such as ["noise=10"]; data.refresh_epochs for the other augmentations
    }


def _distill() -> dict[str, Any]:
    return {
        # The trained network from which this run learns, as well as from the labels (distill.py): the workdir of a run, a file
        # of save_pretrained, hf://… or a published tagger. It must know all classes. "" = none; the next keys have no effect.
        "teacher": "",
        "temperature": 1.0,  # above 0: divides the logits of teacher and student in the soft loss
        "share": 0.9,  # in [0, 1]: weight of the soft loss; the loss on the labels has the rest
        "squared": True,  # multiply the soft loss by the square of the temperature
        # Compute the teacher's logits once for each cut, without augmentation. It needs data.segments fixed or consecutive.
        "cached": False,
    }


def _freeze() -> dict[str, Any]:
    return {
        # Name patterns of the parameters that are not trained (freezing.py explains patterns); [] = none. For example
        # ["*", "!fc/*"] freezes all parameters except the classifier's.
        "patterns": [],
        "until": "",  # duration after which the frozen parameters are trained, such as "10 epochs"; "" = never
        # Also freeze the running statistics of the frozen batch norms, which then normalise as in evaluation.
        "batch_stats": False,
        # When the optimiser state of the frozen parameters starts. release: when they are released; start: when the run
        # starts.
        "optimizer_from": "release",
    }


def _train() -> dict[str, Any]:
    return {
        "batch_size": 16,  # clips in a step over all devices and hosts
        "accumulate": 1,  # gradient accumulation: number of micro-batches into which each device splits its clips
        "duration": "10 epochs",  # of the whole run; "0 steps" keeps the classifier that head.start fits
        "log_every": "20 steps",  # time between log lines
        "evaluate_every": "1 epochs",  # time between evaluations of the validation split
        "checkpoint_every": "1 epochs",  # time between checkpoints
        # Number of steps of the run that may have a loss or gradient that is not finite. Their updates are left out, which
        # costs as much memory as the gradients. The next such step stops the run, and `main --replay` explains it.
        "skip_nonfinite": 0,
        # Number of evaluations without a better validation score (evaluate.select) after which the training ends; 0 = never.
        "patience": 0,
        "keep": 2,  # number of latest checkpoints that are kept, at least 1; the best checkpoint is kept as well
    }


def _evaluate() -> dict[str, Any]:
    return {
        "batch_size": 16,  # windows in a batch over all devices and hosts
        # Windows of a clip: consecutive covers the whole clip with a window every `hop` samples; centre takes the
        # middle window alone; random takes a window that is drawn once; fixed takes segments_per_track windows of each
        # track that are drawn once. `genre_jax.tag` always uses consecutive windows.
        "windows": "consecutive",
        "hop": 0,  # samples between the starts of consecutive windows; 0 = data.samples
        "weights": "best",  # checkpoint of the final evaluation: best (on the validation split) or last
        # What makes a checkpoint the best: max or min, and a score of results.json, such as "min loss" or
        # "max track/majority/accuracy". auto: max track/max_probability/accuracy (softmax), or
        # max clip/mean_average_precision (sigmoid).
        "select": "auto",
        "train": False,  # also evaluate the training split at the end
    }


def options(component: Callable) -> dict[str, Any]:
    """Returns the options of a component with their defaults: its arguments whose defaults are plain JSON."""
    legal = {}
    for parameter in inspect.signature(component).parameters.values():
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        if isinstance(default, bool | int | float | str | list) and parameter.name not in ("name", "axis_name"):
            legal[parameter.name] = default
    return legal


def _with_defaults(kind: str, name: str) -> dict[str, Any]:
    return {"name": name} | options(console.pick(kind, name, console.pick("component kind", kind, COMPONENTS)))


def choose(config: ConfigDict, kind: str, name: str, **changes: Any) -> None:
    """Choose a component by name, with its default options and `changes`: `choose(config, "model", "resnet34", width=16)`.

    Raises `UserError` for an unknown kind (the keys of `COMPONENTS`), name or option.
    """
    section = _with_defaults(kind, name)
    with config.unlocked():
        config[kind] = section
    for key, value in changes.items():
        override(config, f"{kind}.{key}", value)


def override(config: ConfigDict, key: str, value: Any) -> None:
    """Set the dotted `key`, such as "train.batch_size". A text is converted to the type of the key. Raises `UserError`.

    A new `name` of a component replaces the options of the component (`choose`).
    """
    *path, last = key.split(".")
    section = config
    for part in path:
        if not isinstance(section.get(part), ConfigDict):
            raise console.unknown("config key", key, flat(config))
        section = section[part]
    if last == "name" and path and path[0] in COMPONENTS:
        if value != section.name:
            choose(config, path[0], value)
        return
    if isinstance(value, str) and type(section.get(last, "")) is not str:
        value = _parsed(value)
    section[last] = value


def _parsed(text: str) -> Any:
    """Returns the JSON value of a text (True and False may be capitalised), or the text itself if it is not JSON."""
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text


def with_argument(config: ConfigDict, argument: str, **presets: Callable[[ConfigDict], None]) -> ConfigDict:
    """Apply the argument of `--config=FILE:argument`: names of presets and `key=value`, comma-separated. Returns the config.

    The presets are applied in the order of `presets`, whatever their order in the argument, and then the keys.
    """
    parts = [part for part in argument.split(",") if part]
    try:
        for part in parts:
            if "=" not in part:
                console.pick("preset", part, presets)
    except UserError as error:
        raise config_files.ArgumentError(str(error)) from error
    for name, preset in presets.items():
        if name in parts:
            preset(config)
            config.name = f"{config.name}_{name}"
    for part in parts:
        key, equals, value = part.partition("=")
        try:
            if equals:
                override(config, key, value)
        except UserError as error:
            raise config_files.ArgumentError(str(error)) from error
    return config


def load(spec: str, overrides: dict[str, str] | None = None) -> ConfigDict:
    """Returns the validated config of a file.

    Args:
      spec: `FILE[:argument]` or `NAME[:argument]`, the value of --config. NAME is a shipped config, such as "bytenet".
      overrides: {dotted key: text} of the command line.

    Raises `UserError`; an error inside the file names its line.
    """
    file, _, argument = spec.partition(":")
    config = config_files.read(file, argument)
    if not isinstance(config, Section):
        raise UserError(f"{file}: get_config must return the config that it got from base(NAME), and returned {config!r:.40}")
    for key, value in (overrides or {}).items():
        override(config, key, value)
    config.made_by.update(config=spec, overrides=[f"{key}={value}" for key, value in (overrides or {}).items()])
    validate(config)
    return config


def from_json(values: dict[str, Any]) -> ConfigDict:
    """Returns the config that `to_json` wrote.

    Args:
      values: the JSON object. It must hold the keys of its components and of `base`; only the paths of
        `_PLACES` may be missing, and get their defaults.

    Raises `UserError` for another schema version, and for a missing or unknown key.
    """
    advice = "train the run again, or use the genre_jax that wrote it"
    if values.get("version") != VERSION:
        has = f"schema version {values['version']}" if "version" in values else "no schema version"
        raise UserError(f"the config has {has}, and this genre_jax reads schema version {VERSION}: {advice}")
    config, stored = base(""), flat(values)
    for kind in COMPONENTS:
        if f"{kind}.name" in stored:
            choose(config, kind, stored[f"{kind}.name"])
    keys = flat(config).keys()
    for problem, names in (("lacks the", keys - stored.keys() - {*_PLACES}), ("has the unknown", stored.keys() - keys)):
        if names:
            listed = f"key{'s' * (len(names) > 1)} {', '.join(sorted(names)[:5])}{' …' * (len(names) > 5)}"
            raise UserError(f"the config {problem} {listed}: {advice}")
    for key, value in stored.items():
        override(config, key, value)
    return config


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as plain JSON values."""
    return json.loads(json.dumps(config.to_dict()))


def read_json(path: Path) -> ConfigDict:
    """Returns the config in a file that holds `to_json`, with checked values. Raises `UserError` that names the file."""
    values = atomic.read_json(path, dict)
    try:
        config = from_json(values)
        validate_values(config)
    except (UserError, TypeError, AttributeError) as error:  # the last two for values of a wrong type
        raise UserError(f"{path}: {error}") from error
    return config


def digest(config: ConfigDict) -> str:
    """Returns the checksum of the keys that change the numbers of a run: all except `FREE_ON_RESUME`."""
    return checksum.of_json({key: value for key, value in flat(to_json(config)).items() if key not in FREE_ON_RESUME})


def validate(config: ConfigDict) -> None:
    """Check all values, and that front end and model fit, before any data is read. Raises `UserError`."""
    validate_values(config)
    if config.init_from and not Path(config.init_from, "checkpoints").is_dir():
        files.check(config.init_from)
    check_name(config.data.name, config.data.data_dir)
    config_checks.check_pairing(config)


def validate_values(config: ConfigDict) -> None:
    """Check the values that can be checked without reading files and without building the network. Raises `UserError`."""
    if config.version != VERSION:
        raise UserError(f"config key 'version' must be {VERSION}, and was given {config.version}")
    config_checks.check_values(config)
