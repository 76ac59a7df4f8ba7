"""Damaged inputs: audio files, CSV files, folders of runs and files of weights, each with seeded damage.

Every function takes a number of cases and returns a `Tally`. Each case must end whole or be refused in one sentence; a
traceback, a crash, a hang of more than `SECONDS` or more than `MEMORY` bytes is a fault. All code under test runs in child
processes, so that a fault costs one case.
"""

import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax.bench.chaos import mutations
from genre_jax.console import UserError

OUTCOMES = ("whole", "refused in a sentence", "traceback", "crash", "hang", "memory")
WHOLE, REFUSED, TRACEBACK, CRASH, HANG, MEMORY_FAULT = OUTCOMES
SECONDS, MEMORY = 30.0, 2 << 30
RATE = 16_000  # Hz
UNEXPECTED = "the decoder failed with an unexpected error"  # a sentence around an exception that should not occur
_SHOWN = 20  # faults that a tally lists

Change = Callable[[bytes, np.random.Generator], bytes]
Opened = Callable[[Path], object]  # what a child does with the path of a case


@dataclasses.dataclass
class Tally:
    """The result of some cases: `counts` {outcome: cases}, and the `faults` as (seed, outcome, what was said)."""

    counts: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    faults: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)

    def add(self, seed: int, outcome: str, text: str) -> None:
        """Count a case."""
        self.counts[outcome] += 1
        if outcome not in (WHOLE, REFUSED) and len(self.faults) < _SHOWN:
            self.faults.append((seed, outcome, text))


# ---------------------------------------------------------------- child processes


def run(open_task: Callable[..., Opened], arguments: tuple, cases: Iterable[tuple[int, Path]]) -> Tally:
    """Open a task in a child process by `open_task(*arguments)`, and let it do each case (seed, path) in turn.

    The path of a case is removed after it.
    """
    tally = Tally()
    child: _Child | None = None
    try:
        for seed, path in cases:
            child = child or _Child(open_task, arguments)
            outcome, text = child.result(path)
            tally.add(seed, outcome, text)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            if outcome in (CRASH, HANG, MEMORY_FAULT):
                child.end()
                child = None
    finally:
        if child:
            child.end()
    return tally


