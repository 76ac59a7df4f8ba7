"""The shape of the code: short files and functions, imports without circles, training without what prepares data."""

import ast
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT, finish, run_module

FILES = sorted((ROOT / "genre_jax").rglob("*.py"))
LIMITS = {"train.py": 260, "models/cpu.py": 150}
KNOW_THE_PLATFORM = {"models/cpu.py", "parallel.py"}  # and the folders planning/ and bench/


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "genre_jax"))


def test_files_and_functions_are_short():
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= LIMITS.get(name_of(path), 450), path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
    assert set(LIMITS) <= set(map(name_of, FILES))


def test_few_files_know_the_platform():
    asking = {name_of(path) for path in FILES if "platform()" in path.read_text()}
    assert {name for name in asking if not name.startswith(("planning/", "bench/"))} <= KNOW_THE_PLATFORM


def imports(path: Path, modules: set[str]) -> Iterator[str]:
    """The modules of genre_jax that a module imports when it is imported itself."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_have_no_circle():
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES}
    graph = {name: {target for target in imports(path, set(names.values())) if target != name} for path, name in names.items()}
    graph = {name: targets & graph.keys() for name, targets in graph.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " → ".join((*above[above.index(name) :], name)) if name in above else ""
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert len(done) == len(FILES)


def test_training_imports_nothing_that_prepares_data(tones):
    code = (
        "import sys, genre_jax.main, genre_jax.bench; from genre_jax import config; from genre_jax.run import Run\n"
        f"c = config.load({str(ROOT / 'tests/small_run.py')!r} + ':snn', {{'data.data_dir': {str(tones)!r}}}); Run(c)\n"
        "heavy = ('genre_jax.prepare', 'genre_jax.datasets', 'tensorflow', 'librosa', 'soundfile', 'av', 'matplotlib')\n"
        "wrong = [name for name in sys.modules if name.startswith(heavy)]\n"
        "assert not wrong, wrong"
    )
    finish(run_module("timeit", "-n", "1", "-r", "1", code))
