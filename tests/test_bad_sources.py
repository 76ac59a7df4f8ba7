"""`prepare` on damaged lists, damaged results of an earlier `prepare`, full disks and read-only folders: one sentence each."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile
import numpy as np
import pytest
import soundfile
from conftest import ROOT

from genre_jax.console import UserError
from genre_jax.data import locate
from genre_jax.datasets import DATASETS, table
from genre_jax.prepare import audio, build, decode
from genre_jax.prepare.__main__ import summary

RATE = 8000
FMA = ",set,set,track,artist\n,split,subset,genre_top,id\ntrack_id,,,,\n"
MIDS = 'index,mid,display_name\n0,/m/064t9,"Pop music"\n'
SEGMENTS = '# Segments\nabcdefghijk, 0.000, 10.000, "/m/064t9"\n'


def folder_csv(path: Path) -> None:
    DATASETS["folder"](path.rename(path.with_name("songs.csv")))


def fma(path: Path) -> None:
    DATASETS["fma_small"](path.rename(path.with_name("tracks.csv")).parent)


def segments(path: Path) -> None:
    DATASETS["audioset_music"](path.rename(path.with_name("eval_segments.csv")).parent)


def ontology(path: Path) -> None:
    path.with_name("eval_segments.csv").write_text(SEGMENTS)
    DATASETS["audioset_music"](path.rename(path.with_name("class_labels_indices.csv")).parent)


def chosen_labels(path: Path) -> None:
    path.with_name("eval_segments.csv").write_text(SEGMENTS)
    DATASETS["audioset_music"](path.parent, labels=str(path))


READERS: dict[Callable[[Path], None], str] = {  # reader → a good beginning of its file
    folder_csv: "path,labels\na.wav,x\n",
    fma: FMA + "2,training,small,Rock,7\n",
    segments: SEGMENTS,
    ontology: MIDS,
    chosen_labels: "/m/064t9\n",
}
DAMAGE = {  # name → (bytes from the good beginning, sentence)
    "half of UTF-16": (lambda good: good.encode("utf-16")[:-1], r"^\S+ begins as UTF-16, but its rest is not UTF-16: save the"),
    "utf-16 without a mark": (lambda good: good.encode("utf-16-le"), r"^\S+, line 1: the line contains a NUL byte: save the"),
    "latin-1": (lambda good: good.encode() + b"Beyonc\xe9.wav,x\n", r"^\S+, line \d: the line is not in UTF-8: save the file in"),
    "NUL": (lambda good: good.encode() + b"b\0.wav,x\n", r"^\S+, line \d: the line contains a NUL byte: save the file as text"),
    "quote": (lambda good: good.encode() + b'"b.wav,x\nc.wav,x\n', r"^\S+, line \d: the row that begins here is not valid CSV"),
    "huge field": (lambda good: good.encode() + b"b" * 200_000, r"^\S+, line \d: .* \(field larger than field limit \(131072\)\)"),
    "no text": (lambda good: good.encode() + b"b" * 2**20, r"^\S+, line \d: the line has 1048576 characters or more"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_list_is_one_sentence(tmp_path, reader, damage):
    make, sentence = DAMAGE[damage]
    path = tmp_path / "list.csv"
    path.write_bytes(make(READERS[reader]))
    with pytest.raises(UserError, match=sentence):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_an_empty_list_is_one_sentence(tmp_path, reader):
    path = tmp_path / "list.csv"
    path.touch()
    with pytest.raises(UserError):
        reader(path)


def test_a_list_may_have_a_byte_order_mark_and_the_line_ends_of_any_system(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b'\xef\xbb\xbfa, "b\nb"\r\nc,d\r\n')
    assert list(table.rows(path)) == [(2, ["a", "b\nb"]), (3, ["c", "d"])]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_of_a_spreadsheet_is_read(tmp_path, encoding, separator):
    lines = ["path,labels,start", "Beyoncé.wav,rock|live,0.5", '"a, b; c.wav",rock,']
    path = tmp_path / "songs.csv"
    path.write_text(
        "\r\n".join(lines[:2]).replace(",", separator) + f'\r\n"a, b; c.wav"{separator}rock{separator}\r\n', encoding
    )
    source = DATASETS["folder"](path)
    assert [(item.name, item.labels) for item in source.items] == [
        ("Beyoncé.wav@0.5", ("rock", "live")), ("a, b; c.wav", ("rock",))
    ]  # fmt: skip
    assert not source.refused


def test_a_csv_of_windows_code_page_1252_gets_the_cure(tmp_path):
    path = tmp_path / "songs.csv"
    path.write_bytes("path,labels\na.wav,x\nBeyoncé.wav,x\n".encode("cp1252"))
    with pytest.raises(
        UserError, match=r"line 3: the line is not in UTF-8: save the file in UTF-8 \(spreadsheets call this 'CSV"
    ):
        DATASETS["folder"](path)


def csv_source(tmp_path, *rows: str, header: str = "path,labels"):
    path = tmp_path / "songs.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return DATASETS["folder"](path)


def test_a_file_has_one_name_in_every_spelling_of_its_path(tmp_path):
    (tmp_path / "odd\\name.wav").touch()  # a legal name on Linux
    spellings = ["jazz/a.wav", "./jazz/a.wav", "jazz//a.wav", "rock/../jazz/a.wav", "jazz\\a.wav", ".\\jazz\\a.wav"]
    spellings.append(str(tmp_path / "jazz" / "a.wav"))
    source = csv_source(tmp_path, *(f"{path},label {n}" for n, path in enumerate(spellings)), "odd\\name.wav,x", "..b.wav,x")
    assert [(item.name, item.track) for item in source.items] == [
        ("jazz/a.wav", "jazz/a"), ("odd\\name.wav", "odd\\name"), ("..b.wav", "..b")
    ]  # fmt: skip
    assert source.items[0].path == str(tmp_path / "jazz/a.wav")
    assert source.items[0].labels == tuple(f"label {n}" for n in range(len(spellings)))
    refused = csv_source(tmp_path, "C:\\Music\\a.wav,x", "..\\a.wav,x", "b.wav,x").refused
    assert [reason for _, reason in refused] == [
        "'C:\\\\Music\\\\a.wav' is on a drive of Windows: use the path from the folder of the CSV to the file",
        "'..\\\\a.wav' leads out of the folder of the CSV: use the absolute path of the file",
    ]


def test_one_row_a_label_is_one_clip_with_all_labels(tmp_path):
    rows = ("a.wav,rock,train", "b.wav,jazz,", "./a.wav,live,train", "a.wav,rock|loud,train", "a.wav,pop,test")
    source = csv_source(tmp_path, *rows, header="path,labels,split")
    assert [item.labels for item in source.items] == [("rock", "live", "loud"), ("jazz",)]
    assert source.notes == ("2 rows name a clip again, and their labels were merged",)
    assert source.refused == (("songs.csv, row 6", "repeats 'a.wav' of row 2 with another track, split or duration"),)


@pytest.mark.parametrize("cell", ["['rock', 'live']", "rock;live", '"rock, live"', "[rock|live]"])
def test_labels_with_another_separator_get_the_right_one(tmp_path, cell):
    cell = f'"{cell}"' if cell.startswith("['") else cell
    ((row, reason),) = csv_source(tmp_path, f"a.wav,{cell}", "b.wav,x").refused
    assert row == "songs.csv, row 2"
    assert reason == f"labels is {cell.strip(chr(34))!r}: write 'rock|live' for several labels; a name must not hold ',' or ';'"


def test_classes_that_differ_in_capital_letters_are_a_warning(tmp_path):
    warning = "warning: classes 'Jazz' and 'jazz' differ only in capital letters: use one spelling if they are one"
    assert csv_source(tmp_path, "a.wav,Jazz", "b.wav,jazz|rock").notes == (warning,)
    for name in ("Jazz/a.WAV", "jazz/b.Mp3", "rock/c.FLAC", "rock/d.Txt"):
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).touch()
    source = DATASETS["folder"](tmp_path / "top")
    assert len(source.items) == 3
    assert source.notes == ("1 files were ignored, because their extension is not listed (1 .txt)", warning)


def test_numbers_that_no_clip_can_have_are_refused(tmp_path):
    path = tmp_path / "songs.csv"
    path.write_text("path,labels,start,duration\na.wav,x,1e308,\na.wav,x,,1e308\nb.wav,x,,\n")
    refused = DATASETS["folder"](path).refused
    assert [reason for _, reason in refused] == [
        f"{column} is '1e308', expected seconds, 0 to 1000000, such as 12.5" for column in ("start", "duration")
    ]
    (tmp_path / "tracks.csv").write_text(FMA + f"{'1' * 5000},training,small,Rock,7\n")
    with pytest.raises(UserError, match=r"^found no audio below"):
        DATASETS["fma_small"](tmp_path)
    for text in ("random:" + "1" * 5000, "random:٣"):
        with pytest.raises(UserError, match=r"^unknown split "):
            DATASETS["gtzan"](tmp_path, split=text)


def test_a_row_of_the_table_of_classes_that_lacks_its_name_is_one_sentence(tmp_path):
    (tmp_path / "eval_segments.csv").write_text(SEGMENTS)
    (tmp_path / "class_labels_indices.csv").write_text(MIDS + "1,/m/09x0r\n")
    with pytest.raises(UserError, match=r"line 3: the row has 2 cells, but the header has 3 columns"):
        DATASETS["audioset_music"](tmp_path)


def test_an_error_that_no_decoder_should_raise_is_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(RATE), RATE)
    monkeypatch.setattr(decode, "_open_soundfile", lambda *args: 1 / 0)
    sentence = r"^the decoder failed with an unexpected error \(ZeroDivisionError\)$"
    with pytest.raises(audio.AudioError, match=sentence):
        list(audio.stream(path, RATE, 1000))


# ---------------------------------------------------------------- what an earlier prepare has left


@pytest.mark.parametrize("content", ["", '{"name": "noi', "[]", "{}", "\0" * 100])
def test_a_damaged_passport_makes_the_data_set_again(tmp_path, monkeypatch, capsys, content):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(DATASETS, "folder", lambda source: hostile.source())
    options = {"source": tmp_path, "name": "noise", "workers": 1}
    folder = build.prepare("folder", tmp_path, RATE, **options)
    passport = folder / "passport.json"
    whole = passport.read_bytes()
    passport.write_text(content)
    capsys.readouterr()
    assert build.prepare("folder", tmp_path, RATE, **options) == folder
    assert capsys.readouterr().out.startswith(f"the data set is made again, because {passport} ")
    assert passport.read_bytes() == whole


def test_the_summary_shows_names_on_one_line_each(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    source = hostile.source("raises")
    evil = build.dataclasses.replace(
        source, refused=(("evil\n\x1b[2J.tar", "not a file"),), notes=("2 files were ignored (2 .\x1b)",)
    )
    options = {"validation": 0.1, "test": 0.1, "workers": 1, "limits": build.Limits()}
    folder = build.build(evil, tmp_path, "noise", RATE, **options)
    text = summary(locate.read_passport(folder), folder)
    assert r"  evil\n\x1b[2J.tar: not a file" in text.splitlines()
    assert r"2 files were ignored (2 .\x1b)" in text.splitlines() and "\x1b" not in text


# ---------------------------------------------------------------- full disks, read-only folders


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a disk in memory, with options such as "size=1m", or mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(options: str) -> Path:
        how = f"remount,{options}" if mounted else options
        command = ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, check=False).returncode
        except FileNotFoundError:
            done = 1
        if done:
            pytest.skip("mounting a disk needs Linux and its administrator")
        mounted.append(True)
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def run_prepare(source: Path, data_dir: Path, code: int) -> tuple[str, str]:
    """Run the command; return its output and its last line on standard error."""
    hide = "import sys, runpy; sys.modules['tensorflow'] = None; runpy.run_module('genre_jax.prepare', run_name='__main__')"
    arguments = [f"--source={source}", f"--data_dir={data_dir}", "--name=noise", f"--sample_rate={RATE}", "--workers=1"]
    done = subprocess.run(
        [sys.executable, "-c", hide, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("songs")
    (top / "x").mkdir()
    for number in range(6):
        soundfile.write(top / "x" / f"{number}.wav", np.random.default_rng(number).uniform(-0.5, 0.5, 4 * RATE), RATE)
    return top


@pytest.mark.parametrize("kilobytes", [340, 388, 396, 400])  # full in a shard, its outcome, a list, the passport
def test_a_full_disk_is_one_sentence_and_the_same_command_resumes(songs, disk, kilobytes):
    data_dir = disk(f"size={kilobytes}k")
    out, error = run_prepare(songs, data_dir, 1)
    assert re.fullmatch(rf"error: the disk of {data_dir}/\S+ is full: free some space and run the same command again", error)
    assert "the finished shards are kept in" in out
    disk("size=4m")
    out, _ = run_prepare(songs, data_dir, 0)
    assert "resuming an interrupted prepare" in out
    assert [path.name for path in data_dir.iterdir()] == ["noise"]


def test_a_read_only_folder_is_one_sentence(songs, disk):
    data_dir = disk("size=4m")
    disk("ro")
    _, error = run_prepare(songs, data_dir, 1)
    assert re.fullmatch(r"error: \S+ is on a read-only file system: choose a folder that can be written", error)
