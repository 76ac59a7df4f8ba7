"""`bench latency`, `bench start` and the compilation cache. No time is asserted."""

import json

import pytest
from conftest import finish, run_module


@pytest.mark.slow
def test_latency_rows_have_the_values_of_the_paper(tmp_path):
    path = tmp_path / "rows.json"
    arguments = ("--networks=swishnet_slim,gmm", "--frames=9,200", f"--json={path}")
    out, _ = finish(run_module("genre_jax.bench", "latency", *arguments))
    slim, gmm = json.loads(path.read_text())["rows"]
    assert (slim["parameters"], slim["printed_kb"], slim["printed_milliseconds"]) == (5_483, 22, [None, 1.12])
    assert (gmm["parameters"], gmm["printed_milliseconds"]) == (92_928, [None, 7.2])
    for row in (slim, gmm):
        assert 4 * row["parameters"] < row["file_bytes"] < 4 * row["parameters"] + 8_000
        assert len(row["milliseconds"]) == 2 and min(row["milliseconds"]) > 0
        assert row["network"] in out


def test_latency_errors_for_illegal_flags():
    _, err = finish(run_module("genre_jax.bench", "latency", "--networks=swishnet"), code=1)
    assert "unknown network 'swishnet' (did you mean 'swishnet_wide'?): choose one of gmm, mobilenet_v1, snn" in err
    _, err = finish(run_module("genre_jax.bench", "latency", "--frames=0"), code=1)
    assert "--frames must be positive whole numbers, separated by commas, not '0'" in err


def test_main_stores_compiled_programs_in_the_cache(tones, tmp_path):
    arguments = ("--config=tests/small_run.py:snn", f"--config.data.data_dir={tones}", "--dry_run")
    finish(run_module("genre_jax.main", *arguments, f"--compilation_cache={tmp_path / 'cache'}"))
    assert list((tmp_path / "cache").glob("*-cache"))


@pytest.mark.slow
def test_a_second_start_compiles_less(tmp_path):
    path = tmp_path / "rows.json"
    finish(run_module("genre_jax.bench", "start", "--dry_run", "--networks=resnet34", f"--json={path}"))
    empty, filled = json.loads(path.read_text())["rows"]
    assert (empty["start"], filled["start"]) == ("empty cache", "filled cache")
    assert 0 < filled["compile_core_s"] < empty["compile_core_s"]
