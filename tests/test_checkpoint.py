"""Tests of checkpoints: the best and the last k are kept; damage is found, told, and set aside."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from conftest import CLASSES, ROOT, small_config
from damage import flips

from genre_jax import checksum, train
from genre_jax import config as configs
from genre_jax.checkpoint import Checkpoints
from genre_jax.console import UserError
from genre_jax.loop import train_and_evaluate
from genre_jax.run import Run

CONFIG, LABELS = configs.base("x"), ("a", "b")
LARGE = np.random.default_rng(0).normal(size=200_000).astype(np.float32)


def state_of(value: float, **changes) -> train.TrainState:
    state = train.TrainState(
        step=np.array(value, np.int32),
        params={"w": np.full(3, value, np.float32), "b": np.full(2, value, ml_dtypes.bfloat16)},
        batch_stats={},
        frontend={},
        ema={},
        opt_state=({"mu": np.full((2, 2), value, np.float32)}, np.array(value, np.int32)),
        skipped=np.array(0, np.int32),
    )
    return state.replace(**changes)


def opened(workdir: Path, config=CONFIG, labels=LABELS, **options):
    return contextlib.closing(Checkpoints(workdir, config, labels, **options))


def write(workdir: Path, *steps: int, score: float | None = None) -> None:
    with opened(workdir) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_of(step), None if score is None else {"score": score})


def resumed(workdir: Path) -> tuple[int, float] | None:
    """Return the step and the parameters' value of the state that a run resumes from."""
    with opened(workdir) as checkpoints:
        if (found := checkpoints.resume(state_of(0))) is None:
            return None
    state, step, _ = found
    jax.tree.map(np.testing.assert_array_equal, state, state_of(step))
    return step, float(state.params["w"][0])


def flip_arrays(workdir: Path, step: int, item: str) -> None:
    """Flip a bit in each file that holds arrays of an item."""
    for path in (workdir / "checkpoints" / str(step) / item / "d").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def change_about(workdir: Path, step: int, /, **changes) -> None:
    path = workdir / "checkpoints" / str(step) / "about/metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_best_and_last_are_kept_and_ties_go_to_the_latest(tmp_path):
    with opened(tmp_path) as checkpoints:
        for step, score in ((1, 0.1), (2, 0.9), (3, None), (4, 0.3), (5, 0.9), (6, None), (7, 0.2)):
            checkpoints.save(step, state_of(step), {"score": score} if score is not None else None)
        checkpoints.wait()
        assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [5, 6, 7]
    with opened(tmp_path) as checkpoints:
        assert (checkpoints.choose("best"), checkpoints.choose("last"), checkpoints.latest()) == (5, 7, 7)
        for which, expected in (("best", 5), ("last", 7)):
            restored, step = checkpoints.final(which, state_of(0))
            assert step == expected
            jax.tree.map(np.testing.assert_array_equal, restored, state_of(expected))


def test_a_saved_state_may_be_overwritten_at_once(tmp_path):
    """The train step donates its buffers. Therefore the asynchronous write must not read them."""
    with opened(tmp_path) as checkpoints:
        state = state_of(1)
        checkpoints.save(1, state)
        state.params["w"][:] = -1
        checkpoints.wait()
        np.testing.assert_array_equal(checkpoints.restore_model(1)["params"]["w"], [1, 1, 1])


def test_no_checkpoint_is_a_sentence(tmp_path):
    with opened(tmp_path) as checkpoints:
        assert checkpoints.resume(state_of(0)) is None
        with pytest.raises(UserError, match="holds no checkpoint yet"):
            checkpoints.choose("best")


def test_a_checkpoint_of_the_same_step_is_replaced_and_gives_its_progress(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1))
        checkpoints.save(2, state_of(2), progress={"pending": [1.5]})
        assert checkpoints.resume(state_of(0))[1:] == (2, {"pending": [1.5]})
        checkpoints.save(2, state_of(2), {"score": 0.5})
    with opened(tmp_path) as checkpoints:
        assert checkpoints.resume(state_of(0))[1:] == (2, None)
        assert checkpoints.choose("best") == 2


