"""Printed scores beside ours: which runs repeat a row, seeds, intervals, and the protocol."""

import csv
import json

import numpy as np
import pytest
from report_runs import Page, write, write_run

from genre_jax import intervals
from genre_jax.console import UserError
from genre_jax.report import bounds, page, published, runs

for package in page.NEEDED:
    pytest.importorskip(package)

pytestmark = pytest.mark.usefixtures("nothing_rendered")

SHALLOW, EXP = "configs/net.py:shallow", "configs/net.py:exp,shallow"


@pytest.fixture
def printed(tmp_path, monkeypatch):
    """A file of three printed scores, in the place of the real one."""
    path = tmp_path / "published.csv"
    rows = [("004", SHALLOW, "raw/accuracy", 65.2), ("004", SHALLOW, "track/max_logit/accuracy", 81.2)]
    rows += [("004", EXP, "train/raw/accuracy", 69.7), ("009", "configs/other.py", "raw/top_k_accuracy", 25.0)]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, published.TEXTS, restval="")
        writer.writeheader()
        for document, config, ours, value in rows:
            texts = {"document": document, "system": "net", "metric": ours, "config": config, "ours": ours, "unit": "%"}
            writer.writerow(texts | {"value": value, "variant": "<b>=1|x"})
    monkeypatch.setattr(published, "FILE", path)
    return path


def read(workdirs):
    return [runs.read_run(workdir) for workdir in workdirs]


def test_a_run_counts_for_the_rows_with_the_most_presets_that_it_has(data_set, tmp_path, printed):
    specs = {
        "a": "/home/me/configs/net.py:shallow,demo",  # shallow
        "b": "configs/net.py:shallow,exp",  # exp and shallow, in another order
        "c": "configs/net.py:exp",  # neither
        "d": "other/net.py:shallow",  # another file
        "e": "net.py:shallow",  # another file
        "f": "configs/net.py:shallow",
        "g": "net:exp,shallow",  # exp and shallow, by the name of the config
    }
    found = [write_run(tmp_path / name, data_set, made_by={"config": spec, "overrides": []}) for name, spec in specs.items()]
    ours = published.matches(published.read(printed), read(found))
    assert [match and match.runs for match in ours] == [(0, 5), (0, 5), (1, 6), None]
    assert ours[0].values == (pytest.approx(20 / 24), pytest.approx(20 / 24))
    assert np.isnan(ours[2].mean)  # the run was not evaluated on the training split


def test_runs_that_differ_in_the_seed_only_give_mean_and_deviation(data_set, tmp_path, printed):
    made_by = {"config": SHALLOW, "overrides": ["seed=3", "data.data_dir=/x", "train.batch_size=4"]}
    found = [write_run(tmp_path / str(right), data_set, right=right, made_by=made_by) for right in (12, 18, 24)]
    other = write_run(tmp_path / "other", data_set, right=0, made_by=made_by)
    config = json.loads((other / "config.json").read_text())
    write(other / "config.json", config | {"train": {"batch_size": 99}})
    ours = published.matches(published.read(printed), read([other, *found]))[0]
    assert ours.runs == (0, 1, 2, 3) and ours.seeds == pytest.approx((0.5, 0.75, 1))
    assert ours.shown == "75.0 % ± 25.0 % (3 seeds)"
    assert ours.protocol[-1] == "changed: train.batch_size=4"
    (alone,) = (match for match in published.matches(published.read(printed)[:1], read([found[1]])))
    assert alone.shown == "75.0 %" and np.isnan(alone.deviation)


def test_the_protocol(data_set, tmp_path, printed):
    workdir = write_run(tmp_path / "run", data_set, made_by={"config": f"{SHALLOW},demo", "overrides": ["x.y=1"]})
    row = published.read(printed)[0]
    facts = published.protocol(runs.read_run(workdir), row)
    assert facts == ["data toy, split exam", "24 of 30 clips", "48 windows", "from scratch", "changed: demo, x.y=1"]
    config = json.loads((workdir / "config.json").read_text())
    write(workdir / "config.json", config | {"init_from": "imagenet", "made_by": {"config": SHALLOW}})
    facts = published.protocol(runs.read_run(workdir), row)
    assert facts[3:] == ["weights of imagenet", "no preset or key changed"]


