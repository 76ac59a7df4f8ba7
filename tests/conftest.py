"""The setup of all tests: eight CPU devices, a cache of compiled programs that later runs reuse, and small data sets.

The tests run on the CPU, also on a machine with a GPU, unless JAX_PLATFORMS is set.
"""

import os
import subprocess
import sys
from pathlib import Path

from genre_jax import cache  # does not import JAX

ROOT = Path(__file__).parent.parent

# Child processes inherit environment variables.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "compiled" / cache.processor()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax

jax.config.update("jax_num_cpu_devices", 8)

import numpy as np
import pytest
import small_run

from genre_jax import config as configs
from genre_jax.console import UserError
from genre_jax.data import locate
from genre_jax.prepare import passport, tfrecord
from genre_jax.weights import musicnn

CLASSES = ("low", "mid", "high", "noise")


def section(name: str, **changes):
    """Return a section of the default config with these keys changed; "__" stands for the dot of a nested key."""
    config = configs.base("x")
    for key, value in changes.items():
        configs.override(config, f"{name}.{key.replace('__', '.')}", value)
    configs.validate_values(config)
    return config[name]


@pytest.fixture(autouse=True)
def same_draws(request):
    """Seed a module's RNG again before each test. The numbers of a test do not depend on the tests before it."""
    if hasattr(request.module, "RNG"):
        request.module.RNG = np.random.default_rng(0)


def tone_clip(split: str, genre: int, number: int, samples: int) -> tfrecord.Clip:
    """Return a clip with a noisy tone in the pitch range of its class, or with noise only (the last class)."""
    rng = np.random.default_rng([("train", "validation", "test").index(split), genre, number])
    time = np.arange(samples) / 8000
    pitch = (200, 500, 1200)[genre] * rng.uniform(0.9, 1.1) if genre < 3 else 0
    signal = 0.4 * np.sin(2 * np.pi * pitch * time + rng.uniform(0, 6)) + rng.normal(0, 0.05 if pitch else 0.3, samples)
    audio = np.clip(np.round(signal * 32768), -32768, 32767).astype(np.int16)
    name = f"{split}/{CLASSES[genre]}/{number:02d}.wav"
    return tfrecord.Clip(name, f"{split}/{CLASSES[genre]}/{number // 2}", (genre,), audio, audio.max() / 32768)


def write_tones(data_dir: Path, name: str = "tones", counts=(("train", 6), ("validation", 3), ("test", 3))) -> Path:
    """Write a data set of four classes at 8 kHz. The clips have different, irregular lengths; a track has two clips."""
    folder = locate.directory(data_dir, name, 8000)
    for split, count in counts:
        clips = [tone_clip(split, g, n, 2100 + 371 * n + g) for g in range(4) for n in range(count)]
        tfrecord.write_shards(folder, name, split, clips, num_shards=2)
    facts = {"name": name, "sample_rate": 8000, "labels": CLASSES, "splits": {split: {} for split, _ in counts}}
    passport.write(folder, facts)
    return folder


@pytest.fixture(scope="session")
def published_weights() -> Path:
    """Return the file of the published weights "musicnn"; skip the test if they are not in the cache and cannot be fetched."""
    try:
        return musicnn.path("musicnn")
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", autouse=True)
def without_the_slow_baseline():
    """Let reports find no published weights: their baseline takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(musicnn, "cached", lambda name: False)
        yield


@pytest.fixture(scope="session")
def tones(tmp_path_factory) -> Path:
    """Return the data directory that holds the data set "tones"."""
    data_dir = tmp_path_factory.mktemp("data")
    write_tones(data_dir)
    return data_dir


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    """Return the folder of the data set of `report_runs`."""
    from report_runs import make_data_set

    return make_data_set(tmp_path_factory.mktemp("data"))


@pytest.fixture
def nothing_rendered(monkeypatch):
    """Let the report compose its figures and write empty files in their place: most of its time is Matplotlib's text layout."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).write_bytes(b""))


def small_config(data_dir: Path, model: str = "bytenet", **changes):
    """Return the config of `small_run.py` on the tones in `data_dir`. `changes` are config keys with `__` for each dot."""
    config = small_run.get_config(model)
    for key, value in ({"data__data_dir": str(data_dir)} | changes).items():
        configs.override(config, key.replace("__", "."), value)
    configs.validate(config)
    return config


def run_module(module: str, *arguments: str, devices: int = 1, hide: tuple[str, ...] = (), **options) -> subprocess.Popen:
    """Start `python -m module arguments` in the repository root.

    The process has `devices` CPU devices, and cannot import the modules `hide`. `options` go to `Popen`.
    """
    hiding = f"import sys; sys.modules.update(dict.fromkeys({list(hide)!r})); " if hide else ""
    start = f"{hiding}import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment["GENRE_JAX_CACHE"] = str(ROOT / ".cache" / "children")  # without weights: `without_the_slow_baseline`
    return subprocess.Popen(
        [sys.executable, "-c", start, *arguments],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def finish(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    """Wait for a command, check its exit code, and return its standard output and standard error."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"exit {process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
    return out, err


@pytest.fixture
def call_main(monkeypatch, capsys):
    """A function of command-line arguments that runs `genre_jax.main` in this process, which takes a tenth of the time of a child.

    It returns standard output and standard error, and asserts the exit code.
    """
    from absl import flags

    from genre_jax import console, main

    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        for flag in flags.FLAGS.get_key_flags_for_module(main):
            flag.unparse()
        flags.FLAGS.unparse_flags()
        monkeypatch.setattr(sys, "argv", ["main", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            console.run(main.main, console.parse_flags)
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, f"{out}\n{err}"
        return out, err

    return call
