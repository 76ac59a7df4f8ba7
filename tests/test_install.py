"""The command `genre-jax`, and its installation from a wheel in an empty folder, far from the checkout."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import collections_tree
import pytest
from conftest import ROOT

from genre_jax import __version__
from genre_jax.__main__ import COMMANDS

BUILT = ("setup.py", "pyproject.toml", "LICENSE", "genre_jax", "configs", "third_party")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def run(*arguments: str | Path, cwd: Path, code: int = 0, **environment: str) -> tuple[str, str]:
    """Run a command; return its standard output and standard error."""
    done = subprocess.run(arguments, cwd=cwd, env=os.environ | environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that pip builds of a source distribution."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in BUILT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})", cwd=source)
    (archive,) = out.iterdir()
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={out}", archive, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs the installed `genre-jax` in a folder. The checkout is not on its path."""
    target = tmp_path_factory.mktemp("target")
    run(*PIP, "install", "--no-deps", "--no-index", "--no-compile", f"--target={target}", wheel, cwd=target)

    def command(*arguments: str, cwd: Path, code: int = 0) -> tuple[str, str]:
        return run(target / "bin" / "genre-jax", *arguments, cwd=cwd, code=code, PYTHONPATH=str(target))

    return command


def files(folder: Path, *patterns: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for pattern in patterns for path in folder.rglob(pattern)}


def test_a_wheel_holds_the_package_its_templates_the_configs_and_third_party(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = files(ROOT / "genre_jax", "*.py", "*.j2", "web/page/*")
    beside = files(ROOT / "configs", "*.py") | files(ROOT / "third_party", "*.*")
    expected = package | {f"genre_jax/{name}" for name in beside}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert wheel.name.startswith(f"genre_jax-{__version__}-") and len(package) > 100 and len(beside) > 10


def test_the_installed_command_lists_its_commands_and_finds_the_configs(installed, tmp_path):
    out, _ = installed(cwd=tmp_path)
    assert out.splitlines()[1:-1] == [f"  {name:<10}{line}" for name, (_, line) in COMMANDS.items()]
    assert installed("--version", cwd=tmp_path) == (f"genre_jax {__version__}\n", "")
    _, err = installed("main", "--config=bytnet:demo", cwd=tmp_path, code=1)
    configs = ", ".join(sorted(path.stem for path in (ROOT / "configs").glob("*.py"))[:10])
    assert err.startswith(f"error: unknown config 'bytnet' (did you mean 'bytenet'?): choose one of {configs}")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_installed_commands_work_in_an_empty_folder(installed, tmp_path):
    out, _ = installed("main", "--config=bytenet:demo", "--dry_run", cwd=tmp_path)
    assert "181,418" in out and [path.name for path in tmp_path.iterdir()] == ["data"]
    gtzan = collections_tree.gtzan(tmp_path / "GTZAN", seconds=1.0)
    out, _ = installed("prepare", "--dataset=gtzan", f"--source={gtzan}", "--workers=2", cwd=tmp_path)
    assert "30 clips" in out and "900 clips of split fault_filtered have no audio file" in out


def test_every_module_with_a_command_is_listed():
    paths = [*(ROOT / "genre_jax").glob("*.py"), *(ROOT / "genre_jax").glob("*/__main__.py")]
    runnable = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in paths
        if any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in ast.parse(path.read_text()).body)
    }
    assert {module for module, _ in COMMANDS.values()} == runnable - {"genre_jax"}


def test_the_list_is_shown_without_jax_and_numpy(tmp_path):
    code = (
        "import sys; from genre_jax import __main__ as command; sys.argv = ['genre-jax']; command.main()\n"
        "assert not {'jax', 'numpy', 'tensorflow'} & sys.modules.keys()"
    )
    out, _ = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert out.startswith("usage: genre-jax COMMAND")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tga"], "error: unknown command 'tga' (did you mean 'tag'?): choose one of "),
        (["bench", "plam"], "error: unknown benchmark 'plam' (did you mean 'plan'?): choose one of "),
        (["ensemble", "--output=x"], "error: --output=DIR and two or more runs are needed: "),
    ],
)
def test_commands_run_and_end_as_their_modules_do(arguments, sentence, tmp_path):
    out, err = run(sys.executable, "-m", "genre_jax", *arguments, cwd=tmp_path, code=1, PYTHONPATH=str(ROOT))
    assert err.startswith(sentence) and not out
