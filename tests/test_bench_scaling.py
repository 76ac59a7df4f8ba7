"""`bench scaling`: the model against values computed by hand, the count of all-reduces, and rows of one and two devices."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, finish, run_module

from genre_jax import parallel
from genre_jax.bench.scaling import model, point
from genre_jax.bench.scaling.collectives import all_reduces, type_bytes
from genre_jax.bench.scaling.model import Job, Link
from genre_jax.console import UserError

FAST, SLOW = Link("fast", 100.0, 0.5), Link("slow", 10.0, 2.0)


def test_ring():
    assert model.ring(1, 1000, FAST) == 0
    assert model.ring(2, 1000, FAST) == pytest.approx(2 * 500 / 100 + 2 * 0.5)
    assert model.ring(4, 1000, FAST, messages=3) == pytest.approx(6 * 250 / 100 + 6 * 0.5 + 2 * 4 * 0.5)


def test_all_reduce_inside_and_between_hosts():
    assert model.all_reduce(4, 8, 1000, FAST, SLOW) == model.ring(4, 1000, FAST)
    assert model.all_reduce(16, 4, 1000, FAST, SLOW, 3) == model.ring(4, 1000, FAST, 3) + model.ring(4, 1000, SLOW, 3)
    assert model.all_reduce(3, 1, 1000, FAST, SLOW) == model.ring(3, 1000, SLOW)


def test_prediction():
    job = Job(flops_a_clip=200.0, flops_a_second=100.0, batch=5, size=1000, messages=1, clip_bytes=70)
    assert job.compute(5) == 10
    rows = model.predict(job, "weak", [1, 2, 4], 2, FAST, SLOW, overlap=False)
    reduce = [0, 10 + 1, 11 + 100 + 4]
    assert [row["all_reduce_s"] for row in rows] == pytest.approx(reduce)
    assert [row["step_s"] for row in rows] == pytest.approx([10 + seconds for seconds in reduce])
    assert [row["clips_per_second"] for row in rows] == pytest.approx([0.5, 10 / 21, 20 / 125])
    assert [row["efficiency"] for row in rows] == pytest.approx([1, 10 / 21, 10 / 125])
    assert [row["hosts"] for row in rows] == [1, 1, 2] and {row["link"] for row in rows} == {"slow"}
    assert rows[2]["int16_bytes_per_second_and_host"] == pytest.approx(20 / 125 / 2 * 70)
    hidden = model.predict(job, "weak", [1, 2, 4], 2, FAST, SLOW, overlap=True)
    assert [row["step_s"] for row in hidden] == pytest.approx([10, 11, 115])
    strong = model.predict(job, "strong", [1, 2, 4], 2, FAST, SLOW, overlap=False)
    assert [row["global_batch"] for row in strong] == [20, 20, 20]
    assert [row["step_s"] for row in strong] == pytest.approx([40, 20 + 11, 10 + 115])
    assert strong[2]["clips_per_second"] == pytest.approx(20 / 125)


def row(devices, batch, step, hosts=1, reduce=0.0, size=1000):
    values: dict[str, Any] = {"devices": devices, "hosts": hosts, "global_batch": batch, "step_s": step, "all_reduce_s": reduce}
    return values | {"gradient_bytes": size, "all_reduce_bytes": size, "all_reduces": 1}


def test_the_fit_finds_the_model_that_made_the_rows():
    link = Link("one process", 250.0, 0.25)
    rows = [row(1, 4, 3.0), row(1, 16, 9.0)]  # 1 + clips / 2
    for devices in (2, 4):
        reduce = model.ring(devices, 1000, link)
        rows.append(row(devices, 16, 1 + 16 / devices / 2 + reduce, reduce=reduce))
    fitted = model.fit(rows, shared=False)
    assert (fitted.fixed, fitted.a_clip) == pytest.approx((1.0, 0.5))
    assert fitted.links["one process"][1:] == pytest.approx((250.0, 0.25))
    assert model.check(rows, fitted) == pytest.approx([0, 0, 0, 0])
    shared = model.fit(rows, shared=True)
    assert shared.step(rows[2]) == pytest.approx(9 + model.ring(2, 1000, link))
    two_hosts = model.fit([*rows, row(2, 16, 9.0, hosts=2, reduce=40.0)], shared=False)
    assert two_hosts.links["several processes"] == ("several processes", pytest.approx(25.0), 0.0)  # one row gives one factor
    assert model.fit(rows[2:], shared=False) is None


def test_least_squares_gives_no_negative_factor():
    matrix = np.array([[1.0, 1.0], [2.0, 1.0]])
    assert model.least_squares(matrix, np.array([4.0, 3.0]))[0] == 0
    assert model.least_squares(matrix, np.array([3.0, 5.0])) == pytest.approx((2, 1))


def test_links():
    assert model.parse_link("100G Ethernet 12.5e9") == ("100G Ethernet", 12.5e9, 1e-5)
    assert model.parse_link(" NVLink 300e9 2e-6") == ("NVLink", 300e9, 2e-6)
    for text in ("NVLink", "12.5e9", "NVLink 0", "NVLink fast", "NVLink 1e9 nan"):
        with pytest.raises(UserError, match=r"^--links must be NAME BYTES_PER_SECOND \[SECONDS_OF_LATENCY\], .*, not "):
            model.parse_link(text)


def test_bytes_of_types():
    assert type_bytes("f32[6,64]{1,0}") == 6 * 64 * 4
    assert type_bytes("(f32[], bf16[3,2]{1,0:T(8,128)(2,1)}, /*index=5*/pred[7]{0}, u8[0], s64[2])") == 4 + 12 + 7 + 0 + 16


def test_all_reduces_of_a_compiled_program():
    devices = {"axis_name": "d", "devices": jax.devices()[:2]}
    x, y = np.ones((2, 3, 5), np.float32), np.ones((2, 7), np.float32)

    def step(x, y):
        total = parallel.sum((x, y), "d")  # one all-reduce of two arrays
        return parallel.sum(jnp.sin(total[0]), "d"), total[1]  # which has to wait for the first

    assert all_reduces(jax.pmap(step, **devices).lower(x, y).compile().as_text()) == (2, 2 * 60 + 28)

    def loop(x):
        return jax.lax.scan(lambda carry, _: (parallel.sum(jnp.sin(carry), "d"), None), x, length=9)[0]

    assert all_reduces(jax.pmap(loop, **devices).lower(x).compile().as_text()) == (9, 9 * 60)
    assert all_reduces(jax.pmap(jnp.sin, **devices).lower(x).compile().as_text()) == (0, 0)


def test_a_point_measures_its_topology(tones):
    settings = {"config": f"{ROOT}/tests/small_run.py:snn", "overrides": {"data.data_dir": str(tones)}, "cluster": None}
    settings |= {"devices": 2, "global_batch": 8, "batch": 4, "steps": 2, "rounds": 1}
    whole = point.Point(settings | {"noise": True})
    try:
        values = whole.measure()
        assert whole.run.splits["train"].data_set == "noise" and len(whole.run.splits["train"]) == point.CLIPS
    finally:
        whole.close()
    assert (values["devices"], values["hosts"], values["global_batch"], values["platform"]) == (2, 1, 8, "cpu")
    assert values["gradient_bytes"] < values["all_reduce_bytes"] < values["gradient_bytes"] + 10_000  # and statistics
    assert values["all_reduces"] >= 1 and min(values[key] for key in ("step_s", "step_with_input_s", "all_reduce_s")) > 0
    devices = point.Point(settings | {"noise": False, "global_batch": 0, "devices": 4})
    devices.close()
    assert devices.run.config.train.batch_size == 16 and devices.run.splits["train"].data_set == "tones"


ARGUMENTS = (
    f"--config={ROOT}/tests/small_run.py:snn", "--steps=1", "--rounds=1", "--batch=2", 
    f"--predict={ROOT}/tests/small_run.py:snn,data.name=synthetic@4", "--predict_devices=16",
)  # fmt: skip


def test_rows_and_prediction(tones, tmp_path):
    path = tmp_path / "rows.json"
    data = (f"--config.data.data_dir={tones}", "--own_data", f"--json={path}")
    out, _ = finish(run_module("genre_jax.bench", "scaling", *ARGUMENTS, *data, "--devices=1,2", "--hosts=1"))
    record = json.loads(path.read_text())
    rows = record["rows"]
    assert [(row["kind"], row["devices"], row["global_batch"]) for row in rows] == [
        ("weak", 1, 2), ("weak", 2, 4), ("strong", 1, 4), ("strong", 2, 4),
    ]  # fmt: skip
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:
        assert row["clips_per_second"] == pytest.approx(row["global_batch"] / row["step_s"])
        assert row["model_error"] == pytest.approx(row["model_s"] / row["step_s"] - 1)
    assert [row["all_reduce_bytes"] > 0 for row in rows] == [False, True, False, True]
    assert rows[1]["step_s"] == rows[3]["step_s"]  # one measurement
    assert rows[0]["efficiency"] == rows[2]["efficiency"] == 1
    assert rows[3]["efficiency"] == pytest.approx(rows[2]["step_s"] / rows[3]["step_s"] / 2)
    predicted = record["prediction"]["rows"]
    assert len(predicted) == 2 * 2 * 2 * 5 and {row["devices"] for row in predicted} == {1, 2, 4, 8, 16}
    assert record["prediction"]["networks"][0]["network"] == "snn" and "prediction, not measured: NVIDIA H100" in out
    assert record["fit"]["shared_cores"] and "jax" in record["environment"]
    finish(run_module("genre_jax.bench", "scaling", f"--plot={path}"))
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("rows.png", "rows-dark.png"))


def test_a_row_that_fails_leaves_the_others_alone(tmp_path):
    path = tmp_path / "rows.json"
    arguments = (*ARGUMENTS, "--devices=1", "--hosts=1", "--own_data", f"--config.data.data_dir={tmp_path}", f"--json={path}")
    _, err = finish(run_module("genre_jax.bench", "scaling", *arguments), code=1)
    assert err.startswith("error: no row was measured: failed: ") and "tones" in err
    assert [row["status"][:8] for row in json.loads(path.read_text())["rows"]] == ["failed: ", "failed: "]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--devices=1,x"], "--devices must be whole numbers above 0, separated by commas, not '1,x'"),
        (["--devices=3", "--hosts=2"], "--devices=3 must have a multiple of a number in --hosts=2"),
        (
            ["--predict=bytenet:thesis"],
            "--predict must be CONFIG@CLIPS_PER_DEVICE, as in 'bytenet:thesis@8', not 'bytenet:thesis'",
        ),
        (["--share=0"], "--share must be above 0 and at most 1, not 0"),
        (
            ["--links=NVLink 3e11"],
            "--links must name the link inside a host and at least one between hosts, not only 'NVLink 3e11'",
        ),
        (["--plot=Makefile"], "Makefile cannot be read as JSON: "),
    ],
)
def test_errors_for_illegal_flags(arguments, sentence):
    _, err = finish(run_module("genre_jax.bench", "scaling", *arguments), code=1)
    assert err.startswith(f"error: {sentence}")


@pytest.mark.slow
def test_two_hosts(tmp_path):
    path = tmp_path / "rows.json"
    finish(run_module("genre_jax.bench", "scaling", *ARGUMENTS, "--devices=1,2", "--hosts=1,2", f"--json={path}"))
    rows = {(row["kind"], row["devices"], row["hosts"]): row for row in json.loads(path.read_text())["rows"]}
    one, two = rows["weak", 2, 1], rows["weak", 2, 2]
    assert two["status"] == "ok", two["status"]
    for key in ("global_batch", "all_reduces", "all_reduce_bytes", "gradient_bytes"):
        assert one[key] == two[key], key