# ---------------------------------------------------------------- damage


def test_the_checksum_covers_names_types_shapes_and_bytes():
    one = {"a": np.zeros((2, 3), np.float32), "b": np.ones((), ml_dtypes.bfloat16)}
    assert checksum.of_arrays(one) == checksum.of_arrays(dict(reversed(one.items())))
    others = [one | {"a": change} for change in (one["a"].T, one["a"].astype(np.int32), one["a"] + 1)]
    others += [{"c": one["a"], "b": one["b"]}, {"a": one["a"]}]
    assert len({checksum.of_arrays(each) for each in [one, *others]}) == 6
    with pytest.raises(ValueError, match="Out of range float"):
        checksum.of_json([float("nan")])


@pytest.mark.parametrize("item", ["model", "training"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path, capsys, item):
    write(tmp_path, 1, 2)
    (tmp_path / "damaged/2").mkdir(parents=True)
    flip_arrays(tmp_path, 2, item)
    assert resumed(tmp_path) == (1, 1)
    assert re.fullmatch(
        r"the checkpoint of step 2 is damaged \(.+\): it is now .*/damaged/2_2, and is not used\n", capsys.readouterr().out
    )
    assert not any((tmp_path / "damaged/2").iterdir()) and any((tmp_path / "damaged/2_2").iterdir())
    write(tmp_path, 2)
    assert resumed(tmp_path) == (2, 2)
    flip_arrays(tmp_path, 1, "model")
    flip_arrays(tmp_path, 2, "model")
    assert resumed(tmp_path) is None
    assert f"no whole checkpoint is left in {tmp_path}: the run starts anew" in capsys.readouterr().out


def test_an_array_with_other_numbers_is_found_if_orbax_finds_nothing(tmp_path, capsys):
    """The items of two checkpoints are exchanged. Each of them is whole."""
    write(tmp_path, 1, 2)
    for item in ("model", "training"):
        shutil.rmtree(tmp_path / "checkpoints/2" / item)
        shutil.copytree(tmp_path / "checkpoints/1" / item, tmp_path / "checkpoints/2" / item)
        assert resumed(tmp_path) == (1, 1)
        assert f"its item {item!r} have another checksum" in capsys.readouterr().out
        write(tmp_path, 2)


def test_a_changed_score_does_not_change_which_checkpoint_is_the_best(tmp_path, capsys):
    write(tmp_path, 1, score=0.9)
    write(tmp_path, 2, score=0.1)
    change_about(tmp_path, 2, metrics={"score": 0.95})
    with opened(tmp_path) as checkpoints:
        assert checkpoints.choose("best") == 1
    assert "the checkpoint of step 2 is damaged (its item 'about' has another checksum" in capsys.readouterr().out


def test_a_damaged_best_checkpoint_is_not_evaluated(tmp_path, capsys):
    write(tmp_path, 1, score=0.9)
    write(tmp_path, 2, score=0.1)
    flip_arrays(tmp_path, 1, "model")
    with opened(tmp_path) as checkpoints:
        assert checkpoints.final("best", state_of(0))[1] == 2
        assert "the checkpoint of step 1 is damaged" in capsys.readouterr().out
        flip_arrays(tmp_path, 2, "model")
        with pytest.raises(UserError, match="holds no whole checkpoint"):
            checkpoints.final("best", state_of(0))


def test_prediction_refuses_a_damaged_checkpoint_and_writes_nothing(tmp_path):
    write(tmp_path, 1, 2)
    flip_arrays(tmp_path, 2, "model")
    before = sorted(tmp_path.rglob("*"))
    cure = "run the training command again, which sets it aside and goes on from the one before"
    with (
        opened(tmp_path, read_only=True) as checkpoints,
        pytest.raises(UserError, match=rf"checkpoints/2 is damaged \(.*: {cure}"),
    ):
        checkpoints.restore_model(2)
    (tmp_path / "results.json").write_text("{}")
    change_about(tmp_path, 1, step=7)
    with pytest.raises(UserError, match=f"checkpoints/1 is damaged .*: delete results.json and {cure}"):
        Checkpoints(tmp_path, CONFIG, LABELS, read_only=True)
    (tmp_path / "results.json").unlink()
    assert sorted(tmp_path.rglob("*")) == before
    with opened(tmp_path / "nothing", read_only=True) as checkpoints:
        assert checkpoints.latest() is None
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(tmp_path, capsys, read_only):
    write(tmp_path / "run", 1, 2)
    folder = tmp_path / "run/checkpoints"
    silent = 0
    for place in flips(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size), 40):
        if read_only:
            try:
                with opened(tmp_path / "run", read_only=True) as checkpoints:
                    np.testing.assert_array_equal(checkpoints.restore_model(2)["params"]["w"], [2, 2, 2], place)
                    silent += 1
            except UserError:
                pass
            continue
        found = resumed(tmp_path / "run")
        assert found in ((1, 1), (2, 2)), place
        said = capsys.readouterr().out
        for step in (1, 2):
            if (damaged := tmp_path / "run/damaged" / str(step)).exists():
                assert f"the checkpoint of step {step} is damaged" in said, place
                damaged.rename(folder / str(step))
    assert silent < 40


