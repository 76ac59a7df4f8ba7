"""Pages of tracks: which tracks, their votes, the class scores over time, and their files; training clips with a high loss."""

import json
import wave

import numpy as np
import pytest
from report_runs import CLASSES, EVIL, RATE, WINDOW, Page, predictions_of, write, write_run

from genre_jax import metrics
from genre_jax.data import shards
from genre_jax.report import bounds, charts, clips, comparison, figures, formats, page, runs, tracks

for package in page.NEEDED:
    pytest.importorskip(package)

pytestmark = pytest.mark.usefixtures("nothing_rendered")


def table_of(windows: list[tuple[int, list[float]]], target: list[int]) -> dict:
    """Columns of predictions.npz of tracks with one clip each; `windows` are (track, logits)."""
    track = np.array([number for number, _ in windows])
    logits = np.array([logits for _, logits in windows], np.float32)
    target = np.array(target)[track]
    names = np.array([f"t{number}" for number in range(track.max() + 1)])
    start = np.concatenate([np.arange(np.sum(track == number)) * 10 for number in np.unique(track)])
    return {
        "logits": logits,
        "labels": np.eye(logits.shape[1])[target] * (target >= 0)[:, None],
        "target": target,
        "loss": -np.log(metrics.softmax(logits)[np.arange(len(track)), target]),
        "clip": track,
        "track": track,
        "start": start,
        "samples": np.array(10),
        "sample_rate": np.array(100),
        "classes": np.array(["a", "b", "c"]),
        "clip_names": names,
        "track_names": names,
    }


TABLE = table_of(
    [
        *((0, [5.0, 0, 0]), (0, [5.0, 0, 0])),  # right, and the votes agree
        *((1, [0, 4.0, 0]), (1, [0, 4.0, 0])),  # wrong, and the votes agree
        *((2, [9.0, 0, 0]), (2, [0, 1.0, 0]), (2, [0, 1.0, 0])),  # majority says b, sums say a: right
        *((3, [9.0, 0, 0]), (3, [0, 1.0, 0]), (3, [0, 1.0, 0])),  # the same, and wrong
        *((4, [0, 0, 2.0]), (4, [0, 0, 2.0])),  # wrong, with more probability of the truth than track 1
        *((5, [0, 4.0, 0]), (5, [0, 4.0, 0])),  # without label
    ],
    target=[0, 0, 0, 1, 0, -1],
)


def test_wrong_tracks_with_votes_that_disagree_come_first():
    ranking = tracks.rank(TABLE, "single")
    assert ranking.numbers[ranking.order].tolist() == [3, 1, 4, 2]
    assert tracks.rank(TABLE, "single", most=2).order.tolist() == [3, 1]
    probabilities = metrics.softmax(TABLE["logits"][7:10])
    np.testing.assert_allclose(ranking.votes["max_logit"][3], [3, 2 / 3, 0])
    np.testing.assert_allclose(ranking.votes["max_probability"][3], probabilities.mean(axis=0))
    np.testing.assert_allclose(ranking.votes["majority"][3], [1 / 3, 2 / 3, 0])


def test_with_several_labels_the_highest_loss_comes_first():
    table = TABLE | {"loss": np.array([1, 2, 3, 4, 9, 9, 0, 5, 5, 5, 0, 0, 7, 7], float)}
    assert tracks.rank(table, "multi", most=3).order.tolist() == [5, 2, 3]  # mean losses 7, 6, 5


def test_the_heat_map_shares_overlaps_and_leaves_gaps():
    values = np.array([[0.1], [0.2], [0.3]])
    edges, cells = charts._cells(values, np.array([0.0, 1.0, 5.0]), 2.0)
    np.testing.assert_allclose(edges, [0, 1.5, 1.5, 3, 5, 7])
    np.testing.assert_array_equal(cells[:, 0], [0.1, np.nan, 0.2, np.nan, 0.3])


def test_the_pages_of_tracks(data_set, tmp_path):
    workdir = write_run(tmp_path / "run", data_set, right=0)
    output = tmp_path / "report"
    main = Page(page.write_report([workdir], output))
    ranking = tracks.rank(runs.read_run(workdir).predictions, "single")
    files = sorted(path.name for path in (output / "tracks").glob("*.html"))
    assert files == [f"{i:02d}.html" for i in range(1, 1 + len(ranking.order))] and files
    assert all(f"tracks/{name}" in main.files for name in files)
    for name in files:
        shown = Page(output / "tracks" / name)
        shown.check_files()
        assert "script" not in shown.tags and "audio" in shown.tags
    first = Page(output / "tracks" / "01.html")
    track = runs.read_run(workdir).predictions["track_names"][ranking.numbers[ranking.order[0]]]
    for text in (str(track), "sum of logits", "majority of windows", "(true)", *CLASSES):
        assert text in first.text
    assert any(EVIL in Page(output / "tracks" / name).text for name in files)


