"""The small data set and the small run that the chaos benchmark kills and damages."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import genre_jax
from genre_jax.console import UserError
from genre_jax.data import locate
from genre_jax.prepare import passport, tfrecord

RATE = 8_000
CLASSES = ("low", "mid", "high", "noise")
SPLITS = {"train": 12, "validation": 4, "test": 4}  # clips of each class
STEPS = 24
# What a workdir holds.
WORKDIR = {
    "checkpoints", "config.json", "labels.json", "environment.json", "metrics.jsonl", "timings.jsonl", "results.json",
    "predictions.npz", "tensorboard", "report",
}  # fmt: skip
READERS = ("threads", "tfdata")
ROOT = Path(genre_jax.__file__).parents[1]
SETTINGS = {
    "data.name": "tones",
    "data.samples": 2048,
    "model.width": 4,
    "model.max_dilation": 2,
    "train.batch_size": 8,
    "train.duration": f"{STEPS} steps",
    "train.log_every": "2 steps",
    "train.evaluate_every": "8 steps",
    "train.checkpoint_every": "4 steps",
    "augment.shift": 0.5,
}


def write_tones(data_dir: Path) -> Path:
    """Write noisy tones of 0.3 to 0.5 s in four classes as the data set "tones"; return its folder."""
    folder = locate.directory(data_dir, "tones", RATE)
    for number, (split, count) in enumerate(SPLITS.items()):
        rng = np.random.default_rng(number)
        clips = []
        for label in range(len(CLASSES)):
            for index in range(count):
                time = np.arange(rng.integers(2400, 4000)) / RATE
                pitch = (200, 500, 1200, 0)[label] * rng.uniform(0.9, 1.1)
                wave = 0.4 * np.sin(2 * np.pi * pitch * time) + rng.normal(0, 0.05 if pitch else 0.3, len(time))
                pcm = np.round(np.clip(wave, -1, 32767 / 32768) * 32768).astype(np.int16)
                name = f"{split}/{CLASSES[label]}/{index:02d}"
                clips.append(tfrecord.Clip(name, name, (label,), pcm, int(np.max(pcm)) / 32768))
        tfrecord.write_shards(folder, "tones", split, clips, num_shards=2)
    passport.write(
        folder, {"name": "tones", "sample_rate": RATE, "labels": list(CLASSES), "splits": {key: {} for key in SPLITS}}
    )
    return folder


def command(data_dir: Path, workdir: Path, reader: str = "threads", **changes: object) -> list[str]:
    """The command of the small run; `changes` are config keys with "__" for each dot."""
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    values = [f"--config.{key}={value}" for key, value in settings.items()]
    return [
        *(sys.executable, "-m", "genre_jax.main", "--config=bytenet:demo", f"--workdir={workdir}"),
        *(f"--compilation_cache={data_dir / 'compiled'}", f"--config.data.data_dir={data_dir}"),
        *(f"--config.data.reader={reader}", *values),
    ]


def start(arguments: list[str], **options) -> subprocess.Popen:
    """Start a command whose output is kept as text."""
    return subprocess.Popen(arguments, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def finish(arguments: list[str]) -> tuple[int, str, str]:
    """Run a command to its end: (exit code, standard output, standard error)."""
    process = start(arguments)
    out, err = process.communicate()
    return process.returncode, out, err


def outcome(workdir: Path) -> dict[str, bytes]:
    """Everything of a finished run that must not depend on interruptions, as bytes by name."""
    import orbax.checkpoint as ocp

    found = {"metrics.jsonl": (workdir / "metrics.jsonl").read_bytes()}
    with np.load(workdir / "predictions.npz") as file:
        found |= {f"predictions {key}": np.ascontiguousarray(file[key]).tobytes() for key in file.files}
    results = json.loads((workdir / "results.json").read_text())
    del results["train_seconds"], results["clips_per_second"], results["peak_memory_bytes"]
    found["results.json"] = json.dumps(results).encode()
    saved = ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(STEPS) / "model").resolve())
    import jax

    for path, leaf in jax.tree_util.tree_leaves_with_path(saved):
        found[jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return found


def check_equal(workdir: Path, expected: dict[str, bytes]) -> None:
    """Raise `UserError` unless a finished run has the `outcome` of an undisturbed one, and left no stray file."""
    actual = outcome(workdir)
    if wrong := [key for key in expected if expected[key] != actual.get(key)]:
        raise UserError(f"the run in {workdir} differs from an undisturbed one in {', '.join(wrong[:5])}")
    if stray := strays(workdir, WORKDIR):
        raise UserError(f"stray files in {workdir}: {', '.join(stray)}")


def strays(folder: Path, expected: set[str]) -> list[str]:
    """The names of files below `folder` that are neither below the `expected` names nor expected themselves."""
    names = {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
    temporary = {str(path.relative_to(folder)) for path in folder.rglob("*") if "tmp" in path.name or path.suffix == ".partial"}
    return sorted(names - expected | temporary)
