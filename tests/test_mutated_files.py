"""Damaged files of eight formats among good ones: one `tag` and one `prepare` lose nothing beside the bad files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import finish, run_module

from genre_jax.bench.chaos import inputs, mutations
from genre_jax.data import locate

COUNTS = [24, pytest.param(200, marks=pytest.mark.slow)]


@pytest.fixture(params=COUNTS)
def files(request, tmp_path) -> tuple[Path, list[Path], list[Path]]:
    """A folder of two classes with `request.param` damaged files; the good and the damaged files, eight formats each."""
    top = tmp_path / "music"
    good, damaged = [], []
    for genre in ("jazz", "rock"):
        (top / genre).mkdir(parents=True)
        good += inputs.write_audio(top / genre)
    for number in range(request.param):
        original = good[number % 8]
        damaged.append(top / ("jazz", "rock")[number % 2] / f"{number:03d}{original.suffix}")
        damaged[-1].write_bytes(mutations.damage(original.read_bytes(), np.random.default_rng(number)))
    return top, good, damaged


def test_tag_names_the_bad_files_and_tags_the_others(files, tmp_path):
    top, good, damaged = files
    weights = inputs.write_weights(tmp_path / "network.safetensors")
    process = run_module("genre_jax.tag", f"--workdir={weights}", "--json", str(top))
    out, err = finish(process, code=1)
    tagged = [json.loads(line)["file"] for line in out.splitlines()]
    errors = [line for line in err.splitlines() if not line.startswith("tag: ")]
    assert all(line.startswith("error: ") for line in errors), err
    refused = [line.removeprefix("error: ").split(": ")[0] for line in errors]
    assert sorted([*tagged, *refused]) == sorted(map(str, [*good, *damaged]))
    assert set(map(str, good)) <= set(tagged)
    assert inputs.UNEXPECTED not in err


def test_prepare_quarantines_the_bad_files_and_keeps_the_others(files, tmp_path):
    top, good, damaged = files
    arguments = (f"--source={top}", f"--data_dir={tmp_path / 'data'}", "--sample_rate=16000", "--workers=2")
    out, err = finish(run_module("genre_jax.prepare", *arguments))
    folder = locate.directory(tmp_path / "data", "music", 16000)
    kept = {row[0] for row in locate.read_passport(folder)["files"]["rows"]}
    with open(folder / "quarantine.csv", newline="") as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    names = [{str(path.relative_to(top)) for path in paths} for paths in (good, damaged)]
    assert kept | set(reasons) == names[0] | names[1] and not kept & set(reasons)
    assert names[0] <= kept
    assert "Traceback" not in out + err and not [reason for reason in reasons.values() if inputs.UNEXPECTED in reason]
