"""Every file is read whole: lengths, levels and cuts of the files of `odd_files` against the sounds that were written."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import odd_files
import pytest
from odd_files import RATE

from genre_jax.data import locate, shards
from genre_jax.prepare import audio, build, joined
from genre_jax.prepare.__main__ import summary

CUTS = (
    (0.6, 1.6),
    (1.5, 1.0),
)  # (start, duration) in seconds: both go over the join of two parts, or the begin of late sound, at 2 s
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


@pytest.mark.parametrize("kind", odd_files.KINDS)
def test_an_odd_file_is_read_whole(files, kind):
    odd, path = odd_files.KINDS[kind], files[kind]
    loaded = audio.load(path, RATE)
    check(loaded.samples, odd)
    assert bool(loaded.format.warning) == (kind == "Ogg without its end mark")
    np.testing.assert_array_equal(np.concatenate(list(audio.stream(path, RATE, 5000))), loaded.samples)
    np.testing.assert_array_equal(audio.load(path.read_bytes(), RATE).samples, loaded.samples)
    decoded, form = audio.decode(path)
    assert decoded.shape[0] == form.channels and abs(decoded.shape[1] / form.rate - len(loaded.samples) / RATE) < 1e-3


@pytest.mark.parametrize("kind", odd_files.KINDS)
def test_a_cut_through_prepare_has_its_own_seconds(files, of_csv, kind):
    for start, duration in CUTS:
        check(samples_of(of_csv, "train", f"{files[kind].name}@{start}"), odd_files.KINDS[kind], start, duration)


@pytest.mark.parametrize("kind", odd_files.KINDS)
def test_a_segment_of_audioset_has_its_own_seconds(files, of_audioset, kind):
    check(samples_of(of_audioset, "eval", files[kind].name), odd_files.KINDS[kind], *CUTS[1])


def test_prepare_says_which_files_may_have_lost_their_end(files, of_csv):
    passport = locate.read_passport(of_csv)
    assert (passport["totals"]["warned"], passport["totals"]["quarantined"]) == (len(CUTS), 0)
    name = f"{files['Ogg without its end mark'].name}@0.6"
    sentence = f"warning: 2 clips are used although {joined.NO_END_MARK}; the first is {name}"
    assert passport["notes"] == [sentence] and sentence in summary(passport, of_csv).splitlines()
