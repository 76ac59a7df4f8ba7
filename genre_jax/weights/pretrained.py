"""Pretrained weights from another run, a file of genre_jax, or a published ResNet, DenseNet or MobileNet.

`save_pretrained` writes a trained network into one file, and `load_trained` reads such a file or a workdir. `transplant`
initialises a run from a file, a workdir, or another library's file (see `files` and `layouts`).
"""

import contextlib
import copy
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import numpy as np
from ml_collections import ConfigDict

import genre_jax
from genre_jax import checksum, forward
from genre_jax import config as configs
from genre_jax.atomic import read_json, write_whole
from genre_jax.checkpoint import Checkpoints
from genre_jax.console import UserError, printable, say
from genre_jax.models import Network
from genre_jax.weights import files, layouts
from genre_jax.weights.files import listed

FITTED = "frontend/"  # statistics that a front end computed on its training split


class Trained(NamedTuple):
    """A trained network.

    Attributes:
      config: config of the run.
      labels: classes, in the order of the logits.
      variables: {"params", "batch_stats", "frontend"}, as `forward.Forward` takes them, as host arrays.
      notes: "source" and "licence" of published weights, where they are known.
    """

    config: ConfigDict
    labels: tuple[str, ...]
    variables: dict[str, Any]
    notes: Mapping[str, str] = types.MappingProxyType({})


def load_trained(source: str | Path) -> Trained:
    """Load a trained network from a workdir, with the weights that its evaluation uses, or from a file of `save_pretrained`.

    The file is a path or `hf://owner/name[@revision][/file]`, and may end in `#sha256=…`. Raises `UserError` if the source
    is not a trained network.
    """
    source = str(source)
    if Path(source).is_dir():
        return _of_workdir(Path(source))
    path, _ = files.fetch(source)
    return _of_file(source, *files.read(path))


def _of_workdir(folder: Path) -> Trained:
    if not (folder / "labels.json").exists():
        raise UserError(f"{str(folder)!r} is not the workdir of a run: it holds no labels.json")
    config = configs.read_json(folder / "config.json")
    labels = _labels(read_json(folder / "labels.json", list), str(folder / "labels.json"))
    with (
        jax.enable_x64(config.dtype == "float64"),
        contextlib.closing(Checkpoints(folder, config, labels, read_only=True)) as checkpoints,
    ):
        saved = checkpoints.restore_model(checkpoints.choose(config.evaluate.weights))
    variables = {"params": saved["ema"] or saved["params"], "batch_stats": saved["batch_stats"], "frontend": saved["frontend"]}
    return Trained(config, labels, variables)


def _labels(names: Any, source: str) -> tuple[str, ...]:
    """The classes as a tuple. Raises `UserError` that names `source` unless they are distinct texts that are not empty."""
    texts = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    if not texts or not names or len(set(names)) < len(names):
        raise UserError(f"{source} must hold a list of distinct class names that are not empty, and holds {names!r:.80}")
    if hidden := [name for name in names if printable(name) != name]:
        raise UserError(f"{source} must hold class names without control characters, and holds {hidden[0]!r:.80}")
    return tuple(names)


def _of_file(source: str, arrays: files.Arrays, metadata: dict[str, str]) -> Trained:
    if "genre_jax" not in metadata:
        raise UserError(f"{source} was not written by genre_jax.save_pretrained: it lacks config and labels")
    if "sha256" not in metadata:
        raise UserError(f"{source} was written by an earlier genre_jax, without a checksum: save it again from a new run")
    if metadata["sha256"] != _checksum(arrays, metadata):
        raise UserError(f"{source} is damaged or was changed: its content has another checksum than the one that was written")
    try:
        config = configs.from_json(json.loads(metadata["config"]))
        configs.validate_values(config)
        labels = _labels(json.loads(metadata["labels"]), "its metadata 'labels'")
        with jax.enable_x64(config.dtype == "float64"):
            network = forward.build(config, len(labels))
            shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), config.data.samples))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UserError) as error:
        raise UserError(f"{source} contains an invalid config or invalid labels: {error}") from error
    expected, actual = ({name: leaf.shape for name, leaf in tree.items()} for tree in (_flat(shapes), arrays))
    if wrong := sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name)):
        raise UserError(f"the weights in {source} do not fit the config in it: {listed(wrong)} differ")
    notes: dict[str, str] = {name: json.loads(metadata[name]) for name in ("source", "licence") if name in metadata}
    return Trained(config, labels, nested(arrays), notes)


