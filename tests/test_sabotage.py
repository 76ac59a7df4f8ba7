"""The patches of `tests/sabotage` apply to the code. `make sabotage` runs the tests that must fail with each patch."""

import ast

import pytest
from conftest import ROOT
from sabotage import run


@pytest.mark.parametrize("patch", run.patches(), ids=lambda patch: patch.stem)
def test_sabotage_applies_and_names_tests(patch):
    assert run.apply(patch, ROOT, "--check") == ""
    tests = run.must_turn_red(patch)
    assert tests, "no line 'Must turn red: tests/test_x.py::test_y'"
    for test in tests:
        path, function = test.split("[")[0].split("::")
        assert function in {
            node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)
        }


def test_a_patch_that_fits_nothing_is_told(tmp_path):
    patch = tmp_path / "x.patch"
    patch.write_text("--- a/genre_jax/losses.py\n+++ b/genre_jax/losses.py\n@@ -1 +1 @@\n-what never stood there\n+x\n")
    assert "genre_jax/losses.py: patch does not apply" in run.apply(patch, ROOT, "--check")


@pytest.mark.slow
def test_every_sabotage_is_caught(capsys):
    assert run.main([]) == 0, capsys.readouterr().out
