"""Several networks in a `Tagger`, the published tag sets, progress, rows over time, and the cache of compiled programs."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import soundfile
from conftest import ROOT

import genre_jax
from genre_jax import cache, console, forward, tag, tag_inputs
from genre_jax import config as configs
from genre_jax import tagger as tagging
from genre_jax.console import UserError
from genre_jax.weights import musicnn, pretrained

RATE, SAMPLES = 8000, 2000
RNG = np.random.default_rng(0)


def save(path: Path, labels: tuple[str, ...], seed: int = 0, hidden: int = 8, **changes) -> Path:
    """Write an untrained network that tags with `labels`; `changes` are config keys with "__" for each dot."""
    config = configs.base("small")
    config.data.update(sample_rate=RATE, samples=SAMPLES)
    config.loss.name = "sigmoid"
    configs.choose(config, "frontend", "log_mel", n_fft=256, hop_length=128, n_mels=16)
    configs.choose(config, "model", "snn", hidden=[hidden])
    for key, value in changes.items():
        configs.override(config, key.replace("__", "."), value)
    variables = forward.build(config, len(labels)).init(jax.random.key(seed), config.data.samples)
    return pretrained.write(pretrained.Trained(config, labels, variables), path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("networks")
    first = save(folder / "a.safetensors", ("rock", "jazz", "House"))
    return first, save(folder / "b.safetensors", ("house", "flute", "Rock", "choir"), seed=1, hidden=5)


@pytest.fixture(scope="module")
def wav(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("wav") / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 5 * RATE), RATE)
    return path


# ---------------------------------------------------------------- several networks


def test_each_network_adds_the_labels_that_those_before_lack(files, wav):
    both, first, second = (genre_jax.load(*sources).tags(wav) for sources in (files, files[:1], files[1:]))
    assert both.labels == ("rock", "jazz", "House", "flute", "choir")
    np.testing.assert_allclose(both.probabilities, np.hstack([first.probabilities, second.probabilities[:, [1, 3]]]), atol=1e-6)
    np.testing.assert_allclose(both.embeddings, np.hstack([first.embeddings, second.embeddings]), atol=1e-6)
    assert both.task == "multi" and both.embeddings.shape == (20, 8 + 5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data__sample_rate": 16000}, r"the same data.sample_rate, and .*a.safetensors has 8000, .*c.safetensors has 16000"),
        ({"data__samples": 3000}, "the same data.samples, and .* has 2000, .* has 3000"),
        ({"evaluate__hop": 1000}, "the same evaluate.hop, and .* has 2000, .* has 1000"),
        ({"data__conditioning": ["highpass"]}, "the same data.conditioning, and .* has .*, .* has .*highpass"),
        ({"loss__name": "softmax"}, "the same task, and .* has multi, .* has single"),
    ],
)
def test_networks_that_read_other_windows_are_refused(files, tmp_path, changes, sentence):
    other = save(tmp_path / "c.safetensors", ("x", "y"), **changes)
    with pytest.raises(UserError, match=f"^networks that tag together must have {sentence}"):
        genre_jax.load(files[0], other)


@pytest.mark.usefixtures("published_weights")
def test_without_a_source_both_published_sets_tag():
    """MTT adds what MSD lacks, each meaning once."""
    tagger = genre_jax.load()
    msd, mtt = (pretrained.load_trained(name).labels for name in musicnn.BOTH)
    assert tagger.labels[:50] == msd
    assert set(tagger.labels[50:]) == set(musicnn.ADDED) <= set(mtt)
    assert len({label.casefold() for label in tagger.labels}) == 50 + len(musicnn.ADDED)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * 16_000)
    tags = tagger.tags(wave, 16_000)
    assert tags.embeddings.shape == (2, 400)
    for name in musicnn.BOTH:
        alone = genre_jax.load(name).predict(wave, 16_000)
        shared = tags.overall().keys() & alone.keys() - (set(msd) if name == "musicnn-mtt" else set())
        assert len(shared) == (50 if name == "musicnn" else len(musicnn.ADDED))
        assert {label: tags.overall()[label] for label in shared} == pytest.approx(
            {label: alone[label] for label in shared}, abs=1e-6
        )


# ---------------------------------------------------------------- decoding and progress


def test_a_short_file_is_decoded_once_and_a_long_one_twice_with_the_same_tags(files, wav, monkeypatch):
    tagger, decoded = genre_jax.load(files[0]), []
    stream = tagging.audio.stream
    monkeypatch.setattr(tagging.audio, "stream", lambda *given: decoded.append(given) or stream(*given))
    expected = tagger.tags(wav)
    assert len(decoded) == 1
    monkeypatch.setattr(tagging, "HELD", 4 * RATE)
    found = tagger.tags(wav)
    assert len(decoded) == 3
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_progress_tells_decoding_and_then_windows(files, wav, monkeypatch):
    monkeypatch.setattr(tagging, "_BLOCK", RATE)
    reports = []
    genre_jax.load(files[0]).tags(wav, progress=lambda *report: reports.append(report))
    decoding = [seconds for seconds, total in reports if total is None]
    assert decoding == [1, 2, 3, 4, 5]
    rest = reports[len(decoding) :]
    assert {total for _, total in rest} == {5.0}
    assert [seconds for seconds, _ in rest] == [4.0, 5.0]  # a batch holds 16 windows of 0.25 s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("files", "prefix"), [(1, ""), (3, "file 2 of 3, ")])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(files, prefix, monkeypatch, capsys):
    progress = tag_inputs.Progress(files)
    progress.within(1.0, 9.0)
    assert capsys.readouterr().err == ""  # less than two seconds
    monkeypatch.setattr(console, "QUIET", -1.0)
    with tag_inputs.Progress(files) as progress:
        if files > 1:
            progress.next()
        progress.within(65.0, None)
        progress.within(70.0, 3600.0)  # within ten seconds of the line before
        assert capsys.readouterr().err == f"tag: {prefix}1:05 decoded\n"
    monkeypatch.setattr(sys, "stderr", Terminal())
    with tag_inputs.Progress(files) as progress:
        if files > 1:
            progress.next()
        progress.within(65.0, None)
        progress.within(1800.0, 3600.0)
    shown = sys.stderr.getvalue()
    assert f"{prefix}30:00 of 1:00:00" in shown
    assert " 50%" in shown
    assert shown.endswith("\r")


# ---------------------------------------------------------------- what is printed


def tags_of(probabilities: np.ndarray, labels: tuple[str, ...], window: float = 3.0) -> tagging.Tags:
    starts = window * np.arange(len(probabilities))
    return tagging.Tags(labels, starts, window, window * len(starts), probabilities, np.zeros((len(starts), 1)), task="multi")


def test_tags_over_time_are_rows_of_blocks():
    probabilities = np.array([[0.8, 0.1], [0.4, 0.1], [0.0, 0.1], [0.0, 0.5]])
    assert tag.as_text("x.wav", tags_of(probabilities, ("a", "flute"))).splitlines() == [
        "x.wav  (0:12, 4 windows of 3 s)",
        "  a       30.0%  ██████                █▄▁▁",
        "  flute   20.0%  ████                  ▁▁▁▅",
        "                              █ = 80%  0:00 0:12",
    ]
    assert tag.as_text("x.wav", tags_of(probabilities[:1], ("a", "flute")), top=1).splitlines()[1:] == [
        "  a   80.0%  ████████████████"
    ]


@pytest.mark.parametrize("longest", [3, 25, 60, 200])
def test_rows_fit_a_console_and_ten_labels_are_shown(longest):
    labels = tuple(f"{n:03d}".ljust(longest, "x") for n in range(30))
    probabilities = RNG.uniform(0.5, 1, (1000, 30))
    lines = tag.as_text("x.wav", tags_of(probabilities, labels)).splitlines()
    assert len(lines) == 12
    assert max(map(len, lines)) == (100 if longest > 25 else 34 + longest + 40)
    assert [line.split()[0][:3] for line in lines[1:-1]] == [f"{n:03d}" for n in np.argsort(-probabilities.mean(0))[:10]]
    assert lines[-1].split()[-2:] == ["0:00", "50:00"]


def test_a_cell_is_the_mean_of_its_windows():
    """80 windows in 40 cells; the first of each pair is loud."""
    probabilities = np.where(np.arange(80) % 2, 0.0, np.repeat([1.0, 0.5], 40))[:, None]
    row = tag.as_text("x.wav", tags_of(probabilities, ("a",))).splitlines()[1]
    assert re.findall("[▁▂▃▄▅▆▇█]+$", row) == ["█" * 20 + "▄" * 20]


def test_without_a_file_there_is_one_sentence_with_an_example(monkeypatch):
    monkeypatch.setattr(tag, "flags", SimpleNamespace(FLAGS=SimpleNamespace(workdir=None, list=None, output=None)))
    with pytest.raises(UserError, match=r"^at least one audio file or folder is needed: python -m genre_jax.tag SONG.mp3$"):
        tag.main(["tag"])


# ---------------------------------------------------------------- the cache of compiled programs


def test_commands_keep_programs_and_survive_a_damaged_cache(files, wav, tmp_path):
    """The command imports none of the large packages that it does not need, and prints nothing but its result."""
    code = (
        "import sys; from genre_jax import console, tag, tag_inputs; tag.define_flags()\n"
        "def main(argv):\n"
        "    code = tag.main(argv)\n"
        "    heavy = ('tensorflow', 'matplotlib', 'sklearn', 'librosa', 'torch', 'scipy.signal', 'scipy.stats')\n"
        "    wrong = [name for name in sys.modules if name.startswith(heavy)]\n"
        "    assert not wrong, wrong\n"
        "    return code\n"
        "console.run(main, tag_inputs.parse_flags)"
    )
    hidden = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {
        "GENRE_JAX_CACHE": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, f"--workdir={files[0]}", "--json", str(wav)],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        outputs.append(json.loads(done.stdout))
        kept = list((tmp_path / "programs" / cache.processor()).glob("jit__apply-*-cache"))
        assert len(kept) == 1
        kept[0].write_bytes(kept[0].read_bytes()[:100])
    assert outputs[0] == outputs[1]


def test_programs_are_kept_only_where_that_is_possible_and_wanted(tmp_path, monkeypatch):
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")  # restored at the end
        monkeypatch.delenv(name)
    (tmp_path / "file").touch()
    monkeypatch.setenv("GENRE_JAX_CACHE", str(tmp_path / "file"))
    cache.keep_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    monkeypatch.setenv("GENRE_JAX_CACHE", str(tmp_path))
    cache.keep_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "programs" / cache.processor())
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    cache.keep_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
