"""The genre map: distances and their tree, places, analogies, and the map on the pages of a run and of an index."""

import json
import os
import re
import types
import urllib.parse
import wave

import numpy as np
import pytest
from report_runs import CLASSES, EVIL, RATE, Page, add_embeddings, predictions_of, write, write_run
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist, squareform

from genre_jax import tag_arithmetic
from genre_jax.console import UserError
from genre_jax.data import shards
from genre_jax.report import charts, clips, figures, genre_map, index_map, page, run_map, runs, section

for package in page.NEEDED:
    pytest.importorskip(package)

RNG = np.random.default_rng(0)


def unit_vectors(count: int, dimensions: int = 12) -> np.ndarray:
    return tag_arithmetic.unit(RNG.normal(size=(count, dimensions)))


def test_distances_and_tree_are_those_of_scipy():
    vectors = unit_vectors(7)
    matrix = genre_map.distances(vectors)
    np.testing.assert_allclose(matrix, squareform(pdist(vectors, "cosine")), atol=1e-12)
    linked = genre_map.tree(matrix)
    expected = hierarchy.linkage(vectors, "average", "cosine", optimal_ordering=True)
    np.testing.assert_allclose(np.sort(linked[:, 2]), np.sort(expected[:, 2]))
    assert sorted(genre_map.leaves(linked, 7)) == list(range(7)) and genre_map.leaves(linked[:0], 1).tolist() == [0]


def test_few_classes_have_their_colours_and_many_share_them_with_similar_ones():
    assert [colour for colour, _ in genre_map.styles(genre_map.distances(unit_vectors(5)))] == [0, 1, 2, 3, 4]
    families = np.repeat(np.eye(6, 30), 3, axis=0)
    families[np.arange(18), 6 + np.arange(18)] = 0.2
    style = genre_map.styles(genre_map.distances(tag_arithmetic.unit(families)))
    colours = [colour for colour, _ in style]
    assert len(set(colours)) == 6 and all(len(set(colours[i : i + 3])) == 1 for i in range(0, 18, 3))
    assert len(set(style)) == 18


def test_places_keep_groups_together_and_are_the_same_again():
    vectors = np.repeat(5 * np.eye(3, 10), 12, axis=0) + RNG.normal(size=(36, 10))
    places = genre_map.scatter(vectors)
    assert places.shape == (36, 2) and places.min() == 0 and places.max() == 1
    gaps = np.linalg.norm(places[:, None] - places, axis=2) + 9 * np.eye(36)
    assert np.mean(gaps.argmin(1) // 12 == np.arange(36) // 12) > 0.95
    np.testing.assert_array_equal(genre_map.scatter(vectors), places)


def test_few_vectors_are_shown_by_a_pca():
    vectors = unit_vectors(6)
    centred = vectors - vectors.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * singular)[:, :2]
    expected = (expected - expected.min(0)) / np.ptp(expected, axis=0)
    found = genre_map.scatter(vectors)
    for axis in (0, 1):  # the sign of an axis is arbitrary
        assert min(np.abs(found[:, axis] - side).max() for side in (expected[:, axis], 1 - expected[:, axis])) < 1e-6


@pytest.mark.parametrize("vectors", [np.full((4, 3), 0.1, np.float32), RNG.normal(size=(4, 3))])
def test_a_single_class_has_no_direction(nothing_rendered, tmp_path, vectors):
    songs = [genre_map.Song("song", "", 0)] * 4
    found = genre_map.draw(songs, vectors, np.eye(2)[[0] * 4], ("only", "absent"), tmp_path)
    assert found["legend"] == [] and found["picture"] is found["nearest"] is found["analogies"] is None
    assert [dot["style"] for dot in found["dots"]] == [("other", 0)] * 4


@pytest.mark.parametrize("shape", [(2, 1), (20, 1), (20, 3)])
def test_vectors_that_are_all_the_same_have_places(shape):
    assert np.isfinite(genre_map.scatter(np.ones(shape))).all()


