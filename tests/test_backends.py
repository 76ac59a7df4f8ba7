"""`model.backend=timed`: the programs that are timed, the choice of the fastest, and its use in a resumed run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import finish, run_module, small_config

from genre_jax import config as configs
from genre_jax.models.bytenet.dilated import BACKENDS
from genre_jax.planning import backends

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("dilation", "furthest"), [(1, 4), (4, 4), (3, 8)])
def test_timed_programs_are_the_convolution_and_its_gradients(dilation, furthest):
    x, dy = (jnp.asarray(RNG.normal(size=(2, 13, 3)), jnp.float32) for _ in range(2))
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 3)), jnp.float32)
    padded = np.pad(x, ((0, 0), (dilation, dilation), (0, 0)))

    def definition(x_padded, kernel):
        return sum(x_padded[:, j * dilation : j * dilation + 13] @ kernel[j] for j in range(3))

    expected, pull = jax.vjp(definition, jnp.asarray(padded), kernel)
    d_padded, d_kernel = pull(dy)
    for backend in BACKENDS:
        programs = backends.programs(backend, dilation, furthest, 13, 3)
        results = [programs[name](x, kernel, dy) for name in backends.PASSES]
        for result, reference in zip(results, (expected, d_padded[:, dilation : dilation + 13], d_kernel), strict=True):
            np.testing.assert_allclose(result, reference, rtol=1e-5, atol=1e-5)


def test_the_fastest_backend_is_chosen_and_stored(tones, tmp_path, monkeypatch, capsys):
    config = small_config(tones, model__backend="timed")

    def timed(dilations, batch, steps, width, *options, **more):
        assert (dilations, batch, steps, width) == ((1, 2), 1, 2000, 4)  # 8 clips on 8 devices, the longest sequence
        return [{"dilation": 1, "pass": "forward", "lax": 0.2, "shift": 0.3, "phases": 0.1}]

    monkeypatch.setattr(backends, "seconds", timed)
    chosen = backends.choose(config, tmp_path / "run")
    assert (config.model.backend, chosen.model.backend) == ("timed", "phases")
    assert json.loads((tmp_path / "run/backends.json").read_text())["rows"][0]["lax"] == 0.2
    assert "lax 200.0 ms, shift 300.0 ms, phases 100.0 ms: phases is fastest" in capsys.readouterr().out
    monkeypatch.setattr(backends, "seconds", None)  # a resumed run times nothing
    assert backends.choose(config, tmp_path / "run").model.backend == "phases"
    assert backends.choose(chosen, tmp_path / "run") is chosen


@pytest.mark.slow
def test_a_run_times_the_backends_and_then_trains(tones, tmp_path):
    arguments = ("--config=tests/small_run.py:bytenet", f"--config.data.data_dir={tones}", "--config.model.backend=timed")
    finish(run_module("genre_jax.main", *arguments, "--config.train.duration=2 steps", f"--workdir={tmp_path}"))
    kept = json.loads((tmp_path / "backends.json").read_text())
    assert {(row["dilation"], row["pass"]) for row in kept["rows"]} == {(d, p) for d in (1, 2) for p in backends.PASSES}
    totals = {name: sum(row[name] for row in kept["rows"]) for name in BACKENDS}
    assert kept["fastest"] == min(totals, key=totals.get)
    assert json.loads((tmp_path / "environment.json").read_text())["convolution_backend"] == kept["fastest"]
    assert json.loads((tmp_path / "config.json").read_text())["model"]["backend"] == kept["fastest"]
    assert "model.backend" in configs.FREE_ON_RESUME


@pytest.mark.slow
def test_bench_rows(tmp_path):
    path = tmp_path / "rows.json"
    flags = ("--max_dilation=4", "--steps=50", "--width=3", "--repeats=1", f"--json={path}")
    finish(run_module("genre_jax.bench", "backends", *flags))
    rows = json.loads(path.read_text())["rows"]
    assert [(row["dilation"], row["pass"]) for row in rows] == [(d, p) for d in (1, 2, 4) for p in backends.PASSES]
    assert all(row["fastest"] in BACKENDS and row[row["fastest"]] == min(row[name] for name in BACKENDS) > 0 for row in rows)
    _, err = finish(run_module("genre_jax.bench", "backends", "--max_dilation=50", "--steps=50"), code=1)
    assert "--max_dilation must be less than --steps, not 50 with --steps=50" in err