def _checksum(arrays: files.Arrays, metadata: dict[str, str]) -> str:
    """The checksum of the arrays and of all metadata besides the entry "sha256", as JSON."""
    rest = {key: value for key, value in metadata.items() if key != "sha256"}
    return json.dumps(checksum.of_json([checksum.of_arrays(arrays), rest]))


def sha256(trained: Trained) -> str:
    """Return a checksum of the weights, the config and the labels of a trained network, 64 hexadecimal digits."""
    return checksum.of_json([checksum.of_arrays(_flat(trained.variables)), configs.to_json(trained.config), trained.labels])


def save_pretrained(workdir: str | Path, path: str | Path) -> Path:
    """Write the trained network of `workdir` into one .safetensors file for `genre_jax.load` and `config.init_from`.

    The arrays are float32 (float64 for a float64 run) and have the names of a checkpoint, such as "params/conv1/kernel". The
    metadata contains, each as JSON, the version of genre_jax, the config without the paths of this machine, the
    labels, the sample rate in Hz, the front end, and a SHA-256 checksum of the arrays and of all these entries.

    Returns `path`. Raises `UserError` if the run has no whole checkpoint, if an array holds NaN or infinity, or if `path` does
    not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"a trained network is saved as .safetensors, and {str(path)!r} ends in {path.suffix!r}")
    return write(load_trained(workdir), path)


def write(trained: Trained, path: Path, **notes: str) -> Path:
    """Write a trained network to `path` in the format of `save_pretrained`, with `notes` as more metadata; return `path`.

    Raises `UserError` if an array or the config holds NaN or infinity.
    """
    from safetensors.numpy import save

    config, labels, variables, known = trained
    _labels([*labels], "a trained network")
    configs.validate_values(config)
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in _flat(variables).items()}
    if broken := files.not_finite(arrays):
        raise UserError(f"{path} is not written, because the weights hold NaN or infinity in {listed(broken)}: train again")
    values = without_places(configs.to_json(config))
    about = {
        "genre_jax": genre_jax.__version__,
        "config": values,
        "labels": labels,
        "sample_rate": config.data.sample_rate,
        "frontend": values["frontend"],
    }
    parts = about | {**known, **notes}
    metadata = {key: json.dumps(value, allow_nan=False) for key, value in parts.items()}
    metadata["sha256"] = _checksum(arrays, metadata)
    with write_whole(path) as file:
        file.write(save(arrays, metadata))
    return path


def without_places(values: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a config without the paths of this machine, which `config.from_json` does not need.

    Of a config file with an absolute path the name is kept.
    """
    values = copy.deepcopy(values)
    del values["init_from"], values["data"]["data_dir"], values["distill"]["teacher"]
    spec, overrides = (values["made_by"][key] for key in ("config", "overrides"))
    file, _, argument = spec.partition(":")
    presets = ",".join(part for part in argument.split(",") if part and not _names_place(part))
    spec = ":".join(filter(None, (Path(file).name if Path(file).is_absolute() else file, presets)))
    values["made_by"] = {"config": spec, "overrides": [text for text in overrides if not _names_place(text)]}
    return values


def _names_place(override: str) -> bool:
    """Whether an override, such as "data.data_dir=DIR", names a path of this machine."""
    return override.startswith(("init_from=", "data.data_dir=", "distill.teacher="))


def _flat(variables: Any) -> dict[str, Any]:
    """Return name → leaf, with names such as "params/conv1/kernel"."""
    return flax.traverse_util.flatten_dict(variables, sep="/")


def nested(arrays: files.Arrays) -> dict[str, Any]:
    """Return the variables of a network from the arrays with these names; the inverse of `_flat`."""
    return {"batch_stats": {}, "frontend": {}} | flax.traverse_util.unflatten_dict(arrays, sep="/")


