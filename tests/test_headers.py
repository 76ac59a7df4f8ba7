"""The commands in the headers of the configs: each prepares a small copy of its collection and trains on it.

The commands run as they stand there, in a folder of their own, with additions that make the network and the run small.
"""

import ast
import csv
import re
import shlex
from pathlib import Path

import audioset_tree
import collections_tree
import pytest
from conftest import ROOT, finish, run_module
from test_presets import FRONTEND, MODEL

from genre_jax import config as configs
from genre_jax import main
from genre_jax.atomic import read_json

EMBEDDED = ":demo"  # needs no collection; CI runs `make demo`
with open(ROOT / "third_party" / "audioset_music_labels.csv", encoding="utf-8", newline="") as labels:
    MIDS = tuple(row["mid"] for row in csv.DictReader(labels))
SOURCES = {
    "GTZAN": lambda top, command: collections_tree.gtzan(top, re.search(r"--split=(\S+)", command)[1], seconds=6.5),
    "FMA": lambda top, command: collections_tree.fma_small(top),
    "MUSAN": lambda top, command: collections_tree.musan(top),
    "MUSIC_SPEECH": lambda top, command: collections_tree.gtzan_music_speech(top),
    "HUNONSPEECH": lambda top, command: collections_tree.hunonspeech(top),
    "AUDIOSET": lambda top, command: audioset_tree.write(top, audioset_tree.clips(MIDS, 55)),  # more than 100 for evaluation
    "my_music": lambda top, command: collections_tree.musan(top),
}


def commands(file: Path) -> list[str]:
    """The lines of a config's header that begin with `python -m genre_jax.`, without what follows two spaces."""
    header = ast.get_docstring(ast.parse(file.read_text())).replace("\\\n        ", "")
    lines = [line.strip() for line in header.splitlines() if line.strip().startswith("python -m genre_jax.")]
    return [re.split(r" {2,}|(?<=:thesis) ", line)[0] for line in lines]


def small(config) -> dict[str, object]:
    """The keys that make a run small: the sizes of `test_presets`, one step, small batches."""
    sizes = {f"model.{key}": value for key, value in MODEL.get(config.model.name, {}).items()}
    if config.frontend.name.endswith("image") or config.frontend.get("height"):
        sizes |= {f"frontend.{key}": FRONTEND[key] for key in ("height", "width") if config.frontend[key]}
    return sizes | {
        "init_from": "",
        "head.start": "random",
        "train.batch_size": 4,
        "evaluate.batch_size": 4,
        "train.duration": "1 steps",
        "devices": 1,
        "data.reader": "threads",
    }


def prepare(command: str, folder: Path) -> None:
    """Run a `prepare` command on a small copy of the collection that stands after --source=."""
    place = re.search(r"--source=(\w+)", command)[1]
    source = folder / place
    if not source.exists():
        source.mkdir()
        SOURCES[place](source, command)
    arguments = [*shlex.split(command.replace(f"--source={place}", f"--source={source}"))[3:], f"--data_dir={folder}/data"]
    finish(run_module("genre_jax.prepare", *arguments, "--workers=1"))


FILES = sorted((ROOT / "configs").glob("*.py"))
FAST = [path for path in FILES if path.stem in ("folmer", "gmm")]  # the others take 15 s and more


@pytest.mark.parametrize("file", FAST, ids=lambda path: path.stem)
def test_the_first_commands_of_a_header_run(file, tmp_path, monkeypatch, call_main):
    run(file, tmp_path, monkeypatch, call_main, most=1)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_all_commands_of_a_header_run(file, tmp_path, monkeypatch, call_main):
    run(file, tmp_path, monkeypatch, call_main, most=99)


def run(file: Path, folder: Path, monkeypatch, call_main, most: int) -> None:
    """Run the commands of a header in `folder`, in their order, up to command number `most` that trains."""
    lines = [line for line in commands(file) if EMBEDDED not in line]
    specs = re.findall(r"configs/\S+", " ".join(lines))[:most]
    assert specs
    if most > 1 and any("my_music" in line for line in lines):
        lines.insert(0, "python -m genre_jax.prepare --source=my_music --name=my_music")
    if any(configs.load(str(ROOT / spec)).data.name == "audioset_music" for spec in specs):
        lines.insert(0, "python -m genre_jax.prepare --dataset=audioset_music --source=AUDIOSET")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(main, "report", lambda workdir: None)
    for line in dict.fromkeys(lines):
        if "genre_jax.prepare" in line:
            prepare(line, folder)
            continue
        train(line, folder, call_main)
        most -= 1
        if not most:
            return


def train(line: str, folder: Path, call_main) -> None:
    """Run a command that trains, at a small size, and look at what it leaves."""
    spec, *rest = [word.removeprefix("--config=") for word in shlex.split(line)[3:]]
    overrides = dict(word.removeprefix("--config.").split("=") for word in rest if "data" in word)
    config = configs.load(f"{ROOT}/{spec}", overrides)
    keys = [f"--config.{key}={value}" for key, value in small(config).items()]
    call_main(f"--config={ROOT}/{spec}", *rest, *keys)
    workdir = folder / "runs" / config.name
    results = read_json(workdir / "results.json", dict)
    assert results["step"] == 1 and results["windows"] > 0
    assert read_json(workdir / "config.json", dict)["made_by"]["config"] == f"{ROOT}/{spec}"