def test_a_checkpoint_of_another_config_or_other_labels_is_refused(tmp_path):
    write(tmp_path, 1)
    free, other = configs.base("x"), configs.base("x")
    free.devices, other.seed = 3, 1
    with opened(tmp_path, free) as checkpoints:
        assert checkpoints.latest() == 1
    changed = r"\.json of .* has changed since its checkpoint of step 1 was written: restore the file, or train in another"
    with pytest.raises(UserError, match=f"^config{changed}"):
        Checkpoints(tmp_path, other, LABELS)
    with pytest.raises(UserError, match=f"^labels{changed}"):
        Checkpoints(tmp_path, CONFIG, ("b", "a"), read_only=True)
    with opened(tmp_path) as checkpoints, pytest.raises(UserError, match="holds arrays of other names, types or shapes"):
        checkpoints.resume(state_of(0, params={"w": np.zeros(4, np.float32)}))


def test_a_checkpoint_without_checksums_is_refused(tmp_path):
    write(tmp_path, 1)
    folder = tmp_path / "checkpoints/1"
    shutil.rmtree(folder / "about")
    listed = (folder / "_CHECKPOINT_METADATA").read_text()
    (folder / "_CHECKPOINT_METADATA").write_text(listed.replace('"about"', '"else"'))
    with pytest.raises(UserError, match="checkpoints/1 was written by an earlier genre_jax, without checksums: train again"):
        Checkpoints(tmp_path, CONFIG, LABELS)
    (folder / "_CHECKPOINT_METADATA").write_text(listed)  # a checkpoint whose deletion was killed
    assert resumed(tmp_path) is None


