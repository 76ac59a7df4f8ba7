"""Writes the static folder of the page: network, runtime, script, style and licences."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import genre_jax
from genre_jax import console
from genre_jax.atomic import write_json, write_text
from genre_jax.console import UserError
from genre_jax.web import npm
from genre_jax.web.songs import Songs

PAGE = Path(__file__).with_name("page")
DESCRIPTION = "model.json"  # what app.js and worker.js know of the network; its presence marks a folder of this module
_SHOWN = ("name", "labels", "task", "sample_rate", "samples", "hop", "waveform", "inputs", "licence", "source")
_MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def write(model: Path, folder: Path, index: Path | None = None, runtime: Path | None = None) -> None:
    """Write the page of a network into a folder, which any web server can serve from any address.

    Args:
      model: an ONNX file of `genre_jax.export`.
      folder: the folder to write. An older page in it is replaced.
      index: the folder of an index of `genre-jax similar build`, whose songs the page compares with; None: none.
      runtime: a folder with the unpacked packages of `npm.PACKAGES`; None: they are fetched with npm on first use.

    Raises `UserError` if the page cannot run the network, if the folder holds other files, if the index was built with
    another network or is too large, or if a package cannot be fetched.
    """
    described = description(model)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION).exists():
        raise UserError(f"the folder {folder} holds other files: choose a new or empty folder for the page")
    scripts = npm.runtime(runtime)
    table = Songs(index, genre_jax.load(str(model)), described["name"]).table() if index else None
    (folder / "runtime").mkdir(parents=True, exist_ok=True)
    for page in PAGE.iterdir():
        (folder / page.name).write_bytes(page.read_bytes())
    licence = scripts.pop("LICENSE").decode()
    for name, content in scripts.items():
        (folder / "runtime" / name).write_bytes(content)
    (folder / "model.onnx").write_bytes(model.read_bytes())
    write_text(folder / "LICENCES.txt", _licences(described, licence))
    for name in ("index.json", "index.bin"):
        (folder / name).unlink(missing_ok=True)
    if table:
        write_text(folder / "index.json", json.dumps(table[0], allow_nan=False))
        (folder / "index.bin").write_bytes(table[1])
    write_json(folder / DESCRIPTION, described | {"similar": "table" if table else None})


def export(source: str | None, folder: Path, index: Path | None = None, runtime: Path | None = None, **options: Any) -> None:
    """Write the page of a network, as `write` does.

    Args:
      source: an ONNX file of `genre_jax.export`, or what `genre_jax.load` takes; None: the published taggers together.
      folder, index, runtime: as in `write`.
      options: those of `genre_jax.export.write`.
    """
    if source and source.endswith(".onnx"):
        write(Path(source), folder, index, runtime)
        return
    from genre_jax import export

    console.note(f"exporting {source or 'the published taggers'} for the browser")
    with tempfile.TemporaryDirectory() as temporary:
        write(export.write(source, Path(temporary, "model.onnx"), **options).path, folder, index, runtime)


def description(model: Path) -> dict[str, Any]:
    """Returns what the page needs to know of an ONNX file of `genre_jax.export`, by the keys of its metadata.

    Raises `UserError` if the file is no such file, or if the page cannot prepare the input of the network.
    """
    from genre_jax.export.runtime import Exported

    if model.suffix != ".onnx":
        raise UserError(f"the page runs ONNX files, and {model} has another ending: use --format=onnx for the file")
    described = dataclasses.asdict(Exported(model).description)
    if described["conditioning"]:
        raise UserError(
            f"the page cannot run {described['name']}, because its songs are conditioned as a whole "
            f"(data.conditioning={', '.join(described['conditioning'])}), which exists only in Python: use genre-jax tag, "
            f"or train without data.conditioning"
        )
    return {key: described[key] for key in _SHOWN}


def _licences(described: dict[str, Any], wavesurfer: str) -> str:
    """Returns the licences of everything in the folder."""
    licence = described["licence"] or "Its licence is not stated: ask who made the page."
    parts = [
        (f"The network {described['name']}", "\n\n".join(filter(None, (described["source"], licence)))),
        ("The page", f"genre_jax {genre_jax.__version__}, Apache License 2.0: https://www.apache.org/licenses/LICENSE-2.0"),
        (
            f"onnxruntime-web {npm.PACKAGES['onnxruntime-web'].version}",
            f"MIT License\n\nCopyright (c) Microsoft Corporation\n\n{_MIT}\n\nThe notices of the libraries in it:\n"
            f"https://github.com/microsoft/onnxruntime/blob/main/ThirdPartyNotices.txt",
        ),
        (f"wavesurfer.js {npm.PACKAGES['wavesurfer.js'].version}", wavesurfer.strip()),
    ]
    return "\n\n\n".join(f"{title}\n{'=' * len(title)}\n\n{text}" for title, text in parts) + "\n"
