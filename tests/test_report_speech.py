"""Document 003's table and the differences between systems in the report, against plain loops over fabricated runs."""

import csv
import json

import numpy as np
import pytest
from report_runs import Page, write, write_run

from genre_jax import metrics
from genre_jax.console import UserError
from genre_jax.report import formats, page, speech, systems
from genre_jax.report.runs import read_run

THREE = ("music", "noise", "speech")


def a_run(workdir, folder, seed=0, samples=32_240, rate=16_000, tracks=24, model="swishnet_slim", teacher=None, **changes):
    """Write a finished run with three classes: random logits, `tracks` tracks with 4 windows at 2 s, and more at shorter clips."""
    workdir = write_run(workdir, folder)
    rng = np.random.default_rng([seed, samples])
    count = 4 * 32_240 // samples
    track = np.repeat(np.arange(tracks, dtype=np.int32), count)
    target = (track % 3).astype(np.int32)
    logits = (rng.normal(size=(len(track), 3)) + 1.2 * np.eye(3)[target]).astype(np.float32)
    names = np.array([f"t{number:02d}" for number in range(tracks)])
    labels = np.eye(3, dtype=np.uint8)[target]
    table = {"logits": logits, "labels": labels, "target": target, "clip": track, "track": track, "start": track, **changes}
    table |= {"classes": np.array(THREE), "clip_names": names, "track_names": names, "loss": np.ones(len(track), np.float32)}
    np.savez(workdir / "predictions.npz", **table, sample_rate=np.array(rate), samples=np.array(samples))
    config = {"name": workdir.name, "seed": seed, "data": {"train": "learn", "samples": samples}, "model": {"name": model}}
    write(workdir / "config.json", config | ({"distill": {"teacher": teacher}} if teacher is not None else {}))
    results = json.loads((workdir / "results.json").read_text())
    write(workdir / "results.json", results | {"parameters": 5_483, "directory": "gone"} | metrics.summarise(table, "single"))
    return workdir


