"""Weights that were trained before: another run's, a colleague's file, or a published ResNet, DenseNet or MobileNet.

`save_pretrained` writes one file with all that prediction needs; `load_trained` reads it, or a workdir; `transplant` starts
a run from either, or from another library's file (`weight_files`, `converters`).
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

import genre_jax
from genre_jax import config as configs
from genre_jax import forward
from genre_jax.atomic import write_whole
from genre_jax.checkpoint import Checkpoints
from genre_jax.console import UserError, say
from genre_jax.weights import files, layouts
from genre_jax.weights.files import listed

FITTED = "frontend/"  # the front end's statistics of its training split


class Trained(NamedTuple):
    """A trained network: the config of its run, its labels in the order of the logits, and its variables as host arrays.

    The variables are {"params", "batch_stats", "frontend"}, as `forward.Forward` takes them.
    """

    config: ConfigDict
    labels: tuple[str, ...]
    variables: dict[str, Any]


def load_trained(source: str | Path) -> Trained:
    """The trained network of a workdir, with the weights that its evaluation uses, or of a file of `save_pretrained`.

    The file may also be named as `hf://owner/name[@revision][/file]`, and end in `#sha256=…`. Raises `UserError`.
    """
    source = str(source)
    if Path(source).is_dir():
        return _of_workdir(Path(source))
    path, _ = files.fetch(source)
    return _of_file(source, *files.read(path))


def _of_workdir(folder: Path) -> Trained:
    if not (folder / "labels.json").exists():
        raise UserError(f"{str(folder)!r} is not the workdir of a run: it holds no labels.json")
    config = configs.from_json(json.loads((folder / "config.json").read_text()))
    labels = tuple(json.loads((folder / "labels.json").read_text()))
    checkpoints = Checkpoints(folder / "checkpoints", config.train.keep)
    with jax.enable_x64(config.dtype == "float64"):
        saved = checkpoints.restore_model(checkpoints.final(config.evaluate.weights))
    checkpoints.close()
    variables = {"params": saved["ema"] or saved["params"], "batch_stats": saved["batch_stats"], "frontend": saved["frontend"]}
    return Trained(config, labels, variables)


def _of_file(source: str, arrays: files.Arrays, metadata: dict[str, str]) -> Trained:
    if "genre_jax" not in metadata:
        raise UserError(f"{source} was not written by genre_jax.save_pretrained: it lacks config and labels")
    try:
        config, labels = configs.from_json(json.loads(metadata["config"])), tuple(map(str, json.loads(metadata["labels"])))
        configs.validate_values(config)
        with jax.enable_x64(config.dtype == "float64"):
            network = forward.build(config, len(labels))
            shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), config.data.samples))
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{source} holds a config or labels that cannot be used: {error}") from error
    expected, found = ({name: leaf.shape for name, leaf in tree.items()} for tree in (_flat(shapes), arrays))
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise UserError(f"{source} does not hold the weights of its own config: {listed(wrong)} differ")
    variables = {"batch_stats": {}, "frontend": {}} | flax.traverse_util.unflatten_dict(arrays, sep="/")
    return Trained(config, labels, variables)


def save_pretrained(workdir: str | Path, path: str | Path) -> Path:
    """Write the trained network of `workdir` into one .safetensors file, which `genre_jax.load` and `config.init_from` read.

    Its arrays are float32 (float64 of a float64 run), named as in a checkpoint ("params/conv1/kernel"); its metadata holds
    the version, config (without the places of data and first weights), labels, sample rate in Hz and front end, each as
    JSON. Returns `path`; raises `UserError` where the run has no checkpoint or the name another ending.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"a trained network is saved as .safetensors, and {str(path)!r} ends in {path.suffix!r}")
    return write(load_trained(workdir), path)


def write(trained: Trained, path: Path) -> Path:
    """Write a trained network to `path` as `save_pretrained` does, and return it."""
    from safetensors.numpy import save

    config, labels, variables = trained
    values = configs.to_json(config)
    del values["init_from"], values["data"]["data_dir"]
    parts = {
        "genre_jax": genre_jax.__version__,
        "config": values,
        "labels": labels,
        "sample_rate": config.data.sample_rate,
        "frontend": values["frontend"],
    }
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in _flat(variables).items()}
    with write_whole(path) as file:
        file.write(save(arrays, {key: json.dumps(value) for key, value in parts.items()}))
    return path


def _flat(variables: Any) -> dict[str, Any]:
    """Name, such as "params/conv1/kernel", → leaf."""
    return flax.traverse_util.flatten_dict(variables, sep="/")


def _donor(source: str, model: nn.Module, ours: list[str]) -> layouts.Donor:
    if Path(source).is_dir():
        return _run_donor(_of_workdir(Path(source)), ours, "")
    path, digest = files.fetch(source)
    arrays, metadata = files.read(path)
    if "genre_jax" in metadata:
        return _run_donor(_of_file(source, arrays, metadata), ours, f" (sha256 {digest})")
    try:
        donor = layouts.convert(model, arrays, ours)
    except UserError as error:
        raise UserError(f"{source!r} does not fit: {error}") from error
    return donor._replace(origin=f" (as {donor.origin} have them, sha256 {digest})")


def _run_donor(run: Trained, ours: list[str], origin: str) -> layouts.Donor:
    given = {name: leaf for name, leaf in _flat(run.variables).items() if not name.startswith(FITTED)}
    unknown = sorted(given.keys() - set(ours))
    return layouts.Donor(given, {name: name for name in ours}, unknown, [], origin, run.labels)


def transplant(source: str, variables: Any, model: nn.Module, labels: tuple[str, ...]) -> Any:
    """Fresh `variables` of `model` with the weights that `config.init_from` names.

    The classifier ("fc") stays fresh where the number of classes differs, or the `labels` where those of the donor are
    known; so do what another library does not have (the stem, MobileNet's hidden layer) and a front end's fitted statistics,
    which are those of the new training split. What was loaded, what stays fresh and what is left over is said; any other
    leaf that is missing, left over or of another shape is a `UserError` that lists them.
    """
    ours = _flat(variables)
    donor = _donor(source, model, [*ours])
    new_head = donor.labels is not None and donor.labels != labels
    taken: dict[str, Any] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    for name, leaf in ours.items():
        given, head = donor.arrays.get(name), name.split("/")[-2] == "fc"
        if name.startswith(FITTED) or name not in donor.names or (head and given is None):
            continue
        if given is None:
            missing.append(donor.names[name])
        elif head and given.shape[:-1] == leaf.shape[:-1] and (new_head or given.shape != leaf.shape):
            donor.heads.append(donor.names[name])
        elif given.shape != leaf.shape:
            misshapen.append(f"{donor.names[name]} {given.shape} for {name} {leaf.shape}")
        else:
            taken[name] = given.astype(leaf.dtype)
    wrong = {"missing": missing, "of another shape": misshapen, "not in the network": donor.unknown}
    if faults := [f"{len(names)} {what} ({listed(names)})" for what, names in wrong.items() if names]:
        raise UserError(f"{source!r} does not fit {type(model).__name__}: {'; '.join(faults)}")
    fresh = [name for name in ours if name not in taken]
    say(
        f"weights of {source}{donor.origin}: {len(taken)} of {len(ours)} leaves loaded; "
        f"fresh: {listed(fresh, 8) or 'none'}; left over: {listed(donor.heads, 8) or 'none'}"
    )
    return variables | flax.traverse_util.unflatten_dict(ours | taken, sep="/")
