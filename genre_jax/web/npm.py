"""The two JavaScript libraries of the page, fetched on first use: onnxruntime-web and wavesurfer.js.

`npm pack` downloads the packages, so that the mirrors and proxies that npm knows work. Only the files below are read, and each
is compared with its digest; nothing is installed or executed. The packages stay in the cache (`cache.folder`).
"""

import dataclasses
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from genre_jax import cache, console
from genre_jax.atomic import write_whole
from genre_jax.console import UserError


@dataclasses.dataclass(frozen=True)
class Package:
    """A package of npm: its `version`, its size in MB, and path → sha256 of the `files` that the page needs."""

    version: str
    megabytes: float
    files: dict[str, str]


PACKAGES = {
    "onnxruntime-web": Package(
        "1.30.0",
        33.1,
        {
            "dist/ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
            "dist/ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
            "dist/ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
        },
    ),
    "wavesurfer.js": Package(
        "8.0.1",
        0.4,
        {
            "dist/wavesurfer.esm.js": "079f3b142f37737f975b03ea8fd18652a316dc2120a2629aeca0844a0c08f2b1",
            "LICENSE": "0fc992dc27cc34dde78bfeb024b4cadff6320f0dcbee2f1228efaeb533ca1364",
        },
    ),
}
COMMAND = "npm install " + " ".join(f"{name}@{package.version}" for name, package in PACKAGES.items())


def runtime(folder: Path | None = None) -> dict[str, bytes]:
    """Returns name → content of the files of both packages that the page needs, such as "ort.wasm.min.mjs" or "LICENSE".

    Args:
      folder: a folder with the unpacked packages, such as node_modules; None: they are fetched on first use.

    Raises `UserError` if npm is missing or cannot download a package, or if a file is missing or is not that of the version.
    """
    contents: dict[str, bytes] = {}
    for name, package in PACKAGES.items():
        contents |= _packed(name, package) if folder is None else _unpacked(name, package, folder)
    return contents


def _unpacked(name: str, package: Package, folder: Path) -> dict[str, bytes]:
    """Returns the files of a package in a folder of packages."""
    advice = f"make the folder of --runtime by {COMMAND} --ignore-scripts, and give its node_modules"
    contents = {}
    for path in package.files:
        file = folder / name / path
        if not file.is_file():
            raise UserError(f"{file} is missing: {advice}")
        contents[file.name] = _checked(name, package, path, file.read_bytes(), advice)
    return contents


def _packed(name: str, package: Package) -> dict[str, bytes]:
    """Returns the files of a package in the cache, after its download if it is not there."""
    archive = cache.folder() / f"{name}-{package.version}.tgz"
    if archive.exists():
        return _read(name, package, archive, f"remove {archive}, and run the command again")
    archive.parent.mkdir(parents=True, exist_ok=True)
    console.note(f"downloading {name} {package.version} ({package.megabytes:g} MB) with npm; this happens once")
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        fetched = _download(name, package, Path(folder))
        contents = _read(name, package, fetched, "a mirror serves another package")
        with write_whole(archive) as file:
            file.write(fetched.read_bytes())
    return contents


def _download(name: str, package: Package, folder: Path) -> Path:
    """Let npm download a package into a folder, and return its archive."""
    advice = f"run {COMMAND} --ignore-scripts on any machine, and give its folder node_modules as --runtime"
    program = shutil.which("npm")
    if program is None:
        raise UserError(f"the page needs the package {name}, and npm is not installed: install Node.js, or {advice}")
    done = subprocess.run(
        [program, "pack", f"{name}@{package.version}", "--ignore-scripts", "--loglevel=error"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    fetched = list(folder.glob("*.tgz"))
    if done.returncode or len(fetched) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["npm gave no reason"]
        raise UserError(f"npm could not download {name}@{package.version} ({lines[0]}): check the network, or {advice}")
    return fetched[0]


def _read(name: str, package: Package, archive: Path, advice: str) -> dict[str, bytes]:
    """Returns the files of a package in an archive of npm. Nothing else of the archive is unpacked."""
    contents = {}
    try:
        with tarfile.open(archive) as members:
            for path in package.files:
                member = members.extractfile(f"package/{path}")
                if member is None:
                    raise KeyError(path)
                contents[Path(path).name] = _checked(name, package, path, member.read(), advice)
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise UserError(f"{archive.name} is not the package {name} ({reason}): {advice}") from error
    return contents


def _checked(name: str, package: Package, path: str, content: bytes, advice: str) -> bytes:
    """Returns the content of a file, after a comparison with its digest."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != package.files[path]:
        raise UserError(
            f"{path} of {name} has sha256 {digest}, and version {package.version} has {package.files[path]}: {advice}"
        )
    return content
