"""The index of songs and the command `similar`: what is added, replaced and refused, and the songs and copies that it names."""

import json
import os
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from conftest import finish, run_module, small_config
from damage import initial_run

import genre_jax
from genre_jax import similar
from genre_jax.console import UserError
from genre_jax.datasets.synthetic import music
from genre_jax.prepare import audio
from genre_jax.recommend import build, index, neighbours, playlist
from genre_jax.recommend.index import Index, Network
from genre_jax.tag import Tags

RATE, WINDOW = 8000, 8000
GENRES = ("house", "waltz", "raga")
SHARED = Path(__file__).parents[2] / "shared" / "audio" / "genres"


class Bands:
    """Stands for a network. The embedding of a window of one second is its magnitude in 16 bands of frequency."""

    labels = ("low", "high")
    sample_rate = RATE

    def __init__(self, power: float = 0.5):
        self.power, self.files = power, []

    def tags(self, source, sample_rate=None):
        if isinstance(source, str):
            self.files.append(os.path.basename(source))
            try:
                source = audio.load(source, RATE).samples
            except audio.AudioError as error:
                raise UserError(f"{source}: {error}") from error
        starts = np.arange(0, len(source) - WINDOW + 1, WINDOW)
        spectra = np.abs(np.fft.rfft([source[start : start + WINDOW] for start in starts]))[:, :4000]
        bands = spectra.reshape(len(starts), 16, -1).mean(2) ** self.power
        low = bands[:, :4].sum(1) / bands.sum(1)
        return Tags(self.labels, starts / RATE, 1.0, len(source) / RATE, np.stack([low, 1 - low], 1), bands)


@pytest.fixture
def network(monkeypatch):
    stand = Bands()
    monkeypatch.setattr(genre_jax, "load", lambda source: stand)
    return stand


@pytest.fixture(scope="module")
def tracks() -> dict[str, np.ndarray]:
    return {f"{g}{n}": music.render(g, n, sample_rate=RATE, seconds=5.0) for g in GENRES for n in range(3)}


@pytest.fixture
def songs(tracks, tmp_path) -> Path:
    """A folder with nine songs of three genres."""
    folder = tmp_path / "songs"
    folder.mkdir()
    for name, track in tracks.items():
        soundfile.write(folder / f"{name}.wav", track, RATE)
    return folder


def names(folder: Path) -> list[str]:
    return [Path(song.path).name for song in Index.open(folder).songs()]


# ---------------------------------------------------------------- building


def test_the_index_holds_what_the_network_says(songs, network, tmp_path):
    assert similar.build([str(songs)], tmp_path / "index") == 0
    made = Index.open(tmp_path / "index")
    assert names(tmp_path / "index") == sorted(path.name for path in songs.iterdir())
    for number, song in enumerate(made.songs()):
        tags = network.tags(song.path)
        starts, windows = made.windows(number)
        np.testing.assert_allclose(starts, tags.starts)
        np.testing.assert_allclose(windows, tags.embeddings, rtol=1e-6)
        np.testing.assert_allclose(made.vectors()[number], tags.embeddings.mean(0), rtol=1e-6)
        np.testing.assert_allclose(made.tags()[number], tags.probabilities.mean(0), rtol=1e-6)
        assert song.seconds == pytest.approx(5.0)


def test_a_second_build_reads_only_what_is_new_or_changed(songs, tracks, network, tmp_path, capsys):
    folder = tmp_path / "index"
    similar.build([str(songs)], folder)
    network.files.clear()
    shutil.copy(songs / "raga0.wav", songs / "later.wav")
    soundfile.write(songs / "house1.wav", tracks["house1"][::-1], RATE)
    (songs / "waltz2.wav").unlink()
    assert similar.build([str(songs)], folder) == 0
    assert sorted(network.files) == ["house1.wav", "later.wav"]
    assert "waltz2.wav" in names(folder) and len(names(folder)) == 10
    made = Index.open(folder)
    np.testing.assert_allclose(made.vectors()[names(folder).index("house1.wav")],
                               network.tags(str(songs / "house1.wav")).embeddings.mean(0), rtol=1e-6)  # fmt: skip
    similar.build([str(songs)], folder, prune=True)
    assert "waltz2.wav" not in names(folder) and len(names(folder)) == 9
    assert "0 added or replaced, 1 removed, 0 not read" in capsys.readouterr().out