def test_errors_that_say_nothing_about_the_files_are_not_taken_for_damage(tmp_path, monkeypatch):
    write(tmp_path, 1)
    for error in (
        MemoryError(),
        PermissionError(13, "Permission denied"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
        ValueError("RESOURCE_EXHAUSTED: Error opening local file [os_error_code='24']"),  # too many open files
    ):

        def fail(*arguments, error=error, **options):
            raise error

        with opened(tmp_path) as checkpoints:
            monkeypatch.setattr(checkpoints._manager, "restore", fail)
            with pytest.raises(type(error)):
                checkpoints.resume(state_of(0))
    assert resumed(tmp_path) == (1, 1)


# ---------------------------------------------------------------- what is not written


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    with opened(tmp_path) as checkpoints:
        broken = state_of(2, params={"w": np.array([0, np.nan], np.float32), "b": np.array([np.inf], ml_dtypes.bfloat16)})
        sentence = "the state at step 2 holds NaN or infinity in params/b, params/w, and is not saved; the last .* is none$"
        with pytest.raises(UserError, match=sentence):
            checkpoints.save(2, broken)
        checkpoints.save(1, state_of(1))
        with pytest.raises(UserError, match="in metrics/score, .* is of step 1$"):
            checkpoints.save(2, state_of(2), {"score": float("nan")})
        assert checkpoints.latest() == 1


def test_a_full_disk_is_told_before_the_save(tmp_path, monkeypatch):
    with opened(tmp_path) as checkpoints:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 500_000))
        with pytest.raises(
            UserError, match="needs 0.88 MB in .*, and 0.5 MB are free: free some space and run the same command"
        ):
            checkpoints.save(1, state_of(1, params={"w": LARGE}))
        assert checkpoints.latest() is None
        checkpoints.save(1, state_of(1))


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from genre_jax import config, console, train
from genre_jax.checkpoint import Checkpoints
def main(argv):
    checkpoints = Checkpoints(Path(argv[1]), config.base("x"), ["a"])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    params = {"w": np.random.default_rng(0).normal(size=200_000)}
    checkpoints.save(1, train.TrainState(np.int32(1), params, {}, {}, {}, (), np.array(0, np.int32)))
    checkpoints.wait()
console.run(main)
"""


def test_an_error_of_the_background_writing_is_one_sentence(tmp_path):
    """A limit on the size of files stands for a disk that fills up after its free space was checked."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: a checkpoint cannot be written to .*/checkpoints \(File too large\): correct this, .*\n", done.stderr
    )


# ---------------------------------------------------------------- runs


def test_a_run_whose_newest_checkpoint_is_damaged_gives_the_same_results(tones, tmp_path, capsys):
    config = small_config(tones, "snn", devices=1, train__keep=3)
    whole = train_and_evaluate(config, tmp_path)
    (tmp_path / "results.json").unlink()
    flip_arrays(tmp_path, 6, "training")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read as JSON"):
        train_and_evaluate(config, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="config.json of .* has changed since its checkpoint"):
        train_and_evaluate(small_config(tones, "snn", devices=1, train__keep=3, seed=1), tmp_path)
    capsys.readouterr()
    again = train_and_evaluate(config, tmp_path)
    said = capsys.readouterr().out
    assert "the checkpoint of step 6 is damaged" in said and "from its checkpoint at step 4" in said
    for key in ("raw", "clip", "track", "step"):
        assert again[key] == whole[key]


def test_init_from_takes_the_weights_of_another_run(tones, tmp_path, capsys):
    config = small_config(tones, "resnet")
    train_and_evaluate(config, tmp_path / "donor")
    with opened(tmp_path / "donor", config, CLASSES) as checkpoints:
        donor = checkpoints.restore_model(checkpoints.choose("best"))
    run = Run(small_config(tones, "resnet", init_from=str(tmp_path / "donor"), seed=5))
    state = jax.device_get(run.initial_state())
    assert f"weights of {tmp_path}/donor: 34 of 34 leaves loaded; fresh: none; unused: none" in capsys.readouterr().out
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(donor["params"]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert jax.tree.leaves(state.batch_stats)
    other = small_config(tones, "resnet", init_from=str(tmp_path / "donor"), model__width=6)
    with pytest.raises(
        UserError, match=r"donor' does not fit ResNet: \d+ of another shape \(.*bn1.* \(4,\) for .*bn1.* \(6,\)"
    ):
        Run(other).initial_state()
    with pytest.raises(
        UserError,
        match="'/nowhere' is not a source of weights: give a run's workdir, one of musicnn, musicnn-mtt, musicnn-vgg, musicnn-vgg-mtt, or a file or hf://owner/name",
    ):
        small_config(tones, init_from="/nowhere")