def test_the_player_of_a_track_has_the_evaluated_samples(data_set, tmp_path):
    run = runs.read_run(write_run(tmp_path / "run", data_set))
    (shown, *_) = tracks.pages(run, clips.Audio(run, "exam"), tmp_path / "tracks")
    index = shards.load_index(data_set, "exam")
    for number, clip in enumerate(shown["clips"], 1):
        assert clip["player"] == f"01-{number}.wav"
        with wave.open(str(tmp_path / "tracks" / clip["player"])) as file:
            assert file.getframerate() == RATE
            audio = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        np.testing.assert_array_equal(audio, index.cut(index.names.index(clip["name"]), 0, 2 * WINDOW))
    assert shown["confidence"] == sorted(shown["confidence"], key=lambda row: -row[1])
    assert sum(probability for _, probability, _ in shown["confidence"]) == pytest.approx(1)


def test_training_clips_with_the_highest_loss(data_set, tmp_path):
    workdir = write_run(tmp_path / "run", data_set)
    index = shards.load_index(data_set, "learn")
    table = predictions_of(index, right=14)
    np.savez(workdir / "predictions-train.npz", **table)
    results = json.loads((workdir / "results.json").read_text())
    write(workdir / "results.json", results | {"train": metrics.summarise(table, "single")})
    output = tmp_path / "report"
    shown = Page(page.write_report([workdir], output))
    shown.check_files()
    assert "Training clips with the highest loss" in shown.text
    assert "Training split: per clip, sum of probabilities 16 87.5 %" in shown.text
    run = runs.read_run(workdir)
    assert bounds.interval(run, ("train", "track", "majority", "accuracy")) is not None
    worst = clips.worst_clips(runs.read_run(workdir).trained, "single", only_wrong=False, most=clips.WORST_TRAINING)
    assert len(worst) == 12 and {index.names.index(clip["clip"]) for clip in worst[:2]} == {0, 1}
    assert worst == sorted(worst, key=lambda clip: -clip["score"])
    with wave.open(str(output / "training" / "01.wav")) as file:
        audio = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    np.testing.assert_array_equal(audio, index.cut(index.names.index(worst[0]["clip"]), 0, 2 * WINDOW))
    assert (output / "tables" / "worst-training-clips.csv").exists()


@pytest.mark.parametrize("split", ["learn+exam", "exam[0:3]", "learn[-4:]+exam[:3]"])
def test_audio_of_a_part_of_a_split(data_set, tmp_path, split):
    workdir = write_run(tmp_path / "run", data_set)
    results = json.loads((workdir / "results.json").read_text())
    (workdir / "results.json").write_text(json.dumps(results | {"split": split}))
    run = runs.read_run(workdir)
    assert run.faults == () and clips.Audio(run, run.results["split"]).cut(EVIL, (0, 100))[0].shape == (100,)


def test_labels_of_the_data(data_set, tmp_path):
    run = runs.read_run(write_run(tmp_path / "run", data_set))
    drawn, table = comparison.labels([run, run], tmp_path)
    assert [set_["name"] for set_ in drawn] == ["toy"]
    expected = [("toy", split, name, n) for split, n in (("learn", 4), ("exam", 6)) for name in CLASSES]
    assert table.rows == [("toy", split, formats.text(name), n) for _, split, name, n in expected]
    figure = charts.distribution(comparison.label_counts(data_set)[0], CLASSES)(figures.LIGHT)
    assert [bar.get_width() for bar in figure.axes[1].patches] == [6, 6, 6, 6]


def test_cost(data_set, tmp_path):
    workdir = write_run(tmp_path / "run", data_set)
    results = json.loads((workdir / "results.json").read_text())
    more = {"flops_per_clip": 1.5e9, "peak_memory_bytes": 2**31}
    (workdir / "results.json").write_text(json.dumps(results | more))
    known, unknown = comparison.cost_table(
        [runs.read_run(workdir), runs.read_run(write_run(tmp_path / "b", data_set))], []
    ).shown
    assert known[1:] == ["8,041,219", "1.5 G", "100", "10", "1 min 15 s", "2 GiB"]
    assert unknown[2] == unknown[6] == "–"