class _Child:
    """A process that does one case after the other."""

    def __init__(self, open_task: Callable[..., Opened], arguments: tuple) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(child_pipe, open_task, arguments), daemon=True)
        self._process.start()
        child_pipe.close()
        self._pipe.recv()

    def result(self, path: Path) -> tuple[str, str]:
        """Returns the outcome of a case, and what was said."""
        try:
            self._pipe.send(path)
            if self._pipe.poll(SECONDS):
                return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            return CRASH, f"exit code {self._process.exitcode}"
        return HANG, f"more than {SECONDS:g} s"

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, open_task: Callable[..., Opened], arguments: tuple) -> None:
    """The main function of a child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    task = open_task(*arguments)
    before = _peak()
    resource.setrlimit(resource.RLIMIT_DATA, (_data() + MEMORY, resource.RLIM_INFINITY))
    pipe.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            path = pipe.recv()
            try:
                task(path)
                outcome, text = WHOLE, ""
            except UserError as error:
                outcome, text = TRACEBACK if UNEXPECTED in str(error) else REFUSED, str(error)
            except MemoryError as error:
                outcome, text = MEMORY_FAULT, str(error)
            except BaseException as error:  # every other exception is what the benchmark looks for
                where = traceback.extract_tb(error.__traceback__)[-1]
                outcome, text = TRACEBACK, f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            if outcome in (WHOLE, REFUSED) and _peak() > before + MEMORY:
                outcome, text = MEMORY_FAULT, f"{_peak() / 2**30:.1f} GiB"
            pipe.send((outcome, text))


def _peak() -> int:
    """Returns the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _data() -> int:
    """Returns the private memory that this process has allocated, in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


def _damaged(
    originals: list[Path], folder: Path, cases: int, seed: int, change: Change = mutations.damage
) -> Iterator[tuple[int, Path]]:
    """Write copies of the files in turn into `folder`, damaged by `change`; yield (seed, path) of each."""
    folder.mkdir()
    for number in range(seed, seed + cases):
        original = originals[number % len(originals)]
        path = folder / f"{number}{original.suffix}"
        path.write_bytes(change(original.read_bytes(), np.random.default_rng(number)))
        yield number, path


# ---------------------------------------------------------------- audio


def audio_prepare(cases: int, seed: int = 0, workers: int = 2) -> Tally:
    """Decode damaged audio files as `prepare` does, in its pool of processes."""
    from genre_jax.datasets.types import Item, load_file
    from genre_jax.prepare.workers import Limits, renderer

    tally = Tally()
    with tempfile.TemporaryDirectory() as top, renderer(load_file, RATE, workers, Limits(SECONDS, MEMORY / 2**30)) as pool:
        files = _damaged(write_audio(Path(top)), Path(top, "cases"), cases, seed)
        for item, result in pool(Item(str(number), "", ("x",), path=str(path)) for number, path in files):
            reason = result if isinstance(result, str) else ""
            tally.add(int(item.name), _of_quarantine(reason), reason)
            Path(item.path or "").unlink()
    return tally


def _of_quarantine(reason: str) -> str:
    """Returns the outcome of a clip from the reason in quarantine.csv, "" for a clip that can be used."""
    begins = {
        "the decoder crashed": CRASH,
        "time limit": HANG,
        "memory limit": MEMORY_FAULT,
        UNEXPECTED: TRACEBACK,
    }
    known = next((outcome for start, outcome in begins.items() if reason.startswith(start)), REFUSED)
    return known if reason else WHOLE


def audio_tag(cases: int, seed: int = 0) -> Tally:
    """Tag damaged audio files with a small network."""
    with tempfile.TemporaryDirectory() as top:
        files = _damaged(write_audio(Path(top)), Path(top, "cases"), cases, seed)
        return run(_open_tagger, (write_weights(Path(top, "network.safetensors")),), files)


def _open_tagger(weights: Path) -> Opened:
    from genre_jax.tagger import Tagger

    tagger = Tagger(weights)
    tagger.tags(np.zeros(RATE, np.float32), RATE)  # compiles
    return tagger.tags


def write_audio(folder: Path, seconds: float = 1.5) -> list[Path]:
    """Write a sound of `seconds` as files of eight formats; return their paths."""
    import soundfile

    rate = 48_000  # Opus has no other rate of the usual ones
    time = np.arange(round(seconds * rate)) / rate
    samples = 0.3 * np.sin(2 * np.pi * time[:, None] * [220.0, 331.0]) + 0.01 * np.random.default_rng(0).normal(
        size=(len(time), 2)
    )
    formats = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III", "aiff": "PCM_24"}
    paths = []
    for extension, subtype in formats.items():
        paths.append(folder / f"sound.{extension}")
        container = "OGG" if extension == "opus" else extension.upper()
        soundfile.write(paths[-1], samples, rate, subtype=subtype, format=container)
    for extension, codec in (("m4a", "aac"), ("webm", "libopus")):
        paths.append(folder / f"sound.{extension}")
        _write_av(paths[-1], codec, samples.astype(np.float32), rate)
    return paths


def _write_av(path: Path, codec: str, samples: np.ndarray, rate: int) -> None:
    """Encode samples float32 (samples, 2) with FFmpeg."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, layout="stereo")
        source: Any = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout="stereo")
        source.sample_rate = rate
        buffer: Any = av.AudioFifo()
        for frame in av.AudioResampler(format=stream.format, layout="stereo", rate=rate).resample(source):
            buffer.write(frame)
        while (frame := buffer.read(stream.frame_size or 960) or buffer.read()) is not None:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# ---------------------------------------------------------------- tables


def tables(cases: int, seed: int = 0) -> Tally:
    """Read damaged CSV files as `prepare` does, up to the point where it would decode."""
    with tempfile.TemporaryDirectory() as top:
        path = Path(top, "songs.csv")
        rows = [
            '"long, take 2.wav",rock|loud,,train,0.5,1',
            "b.wav, jazz | rock |jazz,one,test,,",
            "Beyoncé/Déjà Vu.mp3,pop,,,,",
        ]
        rows += [f"folder/{number}.flac,pop,album {number // 4},,{number},2.5" for number in range(20)]
        path.write_text("\n".join(["path,labels,track,split,start,duration", *rows]) + "\n", encoding="utf-8")
        return run(_open_table, (), _damaged([path], Path(top, "cases"), cases, seed))


def _open_table() -> Opened:
    from genre_jax.datasets import DATASETS
    from genre_jax.prepare import build, parts
    from genre_jax.prepare.workers import Limits

    def read(path: Path) -> None:
        source = DATASETS["folder"](path)
        splits = build.assign_splits(source.items, 0.1, 0.1)
        parts.fingerprint(source, splits, RATE, Limits())
        size = parts.clip_bytes([item for items in splits.values() for item in items], RATE, lambda items: iter(()))
        parts.plan(path.parent, splits, size)

    return read


# ---------------------------------------------------------------- folders of runs


def run_folders(cases: int, seed: int = 0) -> Tally:
    """Write the report of runs in which one file is damaged."""
    with tempfile.TemporaryDirectory() as top:
        whole = write_run(Path(top, "whole"))
        copies = _damaged_runs(whole, Path(top, "runs"), cases, seed)
        return run(_open_report, (Path(top, "report"),), copies)


