"""Tests of training steps and runs: number of devices, gradient accumulation, masks, a single trace, errors."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CLASSES, small_config, write_tones
from sklearn.preprocessing import StandardScaler

from genre_jax import config as configs
from genre_jax import forward, frontends, loop, losses, optim, parallel, train
from genre_jax import run as runs
from genre_jax.augment import waveform
from genre_jax.checkpoint import Checkpoints
from genre_jax.console import UserError
from genre_jax.data import locate, shards
from genre_jax.data.batches import EvalBatches
from genre_jax.data.order import window_starts
from genre_jax.loop import train_and_evaluate
from genre_jax.prepare import passport, tfrecord
from genre_jax.report.page import write_report
from genre_jax.run import Run

AUGMENTED = {"augment__gain_db": 6.0, "augment__polarity": 0.5, "augment__shift": 0.5, "augment__gain_cap": 0.3}
NETWORKS = {"bytenet": {"model__dropout": 0.2, "model__decoder_sets": 0}, "resnet": {"model__stages": [1]}}


def run_steps(config, devices, steps):
    """Run `steps` steps on `devices` CPU devices. Returns the losses, all metrics, and the final state."""
    config = configs.from_json(configs.to_json(config))
    config.devices = devices
    run = Run(config)
    state = run.initial_state()
    metrics = []
    for step in range(steps):
        state, values = run.program.train_step(state, run.constants, run.program.devices.shard(run.batches(step)))
        metrics.append(jax.device_get(values))
    return [float(m["loss"]) for m in metrics], metrics, jax.device_get(state)


def largest_difference(first, second):
    """Return the largest absolute difference between the leaves of two trees."""
    return max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def against_one(*quick: int):
    """Parametrise `counts`, the numbers of devices that are compared with one device.

    Of 2, 4 and 8 devices, the numbers that are not in `quick` run only in `make test-all`.
    """
    rest = tuple(devices for devices in (2, 4, 8) if devices not in quick)
    return pytest.mark.parametrize(
        "counts", [quick, pytest.param(rest, marks=pytest.mark.slow)], ids=lambda x: "+".join(map(str, x))
    )


@against_one(2)
@pytest.mark.parametrize("model", ["resnet", pytest.param("bytenet", marks=pytest.mark.slow)])
def test_float64_is_the_same_on_1_2_4_8_devices(tones, model, counts):
    with jax.enable_x64(True):
        config = small_config(tones, model, dtype="float64", optimizer__name="amsgrad", **NETWORKS[model], **AUGMENTED)
        expected, _, state = run_steps(config, 1, 10)
        for devices in counts:
            losses_here, _, state_here = run_steps(config, devices, 10)
            np.testing.assert_allclose(losses_here, expected, rtol=0, atol=1e-10)
            assert largest_difference(state_here.batch_stats, state.batch_stats) < 1e-10 if state.batch_stats else True
            assert largest_difference(state_here.params, state.params) < 1e-9


@against_one(2)
@pytest.mark.parametrize("model", NETWORKS)
def test_float32_starts_the_same_on_1_2_4_8_devices(tones, model, counts):
    """Compares only the first loss and gradient, because float32 networks with batch norm diverge after step 1."""
    config = small_config(tones, model, optimizer__name="sgd", schedule__learning_rate=1.0, **NETWORKS[model], **AUGMENTED)
    expected, metrics, state = run_steps(config, 1, 1)
    first = Run(config).initial_state()
    moved = jax.tree.map(lambda a, b: np.asarray(a) - b, jax.device_get(first.params), state.params)  # the gradient (rate 1)
    norm = float(metrics[0]["gradient_norm"])
    for devices in counts:
        losses_here, _, state_here = run_steps(config, devices, 1)
        assert losses_here[0] == pytest.approx(expected[0], abs=1e-6)
        moved_here = jax.tree.map(lambda a, b: np.asarray(a) - b, jax.device_get(first.params), state_here.params)
        gap = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(*map(jax.tree.leaves, (moved, moved_here)), strict=True)))
        assert gap < 1e-4 * norm
        if state.batch_stats:
            assert largest_difference(state_here.batch_stats, state.batch_stats) < 1e-4


@pytest.mark.parametrize("parts", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_gradient_accumulation_equals_the_full_batch(tones, monkeypatch, parts):
    """Class weights give the micro-batches different weights. A mean of micro-batch means would be wrong."""
    weights = np.array([0.2, 1, 2, 4], np.float32)
    monkeypatch.setattr(runs, "_class_weights", lambda labels, how: weights)  # the tones are balanced
    with jax.enable_x64(True):
        options = {
            "dtype": "float64",
            "train__batch_size": 16,
            **AUGMENTED,
        }
        whole, _, state = run_steps(small_config(tones, "snn", **options), 2, 3)
        split, _, split_state = run_steps(small_config(tones, "snn", train__accumulate=parts, **options), 2, 3)
        np.testing.assert_allclose(split, whole, atol=1e-12)
        assert largest_difference(split_state.params, state.params) < 1e-12


@pytest.mark.parametrize("model", ["snn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet", "bytenet"))])
def test_predictions_do_not_depend_on_batch_size_or_devices(tones, model):
    tables = []
    with jax.enable_x64(True):
        for devices, batch_size in ((1, 1), (1, 7), (2, 6), (8, 8)):
            config = small_config(tones, model, dtype="float64", devices=devices, evaluate__batch_size=batch_size)
            run = Run(config)
            tables.append(run.evaluate(run.initial_state(), "test"))
    for table in tables[1:]:
        for key in ("clip", "start", "track", "labels"):
            np.testing.assert_array_equal(table[key], tables[0][key])
        for key in ("logits", "loss"):
            np.testing.assert_allclose(table[key], tables[0][key], rtol=0, atol=1e-12)


def test_padding_rows_count_in_no_score(tones):
    """With 24 windows in batches of 16, the last batch has 8 rows of padding."""
    run = Run(small_config(tones, evaluate__batch_size=16))
    table = run.evaluate(run.initial_state(), "test")
    rows = [window_starts(int(n), 2000) for n in run.splits["test"].length]
    assert len(table["clip"]) == sum(map(len, rows)) == 24


def test_masked_examples_change_nothing(tones):
    """Masked examples with random content change neither loss nor statistics nor update of a training batch."""
    for model, options in {"snn": {}, "resnet": {"model__stages": [1]}}.items():
        config = small_config(tones, model, devices=1, **options)
        run = Run(config)
        batch = run.batches(0)
        rubbish = {key: np.concatenate([value, value[::-1]]) for key, value in batch.items()}
        rubbish["audio"][8:] = np.random.default_rng(0).integers(-20000, 20000, rubbish["audio"][8:].shape)
        rubbish["mask"][8:] = 0
        results = []
        for each in (batch, rubbish):
            state, metrics = run.program.train_step(run.initial_state(), run.constants, run.program.devices.shard(each))
            results.append(jax.device_get((state, metrics)))
        assert largest_difference(results[0][1], results[1][1]) < 1e-5
        assert largest_difference(results[0][0].batch_stats, results[1][0].batch_stats) < 1e-5 if model == "resnet" else True


def test_each_example_draws_its_own_dropout_and_augmentation():
    keys = waveform.example_keys(jax.random.key(0), *(jnp.array(x) for x in ([0, 0, 1], [5, 6, 5], [0, 0, 0])))
    assert len({tuple(row) for row in np.asarray(jax.random.key_data(keys)).tolist()}) == 3
    config = configs.base("x").augment
    config.update(gain_db=12.0, shift=1.0)
    rows = waveform.augment(jnp.tile(jnp.linspace(-1, 1, 64), (3, 1)), keys, config)
    assert len({float(jnp.abs(row).max()) for row in rows}) == 3
    again = waveform.augment(jnp.tile(jnp.linspace(-1, 1, 64), (1, 1)), keys[1:2], config)
    np.testing.assert_array_equal(again[0], rows[1])


def test_augmentation_does_what_it_says():
    keys = jax.random.split(jax.random.key(1), 2000)
    y = jnp.tile(jnp.array([0.5, -0.25, 0.1, 0.0]), (2000, 1))
    config = configs.base("x").augment
    config.update(gain_db=6.0, polarity=0.25, shift=0.0)
    out = np.asarray(waveform.augment(y, keys, config))
    decibels = 20 * np.log10(np.abs(out[:, 0]) / 0.5)
    assert -6 <= decibels.min() < -5.8 and 5.8 < decibels.max() <= 6.001
    assert abs(np.mean(out[:, 0] < 0) - 0.25) < 0.04
    config.update(gain_db=0.0, polarity=0.0, shift=1.0)
    shifted = np.asarray(waveform.augment(y, keys, config))
    assert {tuple(row) for row in shifted.round(3).tolist()} == {
        tuple(np.roll(np.asarray(y[0]), k).round(3).tolist()) for k in range(4)
    }
    capped = waveform.cap_gain(jnp.array([[0.9, -1.0], [0.5, -1.0]]), jnp.array([0.9, 0.5]), 0.7)
    np.testing.assert_allclose(capped, [[0.7, -0.7 / 0.9], [0.5, -1.0]], rtol=1e-6)


def test_random_speed_moves_a_tone_and_leaves_nothing_else():
    """The tone stays a tone (images of the Lanczos kernel are below -50 dB). Its frequency fills the range, and stays inside."""
    n, frequency = 8192, 500 / 8192
    config = configs.base("x").augment
    config.update(speed=0.3)
    y = jnp.tile(jnp.sin(2 * jnp.pi * frequency * jnp.arange(n)), (200, 1))
    out = np.asarray(waveform.augment(y, jax.random.split(jax.random.key(2), 200), config), np.float64)[:, : n // 2]
    spectrum = np.abs(np.fft.rfft(out * np.blackman(n // 2)))
    factors = spectrum.argmax(1) / (n // 2) / frequency
    assert 1 / 1.31 < factors.min() < 1 / 1.27 and 1.27 < factors.max() < 1.31
    assert abs(np.mean(factors < 1) - 0.5) < 0.1  # slower and faster are equally frequent
    for row, peak in zip(spectrum, spectrum.argmax(1), strict=True):
        beside = np.delete(row, np.arange(peak - 8, peak + 9))
        assert beside.max() < 3e-3 * row[peak]


def test_random_speed_keeps_what_a_faster_signal_cannot_carry_from_folding_back():
    config = configs.base("x").augment
    config.update(speed=0.5)
    keys = jax.random.split(jax.random.key(3), 200)

    def spectrum(frequency):
        y = jnp.tile(jnp.sin(2 * jnp.pi * frequency * jnp.arange(4096)), (200, 1))
        out = np.asarray(waveform.augment(y, keys, config))[:, :2048]
        return np.abs(np.fft.rfft(out * np.hanning(2048), axis=1)) / 512

    factor = spectrum(0.05).argmax(1) / 2048 / 0.05
    fast = factor > 1.35  # a tone at 0.45 would alias to at most 1 - 1.35 · 0.45 = 0.39
    assert fast.sum() > 20
    assert spectrum(0.45)[fast].max() < 0.1
    assert spectrum(0.2)[fast].max(1).min() > 0.8  # tones below the Nyquist frequency stay (0.85 halfway between two bins)


def test_random_equaliser_is_smooth_and_within_its_range():
    config = configs.base("x").augment
    config.update(equalise_db=6.0)
    impulse = jnp.zeros((300, 4096)).at[:, 0].set(1.0)
    out = np.asarray(waveform.augment(impulse, jax.random.split(jax.random.key(4), 300), config))
    decibels = 20 * np.log10(np.abs(np.fft.rfft(out, axis=1)))
    assert decibels.min() >= -6.01 and decibels.max() <= 6.01
    nyquist, octave_below = decibels[:, -1], decibels[:, 1024]
    assert nyquist.min() < -5.5 and nyquist.max() > 5.5  # each gain covers the range
    assert abs(np.corrcoef(nyquist, octave_below)[0, 1]) < 0.2  # the gains are independent
    middle = decibels[:, round(2048 / 2**0.5)]
    np.testing.assert_allclose(middle, (nyquist + octave_below) / 2, atol=0.02)  # linear interpolation between gains


def test_train_and_eval_step_are_traced_once_in_a_run(tones, tmp_path, monkeypatch):
    traces = {"train_step": 0, "eval_step": 0}
    for name, owner, function in (("train_step", train.TrainStep, "update"), ("eval_step", runs, "eval_step")):
        original = getattr(owner, function)

        def counted(*args, _name=name, _original=original, **kwargs):
            traces[_name] += 1
            return _original(*args, **kwargs)

        monkeypatch.setattr(owner, function, counted)
    train_and_evaluate(small_config(tones, "snn", schedule__name="multistep"), tmp_path)
    assert traces == {"train_step": 2, "eval_step": 1}  # the second trace counts the operations, and compiles nothing


SMALL = {"n_fft": 256, "hop_length": 128, "n_mels": 16, "height": 16, "width": 16, "n_mfcc": 12, "n_bins": 24}


def small_frontend(config, frontend: str) -> None:
    """Choose a front end with sizes for clips of 2,000 samples at 8 kHz."""
    configs.choose(config, "frontend", frontend)
    for key, value in SMALL.items():
        if key in config.frontend and (config.frontend.image or key not in ("height", "width")):
            configs.override(config, f"frontend.{key}", value)
    if "frame_length" in config.frontend:
        configs.override(config, "frontend.frame_length", 256)
    if "preemph" in config.frontend:
        configs.override(config, "frontend.win_length", 200)
    if frontend == "descriptors":
        configs.override(config, "frontend.names", ["rms", "spectral_centroid", "zero_crossing_rate"])


def assert_one_step(config) -> None:
    configs.validate(config)
    losses_seen, metrics, _ = run_steps(config, 1, 1)
    assert np.isfinite(losses_seen[0])
    assert metrics[0]["gradient_norm"] > 0


def pairings() -> list:
    """Network, front end and loss. `test_presets.py` takes a step with most pairings; `make test-all` takes one with all."""
    found = []
    for model in ("bytenet", "resnet18", "resnet34"):
        for frontend in ("waveform", "log_mel", "log_mel_image"):
            for loss in losses.LOSSES:
                refused = (model == "bytenet") == (frontend == "log_mel_image")
                found.append(pytest.param(model, frontend, loss, marks=[] if refused else [pytest.mark.slow]))
    return found


@pytest.mark.parametrize(("model", "frontend", "loss"), pairings())
def test_one_real_step_of_each_model_front_end_and_loss(tones, model, frontend, loss):
    """`validate` refuses combinations that do not fit, such as an image network on a sequence."""
    config = small_config(tones, "bytenet" if model == "bytenet" else "resnet", devices=1, loss__name=loss)
    if model != "bytenet":
        configs.choose(config, "model", model, width=4, stages=[1, 1, 1])
    small_frontend(config, frontend)
    if (model == "bytenet") == (frontend == "log_mel_image"):
        with pytest.raises(
            UserError, match=f"model '{model}' reads features with . axes, .*, and front end '{frontend}' computes"
        ):
            configs.validate(config)
        return
    assert_one_step(config)


# These front ends share their code with front ends that are tested here, and run only in `make test-all`.
ALIKE = ("log_mel_htk", "mfcc", "spectrogram", "burrows_melgram", "burrows_mfcc", "choi_stft", "folmer_log_mel", "pollack_mfcc", "schindler_cqt", "schindler_log_mel",
         "swishnet_log_mel", "swishnet_mfcc", "vqt")  # fmt: skip


@pytest.mark.parametrize(
    "frontend",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else [])
        for name in sorted(set(frontends.FRONTENDS) - {"waveform", "log_mel", "log_mel_image"})
    ],
)
def test_one_real_step_of_every_other_front_end(tones, frontend):
    """Uses the smallest network that accepts the rank of the features. Only `burrows_mlp` accepts one vector per clip."""
    config = small_config(tones, "resnet", devices=1, model__stages=[1])
    small_frontend(config, frontend)
    if frontend.endswith("_mean"):
        with pytest.raises(UserError, match=rf"front end '{frontend}' computes features \(12,\)"):
            configs.validate(config)
        return
    if not config.frontend.image:
        configs.choose(config, "model", "snn", hidden=[16])
    assert_one_step(config)


def test_standardisation_is_fitted_on_the_training_split_and_kept_in_the_checkpoint(tones, tmp_path):
    """The statistics equal those of scikit-learn's StandardScaler over all frames of all training windows."""
    config = small_config(tones, "resnet", frontend__scale="standardise", train__duration="2 steps")
    train_and_evaluate(config, tmp_path)
    checkpoints = Checkpoints(tmp_path, config, CLASSES)
    kept = checkpoints.restore_model(2)["frontend"]
    checkpoints.close()
    batches = EvalBatches(Run(config).splits["train"], config)
    windows = np.concatenate([batch["audio"][batch["mask"] > 0] for batch in map(batches, range(len(batches)))])
    unscaled = frontends.build("log_mel", 8000, n_fft=256, hop_length=128, n_mels=16)
    features = unscaled.apply({}, windows / np.float32(32768))
    scaler = StandardScaler().fit(np.asarray(features, np.float64).reshape(-1, 16))
    np.testing.assert_allclose(kept["mean"], scaler.mean_, rtol=1e-5)
    np.testing.assert_allclose(kept["std"], scaler.scale_, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_compute_types(tones, dtype):
    with jax.enable_x64(dtype == "float64"):
        config = small_config(tones, "resnet", dtype=dtype, model__stages=[1])
        network = forward.build(config, 4)
        variables = network.init(jax.random.key(0), 2000)
        wide = jnp.dtype("float64" if dtype == "float64" else "float32")
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {wide}
        logits, intermediates = network(variables, {"audio": jnp.zeros((2, 2000), jnp.int16)})
        assert logits.dtype == wide
        assert intermediates["embedding"].dtype == jnp.dtype(dtype)


def test_moving_average_is_evaluated(tones):
    config = small_config(tones, "snn", ema=0.5, devices=1)
    run = Run(config)
    state = run.initial_state()
    ema = jax.device_get(state.params)
    for step in range(3):
        state, _ = run.program.train_step(state, run.constants, run.program.devices.shard(run.batches(step)))
        ema = jax.tree.map(lambda e, p: 0.5 * e + 0.5 * p, ema, jax.device_get(state.params))
    assert largest_difference(jax.device_get(state.variables()["params"]), ema) < 1e-6
    assert largest_difference(jax.device_get(state.params), ema) > 1e-4


def test_a_run_leaves_what_it_promises_and_learns(tones, tmp_path):
    often = {"train__evaluate_every": "30 steps", "train__checkpoint_every": "30 steps"}
    config = small_config(tones, "resnet", train__duration="60 steps", devices=2, **often)
    summary = train_and_evaluate(config, tmp_path)
    assert summary["track"]["max_probability"]["accuracy"] >= 0.75
    assert {path.name for path in tmp_path.iterdir()} >= {
        "config.json", "environment.json", "metrics.jsonl", "timings.jsonl", "results.json", "predictions.npz", "checkpoints",
    }  # fmt: skip
    assert json.loads((tmp_path / "results.json").read_text()) == summary
    table = np.load(tmp_path / "predictions.npz")
    assert table["logits"].shape == (summary["windows"], 4)
    assert table["classes"].tolist() == list(CLASSES)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert train_and_evaluate(config, tmp_path) == summary
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_run_that_was_killed_after_its_last_checkpoint_finishes(tones, tmp_path):
    """No training step is left. The run evaluates only the test split, with the default reader."""
    config = small_config(tones, "snn", train__duration="1 steps", data__reader="auto")
    summary = train_and_evaluate(config, tmp_path)
    (tmp_path / "results.json").unlink()
    again = train_and_evaluate(config, tmp_path)
    timed = ("train_seconds", "clips_per_second", "peak_memory_bytes")
    assert {key: again[key] for key in again if key not in timed} == {key: summary[key] for key in summary if key not in timed}


def test_a_workdir_of_another_config_is_refused(tones, tmp_path):
    train_and_evaluate(small_config(tones, "snn", train__duration="1 steps"), tmp_path)
    assert loop._finished(tmp_path, small_config(tones, "snn", train__duration="1 steps", devices=4))
    with pytest.raises(UserError, match=r"holds a run of another config \(it differs in seed, train.batch_size\)"):
        train_and_evaluate(small_config(tones, "snn", train__duration="1 steps", seed=1, train__batch_size=16), tmp_path)
    onward = (
        rf"differs in train.duration\): choose another --workdir, and set --config.init_from={tmp_path} to train its weights"
    )
    with pytest.raises(UserError, match=onward):
        train_and_evaluate(small_config(tones, "snn", train__duration="2 steps"), tmp_path)
    (tmp_path / "results.json").unlink()
    with pytest.raises(UserError, match=r"choose another --workdir$"):
        train_and_evaluate(small_config(tones, "snn", train__duration="2 steps"), tmp_path)


def test_training_on_one_class_is_a_warning(tmp_path, capsys):
    index = shards.load_index(write_tones(tmp_path), "train")
    run = SimpleNamespace(config=small_config(tmp_path, "snn"), splits={"train": index})
    run.program = SimpleNamespace(devices=SimpleNamespace(all=[0]), total=1, clips=1, reach=tuple)
    loop._announce(run, 1)
    assert "one class" not in capsys.readouterr().out
    index.labels[:, 1:] = 0
    loop._announce(run, 1)
    assert "warning: all training clips are of one class, 'low': there is nothing to learn" in capsys.readouterr().out


def test_a_run_on_clips_that_have_changed_is_refused(tones, tmp_path):
    config = small_config(tones, "snn", train__duration="1 steps")
    train_and_evaluate(config, tmp_path)
    (tmp_path / "results.json").unlink()
    train_and_evaluate(config, tmp_path)
    written = json.loads((tmp_path / "environment.json").read_text())
    index = shards.load_index(Path(written["data_set"]), "train")
    fewer = shards.digest([index.without({index.names[0]})])
    assert fewer != shards.digest([index])
    (tmp_path / "results.json").unlink()
    (tmp_path / "environment.json").write_text(json.dumps(written | {"clips_sha256": fewer}))
    with pytest.raises(UserError, match="holds a run on other clips: its data set, or the exclude.csv beside it, has changed"):
        train_and_evaluate(config, tmp_path)


def test_a_run_without_its_data_leaves_no_workdir(tmp_path):
    config = small_config(tmp_path, data__name="audioset_music")
    with pytest.raises(UserError, match="data set 'audioset_music' at 8000 Hz is not in"):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_non_finite_loss_stops_with_step_clips_and_checkpoint(tones, tmp_path):
    config = small_config(tones, "snn", optimizer__name="sgd", schedule__learning_rate=1e30, train__checkpoint_every="1 steps")
    with pytest.raises(
        UserError, match=r"at step \d are not finite; the last good checkpoint is of step \d.*: train/\w+/0\d.wav"
    ):
        train_and_evaluate(config, tmp_path)


def test_batch_must_divide_over_devices(tones):
    with pytest.raises(
        UserError, match=r"'train.batch_size' must be a multiple of 24 \(8 devices × 3 micro-batches\).*given 32"
    ):
        Run(small_config(tones, train__batch_size=32, train__accumulate=3))
    with pytest.raises(UserError, match="'evaluate.batch_size' must be a multiple of 8 .8 devices., and was given 4"):
        Run(small_config(tones, evaluate__batch_size=4))
    with pytest.raises(UserError, match="'devices' must be at most 8, the devices of this machine, not 9"):
        Run(small_config(tones, devices=9))


def test_missing_data_is_one_sentence_with_the_command(tmp_path, tones):
    config = small_config(tones)
    config.data.update(name="audioset_music", sample_rate=16000, data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"make it with `python -m genre_jax.prepare --dataset=audioset_music .*bytenet:demo"):
        Run(config)
    with pytest.raises(UserError, match="has 8000 Hz and the config asks for 16000 Hz"):
        Run(small_config(tones, data__sample_rate=16000))
    with pytest.raises(UserError, match="has no split 'dev': choose one of test, train, validation"):
        Run(small_config(tones, data__train="dev"))


def test_softmax_refuses_several_labels_a_clip(tmp_path):
    folder = write_tones(tmp_path, "both")
    clips = [tfrecord.Clip(f"c{i}", f"t{i}", (0, i % 4), np.ones(2500, np.int16), 0.1) for i in range(8)]
    for split in ("train", "validation", "test"):
        for old in folder.glob(f"*-{split}.tfrecord*"):
            old.unlink()
        tfrecord.write_shards(folder, "both", split, clips)
    passport.write(folder, locate.read_passport(folder))
    with pytest.raises(
        UserError, match="loss 'softmax' trains on one label per clip, and 'c1' has 2: set data.labels to 'first'"
    ):
        Run(small_config(tmp_path, data__name="both"))
    for options in ({"data__labels": "first"}, {"loss__name": "sigmoid"}):
        run = Run(small_config(tmp_path, data__name="both", **options))
        assert run.batches.labels.sum() == (8 if "data__labels" in options else 14)


def test_class_weights_are_inverse_to_frequency():
    labels = np.eye(3, dtype=np.uint8)[[0, 0, 0, 1, 1, 2]]
    np.testing.assert_allclose(runs._class_weights(labels, "balanced"), [6 / 9, 6 / 6, 6 / 3])
    np.testing.assert_array_equal(runs._class_weights(labels, "none"), [1, 1, 1])


@pytest.mark.slow
def test_collectives_under_vmap_equal_pmap(tones):
    """`jit(vmap(step, axis_name=…))` tests a step on N devices at low cost."""
    config = small_config(tones, "resnet", devices=4, model__stages=[1])
    run = Run(config)
    batch = run.program.devices.shard(run.batches(0))
    state = jax.device_get(run.initial_state())
    schedule = optim.SCHEDULES["constant"](lambda text: 0, 6, learning_rate=1e-3)
    step = train.TrainStep(run.program.network, run.program._optimizer, schedule, config, parallel.AXIS)
    virtual, metrics = jax.jit(jax.vmap(step, axis_name=parallel.AXIS, in_axes=(None, None, 0)))(
        state, jax.device_get(run.constants), batch
    )
    real, real_metrics = run.program.train_step(run.initial_state(), run.constants, batch)
    assert abs(float(metrics["loss"][0]) - float(real_metrics["loss"])) < 1e-6
    gap = largest_difference(jax.tree.map(lambda x: x[0], virtual.batch_stats), jax.device_get(real.batch_stats))
    assert gap < 1e-5


def test_a_multi_label_run_ends_with_precision_and_a_report(nothing_rendered, tmp_path):
    data_dir = tmp_path / "data"
    folder = write_tones(data_dir, "both")
    for split in ("train", "validation", "test"):
        for old in folder.glob(f"*-{split}.tfrecord*"):
            old.unlink()
        clips = [
            tfrecord.Clip(f"{split}{i}", f"t{i}", (i % 4, (i + 1) % 4), np.full(2100 + i, 99 * i, np.int16), 0.1)
            for i in range(9)
        ]
        tfrecord.write_shards(folder, "both", split, clips)
    passport.write(folder, locate.read_passport(folder))
    config = small_config(data_dir, "snn", data__name="both", loss__name="sigmoid", loss__class_weights="balanced")
    summary = train_and_evaluate(config, tmp_path / "run")
    assert summary["task"] == "multi"
    assert 0 <= summary["clip"]["mean_average_precision"] <= 1
    page = write_report([tmp_path / "run"], tmp_path / "run/report").read_text()
    assert "Mean average precision" in page
