"""The files that one batch passes, from the read of a cut to the loss: README lists exactly them, and they stay few."""

import re
import sys
from pathlib import Path

import jax
from conftest import ROOT

from genre_jax import config as configs
from genre_jax import losses
from genre_jax.run import Run

MOST_FILES, MOST_LINES = 17, 3_300


def files_of_a_step(run: Run, monkeypatch) -> list[str]:
    """Files of genre_jax in the order in which they first execute, from the draw of a batch to its loss."""
    state = run.initial_state()
    executed: dict[str, None] = {}
    package = str(ROOT / "genre_jax") + "/"

    def profile(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(package) and code.co_name != "<module>":
            executed[str(Path(code.co_filename).relative_to(ROOT))] = None

    def values(*arguments):
        result = loss.values(*arguments)
        sys.setprofile(None)
        return result

    loss = losses.LOSSES[run.config.loss.name]
    monkeypatch.setitem(losses.LOSSES, run.config.loss.name, loss._replace(values=values))
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        batch = run.program.devices.shard(run.batches(0))
        _, metrics = run.program.train_step(state, run.constants, batch)
    finally:
        sys.setprofile(before)
    assert 0 < float(metrics["loss"]) < 10
    return list(executed)


def listed_in_readme() -> list[str]:
    """The files in the first column of the table under "Follow one batch"."""
    section = re.split(r"^## ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    (table,) = [part for part in section if part.startswith("Follow one batch")]
    return re.findall(r"^\| `(genre_jax/[\w/]+\.py)`", table, re.MULTILINE)


def test_readme_lists_the_files_that_a_batch_passes(tones, monkeypatch):
    data = {"data.name": "tones", "data.data_dir": str(tones), "devices": "1"}
    run = Run(configs.load(str(ROOT / "configs/bytenet.py") + ":demo", data))
    with jax.enable_x64(False):
        executed = files_of_a_step(run, monkeypatch)
    assert executed == listed_in_readme()
    lines = sum(len((ROOT / file).read_text().splitlines()) for file in executed)
    assert len(executed) <= MOST_FILES and lines <= MOST_LINES, (len(executed), lines)
