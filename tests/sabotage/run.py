"""Check that the tests can fail: `make sabotage`, or `python tests/sabotage/run.py [NAME …]` for some of the patches.

Each .patch in this folder introduces one plausible error, and lists the tests that must fail:

    The error, in one sentence.
    Must turn red: tests/test_x.py::test_y

The script copies the working tree to a temporary folder, applies one patch, and runs the tests in the copy. The checkout does
not change. A test is red if one of its assertions fails. A test that does not start, or stops with another error, is not red.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

from genre_jax.console import say

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COPIED = ("genre_jax", "tests", "configs", "third_party")
ASSERTION = re.compile(r"AssertionError|assert |Failed: DID NOT RAISE")


def patches(names: Iterable[str] = ()) -> list[Path]:
    """Return the patches with these names. Without names, return all patches."""
    by_name = {path.stem: path for path in sorted(HERE.glob("*.patch"))}
    return [by_name[name] for name in names] or list(by_name.values())


def must_turn_red(patch: Path) -> list[str]:
    """Return the tests that must fail with the patch."""
    return re.findall(r"^Must turn red: (\S+)$", patch.read_text(), re.MULTILINE)


def apply(patch: Path, folder: Path, *options: str) -> str:
    """Apply a patch to the tree in `folder`. Returns the error message of git, or "" if the patch applies."""
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}  # otherwise git uses a repository above
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # git sets these variables in hooks
        environment.pop(name, None)
    process = subprocess.run(
        ["git", "apply", *options, str(patch)], cwd=folder, env=environment, capture_output=True, text=True
    )
    return process.stderr.strip()


def copy_tree(folder: Path) -> None:
    """Copy the files that the tests need to `folder`, without compiled Python files."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def run_tests(folder: Path, tests: Iterable[str]) -> dict[str, str]:
    """Run tests on the package in `folder`. Returns test → "green", "red", or a description of another outcome."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout

    # Otherwise the tests would run on an installed package, and stay green with every patch.
    imported = python("-c", "import genre_jax; print(genre_jax.__file__)").strip()
    assert Path(imported).is_relative_to(folder), f"{imported} is imported instead of the copy in {folder}"
    report = folder / "report.xml"
    output = python("-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *tests)
    outcomes = dict.fromkeys(tests, f"did not run: {output.strip()[-300:]}")
    for case in ET.parse(report).iter("testcase") if report.exists() else ():
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        problem = next(iter(case), None)
        if problem is None:
            outcomes[name] = "green"
        else:
            message = problem.get("message", "")
            red = problem.tag == "failure" and ASSERTION.match(message)
            outcomes[name] = "red" if red else f"{problem.tag}: {message[:300]}"
    return {test: outcomes[test] for test in tests}


def in_copy(tests: Iterable[str], patch: Path | None = None) -> dict[str, str]:
    """Run tests in a new copy of the tree, after applying the patch. Returns test → outcome."""
    with tempfile.TemporaryDirectory(prefix="sabotage-") as name:
        folder = Path(name).resolve()
        copy_tree(folder)
        error = apply(patch, folder) if patch else ""
        return dict.fromkeys(tests, f"does not apply: {error}") if error else run_tests(folder, tests)


def main(names: list[str]) -> int:
    """Run the patches. Returns 1 if a test stays green, if a patch does not apply, or if a test fails without a patch."""
    chosen = patches(names)
    failures = 0

    def row(patch: str, test: str, outcome: str, expected: str, seconds: float) -> None:
        nonlocal failures
        failures += outcome != expected
        shown = outcome if outcome == expected else "GREEN!" if outcome == "green" else outcome
        say(f"{patch:<34}{shown:<8}{seconds:6.1f} s  {test}")

    started = time.perf_counter()
    untouched = in_copy(dict.fromkeys(test for patch in chosen for test in must_turn_red(patch)))
    for test, outcome in untouched.items():
        row("(none)", test, outcome, "green", (time.perf_counter() - started) / len(untouched))
    for patch in chosen:
        started = time.perf_counter()
        outcomes = in_copy(must_turn_red(patch), patch)
        for test, outcome in outcomes.items():
            row(patch.stem, test, outcome, "red", (time.perf_counter() - started) / len(outcomes))
    say(f"{len(chosen)} patches, {f'{failures} tests not as they must be' if failures else 'all caught'}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
