"""Every file is read whole: lengths, levels and cuts of the files of `odd_files` against the sounds that were written."""

import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import odd_files
import pytest
from odd_files import RATE

from genre_jax.data import locate, shards
from genre_jax.datasets import DATASETS
from genre_jax.prepare import audio, build, joined
from genre_jax.prepare.__main__ import summary

CUTS = (
    (0.6, 1.6),
    (1.5, 1.0),
)  # (start, duration) in seconds: both go over the join of two parts, or the start of late sound, at 2 s
MID = "/m/064t9"
EDGE = 0.03  # seconds that a resampler or a codec needs to settle at the edge of a cut or a join


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A file of each kind."""
    top = tmp_path_factory.mktemp("odd")
    paths = {}
    for number, (kind, odd) in enumerate(odd_files.KINDS.items()):
        paths[kind] = top / f"video_{number:05d}{odd.extension}"  # a name that AudioSet may have
        paths[kind].write_bytes(odd.content)
    return paths


of_every_kind = pytest.mark.parametrize("kind", odd_files.KINDS, ids=lambda kind: kind.replace(" ", "_"))


@pytest.fixture(scope="module", autouse=True)
def without_tensorflow() -> Iterator[None]:
    """Its import takes longer than the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow", None)
        yield


@pytest.fixture(scope="module")
def of_csv(files, tmp_path_factory) -> Path:
    """The cuts of all files, prepared from a CSV file."""
    table = next(iter(files.values())).parent / "cuts.csv"
    with open(table, "w", newline="") as file:
        rows = [(path.name, "x", start, duration, "train") for path in files.values() for start, duration in CUTS]
        csv.writer(file).writerows([("path", "labels", "start", "duration", "split"), *rows])
    return build.prepare("folder", tmp_path_factory.mktemp("csv"), RATE, table, workers=2)


@pytest.fixture(scope="module")
def of_audioset(files, tmp_path_factory) -> Path:
    """The second cut of all files, prepared as segments of AudioSet that are cut from whole videos."""
    top = next(iter(files.values())).parent
    start, duration = CUTS[1]
    rows = [f'{path.stem}, {start}, {start + duration}, "{MID}"' for path in files.values()]
    (top / "eval_segments.csv").write_text("# a list of AudioSet\n" + "\n".join(rows) + "\n")
    return build.prepare("audioset_music", tmp_path_factory.mktemp("audioset"), RATE, top, workers=2)


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def samples_of(folder: Path, split: str, name: str) -> np.ndarray:
    index = shards.load_index(folder, split)
    row = list(index.names).index(name)
    return index.cut(row, 0, index.length[row]).astype(np.float32) / 32768