def _donor(source: str, model: Network, ours: list[str]) -> layouts.Donor:
    if Path(source).is_dir():
        return _run_donor(_of_workdir(Path(source)), model, ours, "")
    path, digest = files.fetch(source)
    arrays, metadata = files.read(path)
    if "genre_jax" in metadata:
        return _run_donor(_of_file(source, arrays, metadata), model, ours, f" (sha256 {digest})")
    try:
        donor = layouts.convert(model, arrays, ours)
    except UserError as error:
        raise UserError(f"{source!r} does not fit: {error}") from error
    return donor._replace(origin=f" (layout of {donor.origin}, sha256 {digest})")


def _run_donor(run: Trained, model: Network, ours: list[str], origin: str) -> layouts.Donor:
    arrays = {name: leaf for name, leaf in _flat(run.variables).items() if not name.startswith(FITTED)}
    unknown = sorted(arrays.keys() - set(ours))
    unused = [name for name in unknown if name.split("/")[1] in model.replaceable]
    unknown = [name for name in unknown if name not in unused]
    return layouts.Donor(arrays, {name: name for name in ours}, unknown, unused, origin, run.labels)


def _columns(theirs: tuple[str, ...] | None, ours: tuple[str, ...]) -> list[int] | None:
    """The columns of our classes in a classifier with the labels `theirs`; None if it lacks one, or the labels are unknown."""
    return [theirs.index(label) for label in ours] if theirs and set(ours) <= set(theirs) else None


def transplant(source: str, variables: Any, model: Network, labels: tuple[str, ...]) -> Any:
    """Return fresh variables in which the weights of `source` replace the leaves that they fit.

    If the source knows all classes of the run, the classifier ("fc") gets their columns. Some leaves stay fresh: the classifier
    if the number of classes differs, or if the labels of the source are known and lack a class; the layers that another library
    lacks (the stem, MobileNet's hidden layer); and the fitted statistics of a front end, which must come from the new training
    split. Modules that the model lists as `replaceable` may be unused. The console lists what was loaded, stays fresh and is
    unused.

    Args:
      source: the value of `config.init_from`: a workdir, a path or a name on the Hugging Face Hub.
      variables: the fresh variables, {"params", "batch_stats", "frontend"}.
      model: the network.
      labels: the classes of the new run.

    Raises `UserError` if any other leaf is missing, unknown or of another shape; the message lists them.
    """
    ours = _flat(variables)
    donor = _donor(source, model, [*ours])
    columns = _columns(donor.labels, labels)
    new_head = donor.labels is not None and columns is None
    replaceable = model.replaceable  # without them the classifier reads something else
    loaded: dict[str, Any] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    for name, leaf in ours.items():
        array, head = donor.arrays.get(name), name.split("/")[-2] == "fc"
        if name.startswith(FITTED) or name not in donor.names or (head and array is None):
            continue
        if array is not None and head and columns is not None:
            array = array[..., columns]
        if array is None:
            missing.append(donor.names[name])
        elif head and (array.shape[:-1] == leaf.shape[:-1] or replaceable) and (new_head or array.shape != leaf.shape):
            donor.heads.append(donor.names[name])
        elif array.shape != leaf.shape:
            misshapen.append(f"{donor.names[name]} {array.shape} for {name} {leaf.shape}")
        else:
            loaded[name] = array.astype(leaf.dtype)
    wrong = {"missing": missing, "of another shape": misshapen, "not in the network": donor.unknown}
    if faults := [f"{len(names)} {what} ({listed(names)})" for what, names in wrong.items() if names]:
        raise UserError(f"{source!r} does not fit {type(model).__name__}: {'; '.join(faults)}")
    fresh = [name for name in ours if name not in loaded]
    say(
        f"weights of {source}{donor.origin}: {len(loaded)} of {len(ours)} leaves loaded; "
        f"fresh: {listed(fresh, 8) or 'none'}; unused: {listed(donor.heads, 8) or 'none'}"
    )
    return variables | flax.traverse_util.unflatten_dict(ours | loaded, sep="/")
