"""Bad input to the report: missing, half-written and damaged runs, mixed label sets and tasks, hostile names.

Each gives a sentence or escaped text, and the rest of the page.
"""

import json
import re
import shutil

import numpy as np
import pytest
from report_runs import CLASSES, Page, add_embeddings, make_data_set, predictions_of, write, write_run

from genre_jax.data import shards
from genre_jax.report import __main__ as command
from genre_jax.report import formats, page, runs

for package in page.NEEDED:
    pytest.importorskip(package)

pytestmark = pytest.mark.usefixtures("nothing_rendered")

SCRIPT = "<script>alert(1)</script>"
NAMES = (
    f"{SCRIPT}\"'",  # 0
    '"><img src=x onerror=alert(1)>',  # 1
    "🎵 👩‍🎤 음악 ‮evil‬\x1b[31m\n= | & \\ $x_1$ {{ 7*7 }} {% raw %}",  # 2
    "=cmd|' /C calc'!A0" + "x" * 300,  # 3
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose classes, tracks, clips, name, environment and config are hostile, with its report in the folder "report"."""
    folder = tmp_path_factory.mktemp("hostile")
    workdir = write_run(folder / "run", make_data_set(folder))
    with np.load(workdir / "predictions.npz") as file:
        table = dict(file)
    for key in ("clip_names", "track_names"):
        table[key] = np.array([NAMES[i % 4] + str(i) for i in range(len(table[key]))])
    np.savez(workdir / "predictions.npz", **table | {"classes": np.array(NAMES)})
    add_embeddings(workdir)
    shutil.copy(workdir / "predictions.npz", workdir / "predictions-train.npz")
    results = json.loads((workdir / "results.json").read_text())
    results |= {"run": NAMES[0] + NAMES[3], "data_set": NAMES[2], "raw": {"accuracy": 0.5, NAMES[0]: 0.25}}
    write(workdir / "results.json", results)
    config = {"name": NAMES[1], NAMES[0]: {NAMES[2]: NAMES[3]}, "made_by": {"config": NAMES[0], "overrides": [NAMES[1]]}}
    write(workdir / "config.json", config)
    write(workdir / "environment.json", {NAMES[0]: NAMES[2]})
    other = write_run(folder / "other", make_data_set(folder / "more"))
    page.write_report([workdir, other], folder / "report", show_published=True)
    return folder / "report"


def test_hostile_names_are_text(hostile):
    pages = [hostile / "index.html", *hostile.glob("run-1/tracks/*.html")]
    assert len(pages) > 1
    for path in pages:
        shown = Page(path)
        shown.check_files()
        assert not {"script", "object"} & set(shown.tags)
        assert SCRIPT in shown.text
        text = path.read_text(encoding="utf-8")
        assert shown.tags.count("iframe") == text.count('<iframe class="player" name="player') <= 1
        assert not re.search(r"<[^>]*\sonerror", text.replace("&gt;", "").replace("&lt;", ""))
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", text)
        assert "script-src 'none'" in text
    text = " ".join(Page(hostile / "index.html").text.split())
    for name in NAMES:
        assert " ".join(formats.text(name).split()) in text
    assert "{{ 7*7 }}" in text  # no name is a template


def test_tables_of_hostile_names_are_escaped(hostile):
    names = sorted(path.name for path in (hostile / "tables").iterdir())
    assert "run-1-tracks.tex" in names and "published.md" in names
    for path in (hostile / "tables").iterdir():
        text = path.read_text(encoding="utf-8")
        assert "\u202e" not in text and "\x1b" not in text
        if path.suffix == ".md":
            assert "<" not in text and len({len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines()}) == 1
        elif path.suffix == ".csv":
            assert not re.search(r'(^|,|\n)"?[=+@]', text)
        else:
            body = text.split("\n", 2)[2]
            assert SCRIPT not in body and "$x_1" not in body


def test_a_missing_run_is_a_sentence_on_the_page_of_the_others(data_set, tmp_path):
    whole = write_run(tmp_path / "whole", data_set)
    (tmp_path / "empty").mkdir()
    shown = Page(page.write_report([tmp_path / "gone", whole, tmp_path / "empty"], tmp_path / "report"))
    shown.check_files()
    for name in ("gone", "empty"):
        assert f"Left out: no run in '{tmp_path / name}': a workdir holds config.json" in shown.text
    assert "Per window 83.3 %" in shown.text and "runs compared" not in shown.text


def half_written(workdir, what):
    """Damage a finished run as a killed process could."""
    if what == "no results":
        (workdir / "results.json").unlink()
        (workdir / "predictions.npz").unlink()
    elif what == "no results, and predictions":
        (workdir / "results.json").unlink()
    elif what == "truncated predictions":
        data = (workdir / "predictions.npz").read_bytes()
        (workdir / "predictions.npz").write_bytes(data[: len(data) // 2])
    elif what == "truncated training predictions":
        data = (workdir / "predictions.npz").read_bytes()
        (workdir / "predictions-train.npz").write_bytes(data[: len(data) // 2])
    elif what == "empty files":
        for path in workdir.iterdir():
            if path.name != "config.json":
                path.write_bytes(b"")
    elif what == "empty table":
        with np.load(workdir / "predictions.npz") as file:
            table = dict(file)
        rows = ("logits", "labels", "target", "loss", "clip", "track", "start")
        np.savez(workdir / "predictions.npz", **table | {key: table[key][:0] for key in rows})
    elif what == "no labels":
        with np.load(workdir / "predictions.npz") as file:
            table = dict(file)
        table |= {"target": np.full_like(table["target"], -1), "labels": np.zeros_like(table["labels"])}
        np.savez(workdir / "predictions.npz", **table)
    elif what == "null scores":
        results = json.loads((workdir / "results.json").read_text())
        write(
            workdir / "results.json", results | {"raw": {}, "clip": {"majority": {}}, "track": {"accuracy": None}, "clips": 0}
        )


@pytest.mark.parametrize(
    "what, sentence",
    [
        ("no results", "The run has not been evaluated yet. The last logged step is 40."),
        ("no results, and predictions", "There is no audio: the run has no results yet"),
        ("truncated predictions", "predictions.npz is left out: it is cut off or damaged"),
        ("truncated training predictions", "predictions-train.npz is left out: it is cut off or damaged"),
        ("empty files", "results.json is damaged and left out"),
        ("empty table", "None: every clip was classified correctly"),
        ("no labels", "None: every clip was classified correctly"),
        ("null scores", "Per window"),
    ],
)
def test_a_half_written_run_beside_a_whole_one(data_set, tmp_path, what, sentence):
    whole = write_run(tmp_path / "whole", data_set)
    half = write_run(tmp_path / "half", data_set, made_by={"config": "configs/schindler.py:shallow"})
    half_written(half, what)
    shown = Page(page.write_report([half, whole], tmp_path / "report", show_published=True))
    shown.check_files()
    assert sentence in shown.text
    assert "Per window 83.3 %" in shown.text  # of the whole run


def test_runs_with_other_labels_and_another_task_in_one_report(data_set, tmp_path):
    others = tuple(f"{name} 2" for name in CLASSES)
    single = write_run(tmp_path / "single", data_set)
    renamed = write_run(tmp_path / "renamed", make_data_set(tmp_path, others))
    multi = write_run(tmp_path / "multi", data_set, task="multi")
    np.savez(multi / "predictions-train.npz", **predictions_of(shards.load_index(data_set, "learn"), 14))
    shown = Page(page.write_report([single, renamed, multi], tmp_path / "report"))
    shown.check_files()
    for text in (*others, "3 runs compared", "Clips with the highest loss", "Thresholds of the classes", "single exam"):
        assert text in shown.text or text == "single exam"
    assert shown.text.count("Confusion matrix") == 2
    assert (tmp_path / "report" / "tables" / "run-3-thresholds.csv").exists()
    assert not (tmp_path / "report" / "tables" / "run-3-confusion.csv").exists()


def test_training_predictions_of_other_classes_give_no_thresholds(data_set, tmp_path):
    multi = write_run(tmp_path / "multi", data_set, task="multi")
    table = predictions_of(shards.load_index(data_set, "learn"), 14)
    np.savez(multi / "predictions-train.npz", **table | {"classes": np.array(list("abcd"))})
    shown = Page(page.write_report([multi], tmp_path / "report"))
    assert "Thresholds of the classes" not in shown.text and "Training clips with the highest loss" in shown.text


def test_values_of_the_wrong_type_in_made_by(data_set, tmp_path):
    for number, made_by in enumerate(({"config": 3}, {"config": "x.py", "overrides": "y"}, [1], "text", {})):
        workdir = write_run(tmp_path / str(number), data_set, made_by=made_by)
        run = runs.read_run(workdir)
        assert page.published.matches(page.published.read(page.published.FILE), [run]) == [None] * 104


def test_the_flag_shows_the_printed_scores(data_set, tmp_path, monkeypatch, capsys):
    workdir = write_run(tmp_path / "run", data_set)
    monkeypatch.setattr(command, "OUTPUT", type("Flag", (), {"value": str(tmp_path / "report")}))
    monkeypatch.setattr(command, "LATENCY", type("Flag", (), {"value": None}))
    for value, shown in ((False, False), (True, True)):
        monkeypatch.setattr(command, "PUBLISHED", type("Flag", (), {"value": value}))
        command.main(["report", str(workdir)])
        assert ("0 of 104 printed scores" in Page(tmp_path / "report" / "index.html").text) is shown
    assert "index.html" in capsys.readouterr().out