def test_prune_leaves_songs_of_other_folders(songs, network, tmp_path):
    other = tmp_path / "songs2"
    shutil.copytree(songs, other)
    similar.build([str(songs), str(other)], tmp_path / "index")
    shutil.rmtree(other)
    similar.build([str(songs)], tmp_path / "index", prune=True)
    assert len(names(tmp_path / "index")) == 18


def test_files_that_cannot_be_read_are_one_line_each(songs, network, tmp_path, capsys):
    (songs / "broken\n.mp3").write_bytes(b"not audio" * 100)
    assert similar.build([str(songs), str(tmp_path / "missing.wav")], tmp_path / "index") == 1
    assert len(names(tmp_path / "index")) == 9
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all(line.startswith("error: ") for line in errors) and "broken\\n.mp3" in errors[0]


def test_a_build_that_is_killed_goes_on(songs, network, tmp_path, monkeypatch):
    folder = tmp_path / "index"
    embed, calls = build.embed, []

    def interrupted(tagger, path):
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return embed(tagger, path)

    monkeypatch.setattr(build, "embed", interrupted)
    monkeypatch.setattr(build, "SONGS", 2)
    with pytest.raises(KeyboardInterrupt):
        similar.build([str(songs)], folder)
    assert len(names(folder)) == 3
    network.files.clear()
    similar.build([str(songs)], folder)
    assert len(network.files) == 6 and len(set(names(folder))) == 9


def killed(*arguments):
    raise KeyboardInterrupt


