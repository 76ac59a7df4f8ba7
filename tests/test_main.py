"""The command line: one sentence on standard error and exit 1, or exit 0; dry run, overfitting, profile."""

import re

import pytest
from conftest import ROOT, finish, run_module

from genre_jax import console
from genre_jax.console import UserError

SMALL = f"--config={ROOT}/tests/small_run.py:snn"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "error: --config is missing: give a config file, such as --config=bytenet:demo\n"),
        (["--config=bytenet"], "error: data set 'audioset_music' at 16000 Hz is not in 'data': make it with `python -m "
         "genre_jax.prepare --dataset=audioset_music --source=DIR --name=audioset_music --data_dir=data --sample_rate=16000`, "
         "or try --config=bytenet:demo, which needs no data\n"),
        ([SMALL, "--config.train.batchsize=3"], "error: unknown config key 'train.batchsize' (did you mean 'train.batch_size'?): "
         "choose one of train.accumulate, train.batch_size, train.checkpoint_every, train.duration, train.evaluate_every, "
         "train.keep, train.log_every, train.patience, train.skip_nonfinite\n"),
        ([SMALL, "-config.seed"], "error: unknown argument '-config.seed': config keys are set as --config.KEY=VALUE\n"),
    ],
    ids=["no config", "no data", "typo", "malformed"],
)  # fmt: skip
def test_errors_are_one_sentence(arguments, sentence, call_main):
    _, err = call_main(*arguments, code=1)
    assert err == sentence


def test_the_module_is_a_command():
    _, err = finish(run_module("genre_jax.main", SMALL, "--config.seeed=1"), code=1)
    assert err.startswith("error: unknown config key 'seeed' (did you mean 'seed'?): choose one of ")


def test_config_keys_are_told_from_flags():
    assert console.overrides(["--config.train.batch_size=8", "--config.name=a=b"]) == {"train.batch_size": "8", "name": "a=b"}
    with pytest.raises(UserError, match="unknown argument 'stray': config keys are set as --config.KEY=VALUE"):
        console.overrides(["stray"])


def test_an_unknown_name_lists_at_most_the_ten_nearest():
    names = [f"net{number:02d}" for number in range(14)] + ["zoo"]
    assert str(console.unknown("model", "zo", names)) == (
        "unknown model 'zo' (did you mean 'zoo'?): choose one of net00, net01, net02, net03, net04, net05, net06, net07, net08, zoo, "
        "and 5 more"
    )
    assert str(console.unknown("model", "x", names[:10])).endswith("net08, net09")
    assert str(console.unknown("preset", "demo", [])) == "unknown preset 'demo': none is defined"


def test_dry_run_tells_parameters_memory_steps_and_eta(tones, call_main):
    out, _ = call_main(SMALL, f"--config.data.data_dir={tones}", "--dry_run")
    for label in ("parameters", "memory per device", "steps per epoch", "steps in all", "speed", "ETA"):
        assert label in out
    assert "3.0 (24 clips in batches of 8)" in out


def test_overfit_one_batch_says_whether_it_learned(tones, call_main):
    arguments = [SMALL, f"--config.data.data_dir={tones}", "--overfit_one_batch", "--config.train.log_every=50 steps"]
    learns = ["--config.train.duration=150 steps", "--config.schedule.learning_rate=0.01"]
    out, _ = call_main(*arguments, *learns)
    assert re.search(r"^one batch was learned: its loss went from [1-9]\S* to 0\.0\d+$", out, re.MULTILINE)
    _, err = call_main(*arguments, "--config.schedule.learning_rate=1e-9", code=1)
    assert re.search(
        r"^error: one batch was not learned: its loss went from ([1-9]\.\d)\S* to \1\S* in 6 steps$", err, re.MULTILINE
    )


@pytest.mark.slow
def test_profile_and_default_workdir(tones, tmp_path, call_main):
    arguments = [
        SMALL,
        f"--config.data.data_dir={tones}",
        "--config.train.duration=14 steps",
        f"--workdir={tmp_path}",
        "--profile",
    ]
    call_main(*arguments)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