def test_analogies_are_found_where_they_were_planted():
    """Classes 0 to 3 are the corners of a parallelogram: 0 − 1 + 3 = 2."""
    a, b, c = 3 * RNG.normal(size=(3, 40))
    means = tag_arithmetic.unit(np.stack([a + b, a, c, a * 0 + c - b, *RNG.normal(size=(3, 40))]))
    means[3] = tag_arithmetic.unit(means[2] - means[0] + means[1])
    names = [f"class {i}" for i in range(7)]
    songs = np.concatenate([means, -means])
    table = genre_map.analogy_table(means, names, songs, [f"song {i}" for i in range(14)])
    assert len({row[1] for row in table.rows}) == len(table.rows) == 3
    for expression, answer, cosine, nearest in table.rows:
        i, j, k = (names.index(name) for name in re.split(" [−+] ", expression))
        result = tag_arithmetic.unit(means[i] - means[j] + means[k])
        cosines = {name: means[n] @ result for n, name in enumerate(names) if n not in (i, j, k)}
        if answer is not None:
            assert answer == max(cosines, key=cosines.get) and cosine == pytest.approx(cosines[answer])
        assert nearest.split(", ")[0] == f"song {int((songs @ result).argmax())}"
    planted = {"class 0 − class 1 + class 3", "class 1 − class 0 + class 2"}
    assert planted & {row[0] for row in table.rows}
    assert genre_map.analogy_table(means[:3], names, songs, [""] * 14) is None


def test_names_on_the_map_do_not_cover_each_other():
    labels = genre_map._apart(np.full((4, 2), 0.5), ["a", "b", "c", "long " * 9], [(0, 0)] * 4)
    heights = sorted(float(label["y"].rstrip("%")) for label in labels)
    assert min(np.diff(heights)) >= 92 * genre_map.LINE - 0.1
    assert max(len(label["name"]) for label in labels) == genre_map.LETTERS


def test_each_class_in_turn_has_a_song_to_play():
    assert run_map._in_turn(np.arange(6), [0, 0, 0, 1, 1, 2]) == [0, 3, 5, 1, 4, 2]


def test_the_tree_stands_beside_the_distances():
    matrix = genre_map.distances(unit_vectors(5))
    matrix = matrix[np.ix_(*[genre_map.leaves(genre_map.tree(matrix), 5)] * 2)]
    figure = charts.distances(matrix, genre_map.tree(matrix), list("abcde"))(figures.LIGHT)
    left, right = figure.axes
    assert [label.get_text() for label in right.get_yticklabels()] == list("abcde")
    heights = sorted(y for line in left.lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True) if x == 0)
    np.testing.assert_allclose(heights, range(5))  # each branch ends at the row of its class


# ---------------------------------------------------------------- pages


@pytest.fixture
def run(data_set, nothing_rendered, tmp_path):
    """A finished run with embeddings of its test tracks and training tracks; the first test track has none."""
    workdir = write_run(tmp_path / "run", data_set)
    np.savez(workdir / "predictions-train.npz", **predictions_of(shards.load_index(data_set, "learn"), right=14))
    for name in ("predictions", "predictions-train"):
        add_embeddings(workdir, name)
    with np.load(workdir / "predictions.npz") as file:
        table = dict(file)
    table["embedding"][0] = np.nan
    table["track_names"] = np.array([EVIL if number == 1 else name for number, name in enumerate(table["track_names"])])
    np.savez(workdir / "predictions.npz", **table)
    return workdir


def test_the_map_of_a_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_map, "MOST_SOUNDS", 16)
    output = tmp_path / "report"
    shown = Page(page.write_report([run], output))
    shown.check_files()
    text = (output / "index.html").read_text()
    assert "script" not in shown.tags and shown.tags.count("iframe") == 1 and 'name="player"' in text
    dots = text.count('class="dot')
    assert dots == 11 + 8 and text.count(' training"') == 8  # of 12 test tracks, one has no embedding
    assert text.count('target="player"') == 16 and text.count('aria-label="Play ') == 16
    assert f"{EVIL}. True: " in shown.text
    for part in ("t-SNE of cosine distances", "Nearest classes", "Arithmetic on classes", *CLASSES):
        assert part in shown.text
    assert "The name of a class stands at the mean of its songs" in shown.text
    sounds = sorted((output / "map").iterdir())
    assert sounds and "mistakes/01.wav" in [name for name in shown.files if name.startswith("mistakes")]
    with wave.open(str(sounds[0])) as file:
        assert (file.getframerate(), file.getnframes()) == (RATE, 4_000)  # two windows, less than 8 s
    assert (output / "tables" / "nearest-classes.csv").read_text().startswith("Class,Songs,Nearest,Distance")


def test_songs_that_the_page_plays_anyway_are_not_written_twice(run, tmp_path):
    shown = Page(page.write_report([run], tmp_path / "report"))
    played = [name for name in shown.files if name.endswith(".wav")]
    reused = {name for name in played if name.startswith(("mistakes", "training"))}
    assert sum(played.count(name) > 1 for name in reused) > 0
    written = {path.name for path in (tmp_path / "report" / "map").iterdir()}
    assert written == {name.partition("/")[2] for name in played if name.startswith("map/")}