def test_intervals(data_set, tmp_path):
    workdir = write_run(tmp_path / "run", data_set)
    run = runs.read_run(workdir)
    for rule, hits in (("majority", 11), ("max_logit", 12)):  # the bootstrap of 12 of 12 would be 100 % – 100 %
        found = bounds.interval(run, ("track", rule, "accuracy"))
        assert found == pytest.approx(intervals.wilson_interval(hits / 12, 12))
    table = run.predictions
    right = table["logits"].argmax(axis=1) == table["target"]
    expected = intervals.bootstrap_ratio(right, np.ones(48), table["track"])
    assert bounds.interval(run, ("raw", "accuracy")) == pytest.approx((expected.low, expected.high))
    low, high = bounds.interval(run, ("raw", "macro_f1"))
    assert low < run.results["raw"]["macro_f1"] < high
    assert bounds.interval(run, ("raw", "nothing")) is None and bounds.interval(run, ("classes", "blues", "recall")) is None
    assert bounds.interval(run, ("train", "raw", "accuracy")) is None and bounds.interval(run, ("",)) is None
    (workdir / "predictions.npz").unlink()
    expected = intervals.wilson_interval(20 / 24, 12)  # windows of a track are not independent
    assert bounds.interval(runs.read_run(workdir), ("raw", "accuracy")) == pytest.approx(expected)


def test_a_path_may_have_a_class_name_with_a_slash():
    assert bounds.lookup({"classes": {"a/b": {"recall": 0.5}}}, ("classes", "a", "b", "recall")) == 0.5
    assert np.isnan(bounds.lookup({"classes": {"a": 3}}, ("classes", "a", "recall")))


def test_the_section(data_set, tmp_path, printed):
    stranger = write_run(tmp_path / "stranger", data_set)
    fitting = write_run(tmp_path / "fitting", data_set, made_by={"config": SHALLOW, "overrides": []})
    output = tmp_path / "report"
    assert "Printed scores" not in Page(page.write_report([stranger], output)).text
    assert not (output / "tables" / "published.csv").exists()
    shown = Page(page.write_report([stranger], output, show_published=True))
    assert "0 of 4 printed scores have a run" in shown.text and "not run" in shown.text
    shown = Page(page.write_report([fitting, stranger], output))
    for text in (
        "2 of 4 printed scores have a run",
        "Document 004, Wyborn, Butt & Klas: 2 of 3 rows",
        "65.2 % 83.3 %",
        "<b>=1|x",
    ):
        assert text in shown.text
    with open(output / "tables" / "published.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["Protocol"] == "not run" for row in rows] == [False, False, True, True]
    assert float(rows[0]["Ours"]) == pytest.approx(20 / 24) and rows[0]["Variant"] == "<b>=1|x"


@pytest.mark.parametrize(
    "text, sentence",
    [
        (None, "is missing, the file of the printed scores: install genre_jax again"),
        ("document,value\n1,2\n", "lacks the columns config, data"),
        ("", "lacks the columns config"),
        (",".join(published.TEXTS) + "\n" + "," * 8 + "high,,,\n", "line 2: the value 'high' is not a number"),
        ("\xff", "is not a CSV file in UTF-8"),
    ],
)
def test_a_damaged_file_of_printed_scores(data_set, tmp_path, printed, text, sentence):
    printed.unlink()
    if text is not None:
        printed.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=sentence):
        published.read(printed)
    with pytest.raises(UserError, match=sentence):
        published.section([], always=True)
    found = published.section([], always=False)
    assert found is None if text is None else sentence in found["fault"]


def test_the_real_file_can_be_read():
    rows = published.read(published.FILE)
    assert len(rows) == 104 and {row.document for row in rows} == set(published.DOCUMENTS)
    assert all(row.value > 0 and (row.value < 100 or row.unit in ("ms", "Hz")) for row in rows)


def test_a_run_of_the_network_of_document_003_repeats_the_sizes_of_its_kernels(data_set, tmp_path):
    workdir = write_run(tmp_path / "choi", data_set, made_by={"config": "configs/choi.py:demo", "overrides": []})
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["sample_rate"] = 11_025
    config |= {"frontend": {"hop_length": 256, "n_fft": 512}, "model": {"name": "choi_cnn", "layers": 5}}
    write(workdir / "config.json", config)
    rows = [row for row in published.read(published.FILE) if row.ours[0] == "kernel"]
    ours = published.matches(rows, read([workdir]))
    assert [round(found.mean) for found in ours] == [93, 86, 163, 151, 302, 280, 580, 538, 1138, 1055]
    assert [row.printed for row in rows[-2:]] == ["1137 ms", "270 Hz"] and ours[-1].shown == "1,055 Hz"
    table = published.as_table(rows, ours, read([workdir]))
    assert table.shown[-1][table.titles.index("Ours")] == "1,055 Hz"
    write(workdir / "config.json", config | {"model": {"name": "bytenet"}})
    assert all(np.isnan(found.mean) for found in published.matches(rows, read([workdir])))