def check(got: np.ndarray, odd: odd_files.Odd, start: float = 0.0, duration: float | None = None) -> None:
    """Compare a cut with what was written: its length, and the lag and level of each half second."""
    truth = odd.truth() * np.float32(odd.level)
    first = round(start * RATE)
    count = len(truth) - first if duration is None else round(duration * RATE)
    assert -1 <= len(got) - count <= (odd.longer * RATE + 1 if duration is None else 1), (len(got), count)
    edge, most = round(EDGE * RATE), round(odd.delay * RATE)
    joins = np.cumsum([len(samples) / rate for samples, rate in odd.sounds]) * RATE
    for begin in range(edge, count - edge - most - RATE // 4, RATE // 2):
        size = min(RATE // 2, count - edge - most - begin)
        want = truth[first + begin : first + begin + size]
        if any(-edge - most < join - first - begin < size + edge for join in joins[:-1]):
            continue  # the lag changes inside
        # A sound that is delayed by `lag` samples lies that much further on.
        windows = np.lib.stride_tricks.sliding_window_view(got[begin : begin + size + most], size)
        errors = np.mean((windows - want) ** 2, axis=1)
        wanted, level = np.sqrt(np.mean(want**2)), np.sqrt(np.mean(windows[errors.argmin()] ** 2))
        assert np.sqrt(errors.min()) < max(0.3 * wanted, 1e-3), (begin, np.sqrt(errors.min()), wanted)
        assert abs(level - wanted) < max(0.03 * wanted, 1e-3), (begin, level, wanted)  # 0.3 dB


@of_every_kind
def test_an_odd_file_is_read_whole(files, kind):
    odd, path = odd_files.KINDS[kind], files[kind]
    loaded = audio.load(path, RATE)
    check(loaded.samples, odd)
    assert bool(loaded.format.warning) == (kind == "Ogg without its end mark")
    np.testing.assert_array_equal(np.concatenate(list(audio.stream(path, RATE, 5000))), loaded.samples)
    np.testing.assert_array_equal(audio.load(path.read_bytes(), RATE).samples, loaded.samples)
    decoded, form = audio.decode(path)
    assert decoded.shape[0] == form.channels and abs(decoded.shape[1] / form.rate - len(loaded.samples) / RATE) < 1e-3


@of_every_kind
def test_a_cut_through_prepare_has_its_own_seconds(files, of_csv, kind):
    for start, duration in CUTS:
        check(samples_of(of_csv, "train", f"{files[kind].name}@{start}"), odd_files.KINDS[kind], start, duration)


@of_every_kind
def test_a_segment_of_audioset_has_its_own_seconds(files, of_audioset, kind):
    check(samples_of(of_audioset, "eval", files[kind].name), odd_files.KINDS[kind], *CUTS[1])


X = odd_files.vorbis(odd_files.A, 44_100)
HALVES = ("WAV", "AIFF", "AU", "W64", "RF64", "FLAC")
REFUSED = {  # kind → (content, sentence)
    **{
        f"half a {kind}": (half(odd_files.written(odd_files.A, 44_100, kind)), "^(cut off|decoding stopped)") for kind in HALVES
    },
    "half an Ogg page": (half(X), "^cut off: the last page of the Ogg stream is incomplete$"),
    "half of the second Ogg file": (X + half(X), "^cut off: the last page of the Ogg stream is incomplete$"),
    "half an mp3": (
        half(odd_files.mp3(odd_files.A, 44_100)),
        r"^cut off: the file holds \d.\d s of the 2.0 s that its header st",
    ),
    "half of the second mp3": (
        odd_files.mp3(odd_files.A, 44_100) + half(odd_files.mp3(odd_files.A, 44_100)),
        r"^cut off: the file holds \d.\d s of the 2.0 s that its header states$",
    ),
    "a header without samples": (odd_files.written(odd_files.A[:0], 44_100, "WAV"), "^the file ends at 0.0 s, before the clip"),
}
# Known to be wrong: of joined files of these kinds only the first is read.
FIRST_ALONE = (odd_files.WAV, odd_files.FLAC, odd_files.encoded(odd_files.LONG, 44_100, "aac", "mp4"))
HALF_IS_TAKEN = ("CAF", "VOC", "NIST")  # known to be wrong: half a file counts as a whole one


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_is_not_whole_is_refused_in_a_sentence(kind):
    content, sentence = REFUSED[kind]
    with pytest.raises(audio.AudioError, match=sentence):
        audio.load(content, RATE, 0.1)


def test_disagreements_that_are_known():
    seconds = 2 * odd_files.SECONDS
    for content in FIRST_ALONE:
        assert len(audio.load(content + content, RATE).samples) / RATE == pytest.approx(
            seconds, abs=0.05 if odd_files.OLD_FFMPEG else 0.03
        )
    for kind in HALF_IS_TAKEN:
        taken = audio.load(half(odd_files.written(odd_files.LONG, 44_100, kind)), RATE)
        assert len(taken.samples) / RATE == pytest.approx(seconds / 2, abs=0.03)


def test_junk_behind_and_between_mp3_files_is_no_sound():
    mp3, junk = odd_files.mp3(odd_files.A, 44_100), np.random.default_rng(0).bytes(20_000)
    for content, files in (
        (mp3 + bytes(10_000), 1),
        (mp3 + odd_files.APE + odd_files.ID3_END, 1),
        (mp3 + b"\xff\xd8" + junk, 1),
    ):
        assert len(audio.load(content, RATE).samples) == files * odd_files.SECONDS * RATE


def test_a_tag_that_is_not_plausible_is_not_believed():
    content = odd_files.encoded(odd_files.LONG, 44_100, "libmp3lame", "mp3")
    frames = 70 * 2**24  # as if it were little-endian, and with fewer frames
    for wrong in (b"\0\0\0\x46", frames.to_bytes(4, "big"), b"\xff" * 4):
        changed = odd_files.patched(content, (b"Info", 8, wrong))
        assert len(audio.load(changed, RATE).samples) / RATE == pytest.approx(2 * odd_files.SECONDS, abs=0.06)


def test_strict_refuses_a_warning(files, tmp_path):
    music = tmp_path / "music" / "x"
    music.mkdir(parents=True)
    (music / "a.ogg").write_bytes(files["Ogg without its end mark"].read_bytes())
    command = [sys.executable, "-m", "genre_jax.prepare", f"--source={music.parent}", f"--data_dir={tmp_path}", "--strict"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: 1 clips have a warning (listed above), and --strict allows none\n" in done.stderr


def test_a_folder_takes_every_extension_in_capital_and_small_letters(tmp_path):
    (tmp_path / "x").mkdir()
    names = [f"{number}{letters}" for number, name in enumerate(sorted(audio.EXTENSIONS)) for letters in (name, name.upper())]
    for name in names:
        (tmp_path / "x" / f"a{name}").touch()
    assert {".wv", ".w64", ".mov", ".3gp", ".ts", ".mka", ".caf", ".aifc", ".amr"} <= audio.EXTENSIONS
    assert len(DATASETS["folder"](tmp_path).items) == len(names)


def test_prepare_says_which_files_may_have_lost_their_end(files, of_csv):
    passport = locate.read_passport(of_csv)
    assert (passport["totals"]["warned"], passport["totals"]["quarantined"]) == (len(CUTS), 0)
    name = f"{files['Ogg without its end mark'].name}@0.6"
    sentence = f"warning: 2 clips are used although {joined.NO_END_MARK}; the first is {name}"
    assert passport["notes"] == [sentence] and sentence in summary(passport, of_csv).splitlines()