def map_of(workdir, folder):
    read = runs.read_run(workdir)
    audio = {"test": clips.Audio(read, "exam"), "train": clips.Audio(read, "learn")}
    return run_map.section(read, audio, {"test": [], "train": []}, folder, 3)


def test_several_labels(run, tmp_path):
    results = json.loads((run / "results.json").read_text())
    write(run / "results.json", results | {"task": "multi"})
    with np.load(run / "predictions.npz") as file:
        table = dict(file)
    table["labels"][:, 3] = 1
    np.savez(run / "predictions.npz", **table)
    found = map_of(run, tmp_path)["map"]
    assert {name: songs for name, _, songs in found["legend"]}[CLASSES[3]] == 11 + 2
    assert any(f"True: {CLASSES[0]}, {CLASSES[3]}." in dot["title"] for dot in found["dots"])


def test_a_run_without_embeddings_has_a_sentence(data_set, nothing_rendered, tmp_path):
    workdir = write_run(tmp_path / "run", data_set)
    shown = Page(page.write_report([workdir], tmp_path / "report"))
    assert "There is no map: the run has no embeddings of its tracks." in shown.text
    embedding = add_embeddings(workdir)
    with np.load(workdir / "predictions.npz") as file:
        np.savez(workdir / "predictions.npz", **dict(file) | {"embedding": np.full_like(embedding, np.nan)})
    assert map_of(workdir, tmp_path)["without_map"] == "fewer than two tracks have a label and an embedding"


def test_training_tracks_of_other_classes_are_left_out(run):
    with np.load(run / "predictions-train.npz") as file:
        np.savez(run / "predictions-train.npz", **dict(file) | {"classes": np.array(list("abcd"))})
    read = runs.read_run(run)
    assert not run_map._fits(read.trained, read.predictions) and run_map._fits(read.predictions, read.predictions)


@pytest.mark.parametrize(
    "config, sentence",
    [
        ({}, ""),
        ({"init_from": 3, "head": []}, ""),
        ({"init_from": "runs/a\n", "head": {"start": "random"}}, "The network starts from runs/a."),
        (
            {"init_from": "musicnn-mtt", "head": {"start": "logistic"}},
            "The network starts from musicnn-mtt (published weights, tags of MagnaTagATune). Its classifier starts as a linear "
            "probe: a logistic regression on the embeddings of the training tracks.",
        ),
    ],
)
def test_the_page_names_the_start(config, sentence):
    assert section.start(config) == sentence


def fake_index(paths: list[str]):
    tags = RNG.uniform(size=(len(paths), 5))
    return types.SimpleNamespace(
        songs=lambda: tuple(types.SimpleNamespace(path=path) for path in paths),
        vectors=lambda: (tags @ RNG.normal(size=(5, 16))).astype(np.float32),
        tags=lambda: tags,
        network=types.SimpleNamespace(labels=("rock", "new age", "Hip-Hop", "<b>", "90s")),
    )


def test_the_map_of_an_index_links_to_the_files(nothing_rendered, tmp_path):
    names = ['a "quoted" <i>#1?.mp3', "b.ogg", os.fsdecode(b"c \xff.wav"), *(f"{i}.flac" for i in range(20))]
    paths = [str(tmp_path / "songs" / name) for name in names]
    target = index_map.write_index_map(fake_index(paths), tmp_path / "map")
    assert target == tmp_path / "map" / "index.html"
    shown = Page(target)
    sounds = [name for name in shown.files if name.startswith("file://")]
    assert sorted(os.fsdecode(urllib.parse.unquote_to_bytes(name.removeprefix("file://"))) for name in sounds) == sorted(paths)
    assert "i" not in shown.tags and "b" not in shown.tags and names[0] in shown.text and "c \\udcff.wav" in shown.text
    for part in ("Map of 23 songs", "new age", "Nearest classes", "Arithmetic on classes"):
        assert part in shown.text
    assert all((target.parent / name).is_file() for name in shown.files if name not in sounds)


def test_a_map_of_many_songs_shows_some(nothing_rendered, tmp_path, monkeypatch):
    monkeypatch.setattr(genre_map, "MOST_SONGS", 10)
    monkeypatch.setattr(genre_map, "MOST_CLASSES", 4)
    path = index_map.write_index_map(fake_index([f"/music/{i}.ogg" for i in range(30)]), tmp_path)
    assert path.read_text().count('class="dot') == 10
    assert "10 of 30 songs are shown. Classes with few songs are left out: 1." in Page(path).text


def test_a_map_needs_two_songs(tmp_path):
    with pytest.raises(UserError, match="a map needs at least 2 songs, and the index holds 1: add songs to it"):
        index_map.write_index_map(fake_index(["/a.ogg"]), tmp_path)
