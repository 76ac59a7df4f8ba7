"""Tests of checkpoints: the best and the last k are kept; weights of another run are loaded or refused."""

import jax
import numpy as np
import pytest
from conftest import small_config

from genre_jax import train
from genre_jax.checkpoint import Checkpoints
from genre_jax.console import UserError
from genre_jax.run import Run, train_and_evaluate


def state_of(value: float) -> train.TrainState:
    return train.TrainState(
        step=np.array(value, np.int32),
        params={"w": np.full(3, value, np.float32)},
        batch_stats={},
        frontend={},
        ema={},
        opt_state=(),
    )


def test_best_and_last_are_kept_and_ties_go_to_the_latest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, score in ((1, 0.1), (2, 0.9), (3, None), (4, 0.3), (5, 0.9), (6, None), (7, 0.2)):
        checkpoints.save(step, state_of(step), {"score": score} if score is not None else None)
    checkpoints.wait()
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [5, 6, 7]
    assert (checkpoints.best(), checkpoints.latest()) == (5, 7)
    assert (checkpoints.final("best"), checkpoints.final("last")) == (5, 7)
    restored = checkpoints.restore(state_of(0), 6)
    np.testing.assert_array_equal(restored.params["w"], [6, 6, 6])
    assert restored.step == 6
    checkpoints.close()


def test_a_saved_state_may_be_overwritten_at_once(tmp_path):
    """The train step donates its buffers. Therefore the asynchronous write must not read them."""
    checkpoints = Checkpoints(tmp_path)
    state = state_of(1)
    checkpoints.save(1, state)
    state.params["w"][:] = -1
    checkpoints.wait()
    np.testing.assert_array_equal(checkpoints.restore_model(1)["params"]["w"], [1, 1, 1])
    checkpoints.close()


def test_no_checkpoint_is_a_sentence(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        checkpoints.final("best")
    checkpoints.close()


def test_init_from_takes_the_weights_of_another_run(tones, tmp_path, capsys):
    config = small_config(tones, "resnet")
    train_and_evaluate(config, tmp_path / "donor")
    checkpoints = Checkpoints(tmp_path / "donor/checkpoints")
    donor = checkpoints.restore_model(checkpoints.final("best"))
    checkpoints.close()
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
        UserError, match="'/nowhere' is not a source of weights: give a run's workdir, a file, or hf://owner/name"
    ):
        small_config(tones, init_from="/nowhere")