def test_a_kill_before_the_passport_leaves_the_former_index(songs, network, tmp_path, monkeypatch):
    folder = tmp_path / "index"
    similar.build([str(songs)], folder)
    shutil.copy(songs / "raga0.wav", songs / "later.wav")
    with monkeypatch.context() as patch:
        patch.setattr(index, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            similar.build([str(songs)], folder)
    assert len(names(folder)) == 9 and len(list(folder.glob("segment-*"))) == 2
    similar.build([str(songs)], folder)
    assert len(names(folder)) == 10 and len(list(folder.glob("segment-*"))) == 2


def test_small_segments_are_joined_and_lose_removed_songs(songs, network, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SONGS", 1)
    monkeypatch.setattr(index, "FEW", 3)
    similar.build([str(songs)], tmp_path / "joined")
    monkeypatch.setattr(build, "SONGS", 64)
    similar.build([str(songs)], tmp_path / "whole")
    joined, whole = Index.open(tmp_path / "joined"), Index.open(tmp_path / "whole")
    assert 1 < len(joined.parts()) <= 3
    assert sorted(joined.songs(), key=lambda song: song.path) == list(whole.songs())
    joined.commit(removed=[whole.songs()[4].path])
    monkeypatch.setattr(index, "FEW", 0)
    joined.commit()
    order = [whole.songs().index(song) for song in joined.songs()]
    assert sorted(order) == [0, 1, 2, 3, 5, 6, 7, 8]
    ((segment, _),), ((expected, _),) = joined.parts(), whole.parts()
    assert (np.diff(segment.hashes.astype(np.int64)) >= 0).all()
    np.testing.assert_array_equal(joined.vectors(), whole.vectors()[order])
    for row, number in enumerate(order):
        np.testing.assert_array_equal(joined.windows(row)[1], whole.windows(number)[1])
        one, other = segment.owners == row, expected.owners == number
        for name in ("hashes", "times"):
            np.testing.assert_array_equal(getattr(segment, name)[one], getattr(expected, name)[other])


def test_an_index_can_be_opened_while_segments_are_joined(songs, network, tmp_path, monkeypatch):
    """The second read of index.json finds the new segments."""
    folder = tmp_path / "index"
    similar.build([str(songs)], folder)
    former = (folder / "index.json").read_text()
    monkeypatch.setattr(index, "FEW", 0)
    Index.open(folder).commit()
    read, reads = index.read_json, []

    def late(path, kind):
        reads.append(path)
        return json.loads(former) if len(reads) == 1 else read(path, kind)

    monkeypatch.setattr(index, "read_json", late)
    assert len(Index.open(folder).songs()) == 9 and len(reads) == 2


# ---------------------------------------------------------------- refusals


def test_what_is_refused(songs, network, tmp_path, monkeypatch):
    folder = tmp_path / "index"
    similar.build([str(songs)], folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(genre_jax, "load", lambda source: Bands(power=1.0))
    soundfile.write(tmp_path / "new.wav", music.render("noir", 0, sample_rate=RATE, seconds=5.0), RATE)
    for call, sentence in (
        (lambda: similar.build([str(songs)], folder, "other"), "other is not the network of the index"),
        (lambda: similar.query([str(tmp_path / "new.wav")], folder), "is not the network of the index"),
        (lambda: similar.build([str(songs)], songs), "is a folder with other files"),
        (lambda: similar.build([], folder), "build needs at least one folder"),
        (lambda: similar.query([], folder), "query needs one file, and was given 0"),
        (lambda: similar.lookup(["a", "b"], folder), "lookup needs one file, and was given 2"),
        (lambda: similar.query(["x.wav"], tmp_path / "none"), "holds no index: make it by"),
        (lambda: similar.query(["x.wav"], folder, playlist=str(tmp_path / "no" / "x.m3u8")), "does not exist: create it"),
    ):
        with pytest.raises(UserError, match=sentence):
            call()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 20)


@pytest.mark.parametrize(
    "name, damage, sentence",
    [
        ("index.json", cut, "cannot be read as JSON"),
        ("index.json", lambda path: path.write_text("{}"), "is of version None, and 1 is needed"),
        ("index.json", lambda path: path.write_text('{"version": 1}'), "is damaged .KeyError"),
        ("segment-000000/hashes.npy", cut, "the index is damaged at .*segment-000000"),
        ("segment-000000/vectors.npy", Path.unlink, "the index is damaged at .*vectors.npy"),
        ("segment-000000/times.npy", lambda path: np.save(path, np.zeros(3, np.uint16)), "times.npy holds uint16 .3,."),
        ("segment-000000/songs.jsonl", cut, "the index is damaged at"),
        ("segment-000000/songs.jsonl", lambda path: path.write_text(""), "belong to its 0 songs"),
    ],
)  # fmt: skip
def test_a_damaged_index_is_one_sentence(songs, network, tmp_path, name, damage, sentence):
    similar.build([str(songs)], tmp_path / "index")
    damage(tmp_path / "index" / name)
    with pytest.raises(UserError, match=sentence):
        similar.query([str(songs / "raga0.wav")], tmp_path / "index")


# ---------------------------------------------------------------- similar songs


def test_neighbours_are_those_of_the_centred_cosine():
    vectors = np.random.default_rng(0).normal(5, 1, (200, 12)).astype(np.float32)
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    cosines = centred @ centred[7] / np.linalg.norm(centred, axis=1) / np.linalg.norm(centred[7])
    numbers, found = neighbours.Neighbours(vectors).nearest(vectors[7], 20)
    assert numbers.tolist() == np.argsort(-cosines)[:20].tolist() and numbers[0] == 7
    np.testing.assert_allclose(found, np.sort(cosines)[::-1][:20], atol=1e-5)
    assert len(neighbours.Neighbours(vectors).nearest(vectors[0], 500)[0]) == 200


def queried(capsys, *arguments, **options) -> dict:
    capsys.readouterr()
    assert similar.query(*arguments, **options, as_json=True) == 0
    return json.loads(capsys.readouterr().out)


def test_a_query_names_copies_apart(songs, tracks, network, tmp_path, capsys):
    """Also for a song that the index does not hold; a song of the index is found without the network."""
    soundfile.write(songs / "copy.wav", 0.5 * tracks["waltz1"][RATE // 2 :], RATE)
    similar.build([str(songs)], tmp_path / "index")
    network.files.clear()
    inside = queried(capsys, [str(songs / "waltz1.wav")], tmp_path / "index", k=3)
    assert not network.files
    (same,) = inside["same_recording"]
    assert Path(same["file"]).name == "copy.wav" and same["expected_by_chance"] < 0.01 and same["agreement"] > 0.5
    listed = names(tmp_path / "index")
    nearest, _ = neighbours.Neighbours(vectors := Index.open(tmp_path / "index").vectors()).nearest(
        vectors[listed.index("waltz1.wav")], 10
    )
    expected = [listed[number] for number in nearest if listed[number] not in ("copy.wav", "waltz1.wav")][:3]
    assert [Path(row["file"]).name for row in inside["similar"]] == expected
    outside = tmp_path / "elsewhere.wav"
    shutil.copy(songs / "waltz1.wav", outside)
    found = queried(capsys, [str(outside)], tmp_path / "index", k=3)
    assert {Path(copy["file"]).name for copy in found["same_recording"]} == {"waltz1.wav", "copy.wav"}
    assert found["similar"] == inside["similar"]
    assert list(found["similar"][0]["tags"]) in (["low", "high"], ["high", "low"])


def test_the_passage_that_is_most_alike(network, tracks, tmp_path, capsys):
    """The second and the third song share one second with the first, at different times."""
    folder = tmp_path / "songs"
    folder.mkdir()
    chirp = np.sin(np.arange(RATE) ** 2 / 6e3).astype(np.float32) / 2
    for name, at in (("house0", 1), ("raga0", 3), ("waltz0", 2)):
        song = tracks[name].copy()
        song[at * RATE : (at + 1) * RATE] = chirp
        soundfile.write(folder / f"{name}.wav", song, RATE)
    similar.build([str(folder)], tmp_path / "index")
    rows = queried(capsys, [str(folder / "house0.wav")], tmp_path / "index")["similar"]
    assert {Path(row["file"]).stem: (row["at"], row["song_at"]) for row in rows} == {"raga0": (1, 3), "waltz0": (1, 2)}


def test_a_sum_of_tags(songs, network, tmp_path, capsys):
    """Two tags that add up to 1 point in opposite directions: the order of one is that of the other from the end."""
    folder = tmp_path / "index"
    similar.build([str(songs)], folder)
    capsys.readouterr()
    files = {}
    for expression in ("low - high", "HIGH"):
        assert similar.query_tags([], folder, expression, k=100, playlist=str(tmp_path / "x.m3u8"), as_json=True) == 0
        files[expression] = [row["file"] for row in json.loads(capsys.readouterr().out)["similar"]]
        assert len(files[expression]) == len(names(folder))
        listed = [line for line in (tmp_path / "x.m3u8").read_text().splitlines() if not line.startswith("#")]
        assert len(listed) == len(names(folder))
    assert files["low - high"] == files["HIGH"][::-1]
    similar.query_tags([], folder, "low", k=1)
    assert capsys.readouterr().out.splitlines()[1].split()[2] == files["low - high"][0]
    with pytest.raises(UserError, match="unknown tag 'hih'"):
        similar.query_tags([], folder, "low + hih")
    with pytest.raises(UserError, match="query takes a song or --tags, and was given 'x.wav' and --tags='low'"):
        similar.query_tags(["x.wav"], folder, "low")


def test_the_map(songs, network, nothing_rendered, tmp_path, capsys):
    similar.build([str(songs)], tmp_path / "index")
    assert similar.write_map([], tmp_path / "index", str(tmp_path / "map")) == 0
    assert capsys.readouterr().out.endswith(f"map: {tmp_path / 'map' / 'index.html'}\n")
    text = (tmp_path / "map" / "index.html").read_text()
    assert all(Path(song.path).as_uri() in text for song in Index.open(tmp_path / "index").songs())
    with pytest.raises(UserError, match="map needs --output=DIR, the folder of the page, and no other argument"):
        similar.write_map([], tmp_path / "index", None)


def test_the_table(songs, network, tmp_path, capsys):
    similar.build([str(songs)], tmp_path / "index")
    capsys.readouterr()
    similar.query([str(songs / "raga0.wav")], tmp_path / "index", k=2)
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["rank", "similarity", "most", "alike", "at", "song"]
    assert first.split()[0] == "1" and ".wav  (" in first and "low " in first and second.split()[0] == "2"
    with pytest.raises(UserError, match="unknown command 'quary' .did you mean 'query'"):
        similar.main(["similar", "quary"])
    with pytest.raises(UserError, match="a command is needed, one of build, query, lookup, map, info"):
        similar.main(["similar"])


def test_info(songs, network, tmp_path, capsys):
    similar.build([str(songs)], tmp_path / "index", "some network")
    similar.info([], tmp_path / "index")
    assert "9 songs, 0:45 of audio" in (said := capsys.readouterr().out)
    assert "network some network, 16 dimensions, 2 labels" in said


# ---------------------------------------------------------------- playlists

HOSTILE = ["#not a comment.wav", "new\nline.wav", " spaces .wav ", "Ärger & 東京.wav", "caf\udce9.wav", "\x1b[31mred.wav"]


def test_a_playlist_names_hostile_files_on_one_line_each(tmp_path):
    outside = "/other/a.wav"
    playlist.write(tmp_path / "list.m3u8", [*((str(tmp_path / name), 61.6) for name in HOSTILE), (outside, 5.2)])
    lines = (tmp_path / "list.m3u8").read_text("utf-8").splitlines()
    assert lines[0] == "#EXTM3U" and len(lines) == 1 + 2 * (len(HOSTILE) + 1)
    assert all(line.startswith("#EXTINF:62,") for line in lines[1:-2:2])
    assert lines[2] == "./#not a comment.wav" and lines[8] == "Ärger & 東京.wav" and lines[-2:] == ["#EXTINF:5,a", outside]
    for name, line in zip(HOSTILE, lines[2::2], strict=False):
        path = unquote(line.removeprefix("file://"), errors="surrogateescape") if line.startswith("file://") else line
        assert os.path.normpath(tmp_path / path) == str(tmp_path / name)


def test_hostile_names_pass_through_the_index(songs, network, tmp_path, capsys):
    for name in HOSTILE:
        if name.endswith(".wav"):
            os.rename(next(songs.glob("*[0-9].wav")), songs / name)
    assert similar.build([str(songs)], tmp_path / "index") == 0
    assert set(names(tmp_path / "index")) == {path.name for path in songs.iterdir()}
    similar.query([str(songs / HOSTILE[4])], tmp_path / "index", playlist=str(tmp_path / "list.m3u8"))
    assert len((tmp_path / "list.m3u8").read_text("utf-8").splitlines()) == 17
    assert "\x1b" not in capsys.readouterr().out


# ---------------------------------------------------------------- the command and real networks


@pytest.mark.slow
def test_the_command_with_a_network(tones, songs, tmp_path, capsys):
    """build in a process of its own, with the initial weights of a small network."""
    initial_run(small_config(tones, "snn"), tmp_path / "run")
    for path in sorted(songs.iterdir())[4:]:
        path.unlink()
    options = f"--index={tmp_path / 'index'}", f"--workdir={tmp_path / 'run'}"
    out, err = finish(run_module("genre_jax.similar", "build", str(songs), *options))
    assert out == f"{tmp_path / 'index'}: 4 songs; 4 added or replaced, 0 not read\n" and "error" not in err
    assert len(queried(capsys, [str(songs / "house1.wav")], tmp_path / "index")["similar"]) == 3


def test_a_network_is_recognised_by_its_answer(network):
    made = Network.of(network, "a")
    assert made.same_as(Network.of(Bands(), "b"))
    assert not made.same_as(Network.of(Bands(power=0.6), "a"))


@pytest.mark.slow
@pytest.mark.usefixtures("published_weights")
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/audio")
def test_the_nearest_song_by_another_artist_is_of_the_same_genre(tmp_path):
    import csv

    similar.build([str(SHARED)], tmp_path / "index")
    made = Index.open(tmp_path / "index")
    with open(SHARED / "tracks.csv", encoding="utf-8", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    facts = [rows[str(Path(song.path).relative_to(SHARED))] for song in made.songs()]
    artist, genre = (np.array([fact[key] for fact in facts]) for key in ("artist", "labels"))
    units = neighbours.Neighbours(made.vectors()).units(made.vectors())
    cosines = np.where(artist[:, None] == artist, -2, units @ units.T)
    share = (genre[cosines.argmax(1)] == genre).mean()
    chance = np.mean([(genre[artist != a] == g).mean() for a, g in zip(artist, genre, strict=True)])
    print(f"{len(facts)} songs, {len(set(artist))} artists: same genre {share:.1%}, by chance {chance:.1%}")
    assert share > 0.65 and chance < 0.2