def _damaged_runs(whole: Path, folder: Path, cases: int, seed: int) -> Iterator[tuple[int, Path]]:
    names = sorted(path.name for path in whole.iterdir())
    for number in range(seed, seed + cases):
        rng = np.random.default_rng(number)
        copy = folder / str(number)
        shutil.copytree(whole, copy)
        name = names[number % len(names)]
        data = (whole / name).read_bytes()
        change = mutations.damage_npz if name.endswith(".npz") else mutations.damage_json
        (copy / name).write_bytes((change if rng.random() < 0.5 else mutations.damage)(data, rng))
        yield number, copy


def _open_report(output: Path) -> Opened:
    from genre_jax.report import figures, page

    figures.DPI = 20  # the drawing is under test, and not the compression of its pixels

    return lambda workdir: page.write_report([workdir], output)


def write_run(workdir: Path, clips: int = 24, classes: int = 4) -> Path:
    """Write the files of a finished run, as training does, without its data set; return its folder."""
    from genre_jax import metrics

    workdir.mkdir(parents=True)
    rng = np.random.default_rng(0)
    clip = np.repeat(np.arange(clips, dtype=np.int32), 2)
    track, labels = clip // 3, np.eye(classes, dtype=np.uint8)[clip % classes]
    logits = rng.normal(size=(len(clip), classes)).astype(np.float32) + 2 * labels
    loss = -np.log(metrics.softmax(logits)[labels > 0]).astype(np.float32)
    columns: dict[str, Any] = {"logits": logits, "labels": labels, "loss": loss, "clip": clip, "track": track}
    columns["target"] = np.int32(clip % classes)
    names: dict[str, Any] = {key: np.array([f"{key} {n}" for n in range(clips)]) for key in ("clip_names", "track_names")}
    file = io.BytesIO()
    np.savez_compressed(
        file, start=np.int32(clip % 2 * 4000), classes=np.array([f"class {n}" for n in range(classes)]),
        sample_rate=RATE, samples=4000, **columns, **names,
    )  # fmt: skip
    (workdir / "predictions.npz").write_bytes(file.getvalue())
    results: dict[str, Any] = {"schema": 1, "run": "chaos", "step": 40, "split": "test", "data_set": "none", "task": "single"}
    results |= {"sample_rate": RATE, "directory": str(workdir / "gone"), "windows": len(clip), "clips": clips}
    results |= {"tracks": clips // 3, "parameters": 8_041_219, "train_seconds": 75.0, "clips_per_second": 10.0}
    results |= metrics.summarise(columns, "single")
    config = {"name": "chaos", "seed": 1, "data": {"train": "train", "samples": 4000}, "model": {"stages": [1, 2]}}
    environment = {"jax": "0.12.0", "devices": "1 × cpu"}
    for name, values in (("results", results), ("config", config), ("environment", environment)):
        (workdir / f"{name}.json").write_text(json.dumps(values, indent=2))
    rest = {"loss": 1.0, "accuracy": 0.5, "learning_rate": 0.1, "gradient_norm": 1.0}
    lines = [{"step": step, "split": split} | rest for step in range(1, 41) for split in ("train", "validation")]
    timings = [{"step": step, "seconds": 2.0 * step, "clips_per_second": 100.0, "waiting": 0.25} for step in range(1, 41)]
    for name, rows in (("metrics", lines), ("timings", timings)):
        (workdir / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workdir


# ---------------------------------------------------------------- weights


def weights(cases: int, seed: int = 0) -> Tally:
    """Load damaged files of `save_pretrained`."""
    with tempfile.TemporaryDirectory() as top:
        original = write_weights(Path(top, "network.safetensors"))
        files = _damaged([original], Path(top, "cases"), cases, seed, mutations.damage_safetensors)
        return run(_open_load, (), files)


def _open_load() -> Opened:
    import genre_jax

    return genre_jax.load


def write_weights(path: Path) -> Path:
    """Write an untrained network of a few thousand parameters as `save_pretrained` does; return `path`."""
    import jax

    from genre_jax import config as configs
    from genre_jax import forward
    from genre_jax.weights import pretrained

    config = configs.base("chaos")
    config.data.update(sample_rate=RATE, samples=RATE // 2)
    configs.choose(config, "frontend", "log_mel", n_fft=512, hop_length=256, n_mels=16)
    configs.choose(config, "model", "snn", hidden=[16])
    labels = ("jazz", "rock")
    variables = forward.build(config, len(labels)).init(jax.random.key(0), config.data.samples)
    return pretrained.write(pretrained.Trained(config, labels, variables), path)
