"""Files of weights, on disk or on a hub, as arrays by name. Nothing that such a file holds is ever executed.

`.safetensors` are read with the package of that name, Keras's `.h5` and `.keras` with h5py, PyTorch's `.pth` and `.pt` with
`torch.load(weights_only=True)` where torch is installed; each library is imported when a file asks for it.
"""

import hashlib
import importlib
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from genre_jax.console import UserError, say

Arrays = dict[str, np.ndarray]
HUB = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>.+))?")
LEGAL = f"a run's workdir, a file, or hf://owner/name[@revision][/file]; either of these may end in {'#sha256=…'!r}"


def _parse(source: str) -> tuple[str, str]:
    """(place, required digest or "") of "place#sha256=digest"."""
    place, required, digest = source.partition("#sha256=")
    if required and not re.fullmatch("[0-9a-f]{64}", digest):
        raise UserError(f"{source!r} must give its sha256 as 64 hexadecimal digits, and gives {digest!r}")
    return place, digest


def check(source: str) -> None:
    """Raise `UserError` unless `source` names a file of weights, as far as can be told without fetching or reading it."""
    place, _ = _parse(source)
    hub = HUB.fullmatch(place)
    if not hub and not Path(place).is_file():
        raise UserError(f"{source!r} names no weights: give {LEGAL}")
    suffix = Path(hub["file"] or "model.safetensors").suffix if hub else Path(place).suffix
    if suffix not in READERS:
        raise UserError(f"weights are read from files that end in {', '.join(READERS)}, and {source!r} does not")


def fetch(source: str) -> tuple[Path, str]:
    """The file that `source` names, fetched from the hub where it lies there, and its sha256.

    `source` is a path or `hf://owner/name[@revision][/file]` (`model.safetensors` where none is named), and may end in
    `#sha256=DIGEST`, which the file must then have. Raises `UserError`.
    """
    check(source)
    place, required = _parse(source)
    hub = HUB.fullmatch(place)
    path = _download(place, **hub.groupdict()) if hub else Path(place)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if required and digest != required:
        raise UserError(f"{place} has sha256 {digest}, and {required} is required")
    return path, digest


def _download(place: str, repository: str, revision: str | None, file: str | None) -> Path:
    advice = "pip install huggingface_hub, or fetch the file and give its path"
    hub = _library("huggingface_hub", place, advice)
    say(f"fetching {place}")
    try:
        return Path(hub.hf_hub_download(repository, file or "model.safetensors", revision=revision))
    except Exception as error:  # of the hub, its HTTP library or the disk
        raise UserError(f"{place} could not be fetched: {_first_line(error)}") from error


def read(path: Path) -> tuple[Arrays, dict[str, str]]:
    """(name → array, metadata) of a file; its floating-point arrays alone. Raises `UserError` for one that is not whole."""
    try:
        arrays, metadata = READERS[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # each library has its own for a file that is not what its name says
        raise UserError(f"{path} is damaged, or is no {path.suffix} file of weights alone: {_first_line(error)}") from error
    arrays = {name: array for name, array in arrays.items() if jnp.issubdtype(array.dtype, jnp.floating)}
    if broken := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise UserError(f"{path} holds numbers that are not finite, in {listed(broken)}")
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
    torch = _library("torch", path, f'where it is, this converts the file: python -c "{convert}"')
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):  # of training scripts, beside the optimiser
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, and should hold a state dict")
    tensors = {name: value for name, value in state.items() if torch.is_tensor(value) and value.is_floating_point()}
    return {name: np.asarray(value.to(torch.promote_types(value.dtype, torch.float32))) for name, value in tensors.items()}, {}


def _hdf5(file: Path | io.BytesIO) -> tuple[Arrays, dict[str, str]]:
    h5py = _library("h5py", file, "pip install h5py")
    arrays: Arrays = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            if item.external or item.is_virtual:
                raise UserError(f"{file} keeps {name} in another file, which is not read")
            arrays[name] = item[()]

    with h5py.File(file) as group:
        group.visititems(take)  # follows no links
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


def listed(names: list[str], shown: int = 4) -> str:
    """The first few of `names`, and how many more."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _library(name: str, wanted_for: object, advice: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{wanted_for} needs {name}, which is not installed: {advice}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
