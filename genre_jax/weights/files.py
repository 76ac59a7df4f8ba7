"""Read files of weights, from a disk, the Hugging Face Hub or a package, as name → array. No code from a file is ever executed.

`.safetensors` files are read with the package safetensors, Keras's `.h5` and `.keras` with h5py, and PyTorch's `.pth` and
`.pt` with `torch.load(weights_only=True)`. A library is imported when a file needs it.
"""

import importlib
import io
import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from genre_jax import checksum
from genre_jax.console import UserError, note
from genre_jax.weights import musicnn

Arrays = dict[str, np.ndarray]
HUB = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>.+))?")
LEGAL = (
    f"a run's workdir, one of {', '.join(musicnn.NAMES)}, or a file or hf://owner/name[@revision][/file], "
    f"both of which may end in {'#sha256=…'!r}"
)


def _parse(source: str) -> tuple[str, str]:
    """Split "place#sha256=digest" into (place, digest); the digest is "" if the source has none."""
    place, separator, digest = source.partition("#sha256=")
    if separator and not re.fullmatch("[0-9a-f]{64}", digest):
        raise UserError(f"the sha256 in {source!r} must be 64 hexadecimal digits, and is {digest!r}")
    return place, digest


def check(source: str, suffixes: Collection[str] = ()) -> None:
    """Raise `UserError` if `source` cannot be a file of weights, or of other `suffixes`. It is neither downloaded nor read."""
    place, _ = _parse(source)
    if place in musicnn.NAMES:
        return
    hub = HUB.fullmatch(place)
    if not hub and not Path(place).is_file():
        raise UserError(f"{source!r} is not a source of weights: give {LEGAL}")
    suffix = Path(hub["file"] or "model.safetensors").suffix if hub else Path(place).suffix
    if suffix not in (suffixes or READERS):
        raise UserError(f"a file of weights must end in {', '.join(suffixes or READERS)}, and {source!r} does not")


def fetch(source: str, suffixes: Collection[str] = ()) -> tuple[Path, str]:
    """Return (path, sha256) of the file that `source` names, and download it if it is not on disk.

    Args:
      source: a key of `musicnn.NAMES`, a path or `hf://owner/name[@revision][/file]`; the default file is
        `model.safetensors`. `#sha256=DIGEST` at the end is compared with the digest of the file.
      suffixes: legal endings of the file's name; none: those of `READERS`.

    Raises `UserError` if the source is malformed, the file cannot be downloaded, or the digests differ.
    """
    check(source, suffixes)
    place, required = _parse(source)
    hub = HUB.fullmatch(place)
    if place in musicnn.NAMES:
        path = musicnn.path(place)
    else:
        path = _download(place, **hub.groupdict()) if hub else Path(place)
    digest = checksum.of_file(path)
    if required and digest != required:
        raise UserError(f"{place} has sha256 {digest}, and {required} is required")
    return path, digest


def _download(place: str, repository: str, revision: str | None, file: str | None) -> Path:
    advice = "pip install huggingface_hub, or download the file and give its path"
    hub = _library("huggingface_hub", place, advice)
    note(f"downloading {place}")
    try:
        return Path(hub.hf_hub_download(repository, file or "model.safetensors", revision=revision))
    except Exception as error:  # from huggingface_hub, its HTTP library or the disk
        raise UserError(f"{place} could not be downloaded: {_first_line(error)}") from error


def read(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Return (name → array, metadata) of a file, with its floating-point arrays only.

    Raises `UserError` if the file is damaged, or if it contains NaN or infinity.
    """
    try:
        arrays, metadata = READERS[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # each library has its own exceptions for a damaged file
        raise UserError(f"{path} is damaged or is not a {path.suffix} file of weights: {_first_line(error)}") from error
    arrays = {name: array for name, array in arrays.items() if jnp.issubdtype(array.dtype, jnp.floating)}
    if broken := not_finite(arrays):
        raise UserError(f"{path} contains numbers that are not finite, in {listed(broken)}")
    return arrays, metadata


def _safetensors(path: Path) -> tuple[Arrays, dict[str, str]]:
    library = _library("safetensors", path, "pip install safetensors")
    with library.safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _torch(path: Path) -> tuple[Arrays, dict[str, str]]:
    convert = (
        "import torch, safetensors.torch as s; "
        f"s.save_file(torch.load('{path.name}', weights_only=True), '{path.with_suffix('.safetensors').name}')"
    )
    torch = _library("torch", path, f'where it is installed, this converts the file: python -c "{convert}"')
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):  # training scripts save the state dict under one of these keys
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not isinstance(state, dict):
        raise UserError(f"{path} must hold a state dict, and holds a {type(state).__name__}")
    tensors = {name: value for name, value in state.items() if torch.is_tensor(value) and value.is_floating_point()}
    return {name: np.asarray(value.to(torch.promote_types(value.dtype, torch.float32))) for name, value in tensors.items()}, {}


def _hdf5(file: Path | io.BytesIO) -> tuple[Arrays, dict[str, str]]:
    h5py = _library("h5py", file, "pip install h5py")
    arrays: Arrays = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            if item.external or item.is_virtual:
                raise UserError(f"{file} stores {name} in another file, and other files are not read")
            arrays[name] = item[()]

    with h5py.File(file) as group:
        group.visititems(take)  # does not follow links
    return arrays, {}


def _keras(path: Path) -> tuple[Arrays, dict[str, str]]:
    with zipfile.ZipFile(path) as archive:
        return _hdf5(io.BytesIO(archive.read("model.weights.h5")))


READERS: dict[str, Callable[[Path], tuple[Arrays, dict[str, str]]]] = {
    ".safetensors": _safetensors,
    ".pth": _torch,
    ".pt": _torch,
    ".h5": _hdf5,
    ".keras": _keras,
}


def not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the names of the floating-point arrays that hold NaN or infinity. Arrays of other types hold neither."""
    floats = {name: array for name, array in arrays.items() if jnp.issubdtype(array.dtype, jnp.inexact)}
    return [name for name, array in floats.items() if not np.isfinite(array).all()]


def listed(names: list[str], shown: int = 4) -> str:
    """Join the first `shown` names with commas, and append the number of the others."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _library(name: str, file: object, advice: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{file} needs {name}, which is not installed: {advice}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