def rows_of(output, name):
    with open(output / "tables" / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_document_003(data_set, tmp_path, nothing_rendered):
    runs = [a_run(tmp_path / f"slim_{seed}", data_set, seed, teacher=f"runs/teacher/seed_{seed}") for seed in (0, 1, 2)]
    runs.append(a_run(tmp_path / "plain", data_set, 3, samples=8_240, teacher=""))
    latency = tmp_path / "latency.json"
    write(latency, {"rows": [{"network": "swishnet_slim", "frames": [50, 200], "milliseconds": [0.5, 1.25]}]})
    shown = Page(page.write_report(runs, tmp_path / "report", latency=latency))
    shown.check_files()
    slim, plain = rows_of(tmp_path / "report", "speech")
    tables = [read_run(run).predictions for run in runs]
    for row, chosen in ((slim, tables[:3]), (plain, tables[3:])):
        for key, right in {
            "Overall": lambda true, said: true == said,
            "Speech/non-speech": lambda true, said: (true == 2) == (said == 2),
        }.items():
            values = [right(t["target"], t["logits"].argmax(1)).mean() for t in chosen]
            assert float(row[f"{key}, mean"]) == pytest.approx(np.mean(values))
            if len(values) > 1:
                assert float(row[f"{key}, s.d."]) == pytest.approx(np.std(values, ddof=1))
            else:
                assert row[f"{key}, s.d."] == ""
        for number, name in enumerate(THREE):
            recalls = [(t["logits"].argmax(1)[t["target"] == number] == number).mean() for t in chosen]
            assert float(row[f"Recall, {name}, mean"]) == pytest.approx(np.mean(recalls))
    assert (slim["Run"], slim["Network"], slim["Distilled"], slim["Clip, s"]) == (
        "slim_0 (3 seeds)",
        "swishnet_slim",
        "yes",
        "2.015",
    )
    assert (plain["Run"], plain["Distilled"], plain["Latency, ms"], slim["Latency, ms"]) == ("plain", "no", "0.5", "1.25")
    assert slim["Parameters"] == "5483" and float(slim["Weights, kB"]) == pytest.approx(21.932)
    f1 = [metrics.METRICS["single"]["macro_f1"](metrics.Examples(t["target"], t["labels"], t["logits"])) for t in tables[:3]]
    assert float(slim["Macro F1, mean"]) == pytest.approx(np.mean(f1))
    for text in ("Speech, music, noise Run Network Distilled", "from latency.json", "slim_0 (3 seeds) swishnet_slim yes 2.0 "):
        assert text in shown.text, text


def test_music_and_speech_have_no_column_for_noise(data_set, tmp_path):
    folder = a_run(tmp_path / "run", data_set)
    with np.load(folder / "predictions.npz") as file:
        table = dict(file)
    kept = table["target"] != 1
    columns = {key: table[key][kept] for key in ("clip", "track", "start", "loss")}
    pair = {
        "logits": table["logits"][kept][:, [0, 2]],
        "labels": table["labels"][kept][:, [0, 2]],
        "classes": table["classes"][[0, 2]],
    }
    np.savez(folder / "predictions.npz", **table | columns | pair | {"target": np.int32(table["target"][kept] > 1)})
    found = speech.table([read_run(folder)], ["#run-1"], {})
    assert [title for title in found.titles if title.startswith("Recall")] == ["Recall, speech", "Recall, music"]
    assert "Latency, ms" not in found.titles and found.links == ["#run-1"]


def test_other_classes_have_no_such_table(data_set, tmp_path):
    genres, three = write_run(tmp_path / "genres", data_set), a_run(tmp_path / "three", data_set)
    assert speech.table([read_run(genres)], [""], {}) is None
    found = speech.table([read_run(genres), read_run(three)], ["#run-1", "#run-2"], {})
    assert [row[0] for row in found.rows] == ["three"] and found.links == ["#run-2"]


def test_what_makes_runs_the_seeds_of_one_system():
    config = {
        "name": "a",
        "seed": 0,
        "model": {"name": "snn"},
        "distill": {"teacher": "runs/teacher_0"},
        "init_from": "runs/x/seed_0",
    }
    same = config | {
        "name": "b",
        "seed": 1,
        "distill": {"teacher": "runs/teacher_1"},
        "init_from": "runs/x/seed_1",
        "made_by": {},
    }
    assert systems.settings(config) == systems.settings(same)
    for change in (
        {"model": {"name": "gru"}},
        {"distill": {"teacher": ""}},
        {"init_from": "musicnn"},
        {"init_from": "a/resnet18.npz"},
    ):
        assert systems.settings(config) != systems.settings(config | change), change
    assert systems.settings({"init_from": "resnet18.npz"}) != systems.settings({"init_from": "resnet34.npz"})
    sizes = [{"seed": 0, "distill": {"teacher": f"runs/resnet{size}"}} for size in (34, 50)]  # no seeds
    assert systems.settings(sizes[0]) != systems.settings(sizes[1])
    assert systems.settings({"seed": "(", "init_from": "a"}) == systems.settings({"seed": 1, "init_from": "a"})


def test_differences_between_systems(data_set, tmp_path, nothing_rendered):
    runs = [a_run(tmp_path / f"slim_{seed}", data_set, seed) for seed in (0, 1)]
    runs += [
        a_run(tmp_path / "short", data_set, 5, samples=8_240),
        a_run(tmp_path / "fewer", data_set, 6, model="snn", tracks=20),
    ]
    shown = Page(page.write_report(runs, tmp_path / "report"))
    short, fewer = rows_of(tmp_path / "report", "paired")
    tables = [read_run(run).predictions for run in runs]
    for row, ours, tracks in ((short, tables[2], 24), (fewer, tables[3], 20)):
        right = [
            {number: np.equal(t["target"], t["logits"].argmax(1))[t["track"] == number] for number in range(tracks)}
            for t in (ours, *tables[:2])
        ]
        rng, differences = np.random.default_rng(0), []
        for drawn in [range(tracks), *(rng.integers(0, tracks, tracks) for _ in range(1_000))]:
            own, *others = (np.concatenate([of[number] for number in drawn]).mean() for of in right)
            differences.append(own - np.mean(others))
        assert float(row["Difference"]) == pytest.approx(differences[0])
        bounds = np.quantile(differences[1:], [0.025, 0.975])
        assert [float(row[f"95 % interval, {bound}"]) for bound in ("low", "high")] == pytest.approx(list(bounds))
        assert (row["Compared with"], row["Tracks"]) == ("slim_0 (2 seeds)", str(tracks))
    low, high = (float(short[f"95 % interval, {bound}"]) for bound in ("low", "high"))
    assert (
        f"Differences Run Compared with Difference 95 % interval Tracks short slim_0 (2 seeds) {formats.signed(float(short['Difference']))} {formats.signed_interval((low, high))} 24"
        in shown.text
    )


def test_no_difference_between_data_sets_and_none_for_one_system(data_set, tmp_path):
    one, again = (read_run(a_run(tmp_path / name, data_set, seed)) for seed, name in enumerate(("one", "two")))
    assert systems.differences([one, again], ["", ""]) is None  # two seeds of one system
    other = read_run(a_run(tmp_path / "other", data_set, model="snn"))
    other.results["data_set"] = "another"
    assert systems.differences([one, other], ["", ""]) is None
    multi = read_run(write_run(tmp_path / "multi", data_set, task="multi"))
    assert systems.differences([multi, read_run(write_run(tmp_path / "m", data_set, task="multi", right=3))], ["", ""]) is None


def test_runs_without_shared_tracks_are_not_compared(data_set, tmp_path):
    runs = [read_run(a_run(tmp_path / name, data_set, model=name)) for name in ("snn", "gru")]
    runs[1].predictions["track_names"] = np.array([f"u{number}" for number in range(24)])
    assert systems.differences(runs, ["", ""]) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"rows": [{"network": "snn"}]}',
        "[]",
        "{",
        '{"rows": 3}',
        '{"rows": [{"network": "x", "frames": [1], "milliseconds": []}]}',
    ],
)
def test_a_file_without_latencies_is_one_sentence(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="x.json is not a record of latencies: make it with `python -m genre_jax.bench latency"):
        speech.read_latency(tmp_path / "x.json")
    with pytest.raises(UserError, match="gone.json cannot be read: No such file"):
        speech.read_latency(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (formats.spread, (0.984, 0.0021), "98.4 ± 0.2 %"),
        (formats.spread, (0.984, None), "98.4 %"),
        (formats.spread, (float("nan"), None), "–"),
        (formats.signed, -0.0123, "−1.2 %"),
        (formats.signed, None, "–"),
        (formats.signed_interval, (-0.004, 0.021), "−0.4 % to +2.1 %"),
        (formats.signed_interval, (float("nan"), float("nan")), "–"),
    ],
)
def test_formats(show, value, text):
    assert show(value) == text
