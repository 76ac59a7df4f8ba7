"""The protocols of the documents: which cuts, windows, labels and weights count, each with the right value."""

import json
import time

import numpy as np
import pytest
from conftest import ROOT, small_config, write_tones

from genre_jax import config as configs
from genre_jax.console import UserError
from genre_jax.data import locate, select, shards
from genre_jax.data.batches import EvalBatches, TrainBatches
from genre_jax.data.order import window_starts, windows_of
from genre_jax.logbook import read_lines
from genre_jax.loop import train_and_evaluate
from genre_jax.prepare import passport, tfrecord
from genre_jax.run import Run

RATE = 8000
IMPATIENT = {  # nothing improves, and the fourth evaluation is the last
    "schedule__learning_rate": 0.0, "train__duration": "50 steps", "train__evaluate_every": "2 steps", "train__patience": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def index(tones):
    return shards.load_index(locate.directory(tones, "tones", RATE), "train")


# ---------------------------------------------------------------- cuts and windows


def test_a_track_of_gtzan_gives_five_pieces_of_six_seconds():
    """Document 001. GTZAN's tracks have 660,000 to 675,808 samples, most of them 661,794."""
    for length in (660_000, 661_500, 661_794, 675_808):
        pieces = window_starts(length, 132_300, last="dropped")
        assert len(pieces) == 5 and pieces[-1] + 132_300 <= length
    assert len(window_starts(661_794, 132_300)) == 6  # the last two are 294 samples apart


def test_six_pieces_of_five_seconds_overlap_by_ten_milliseconds():
    config = configs.load(f"{ROOT}/configs/folmer.py:pieces_5s")
    starts = window_starts(661_794, config.data.samples, config.data.segment_hop, config.data.last_window)
    assert len(starts) == 6 and set(np.diff(starts)) == {110_250 - 220} and pytest.approx(0.01, rel=0.01) == 220 / 22_050


@pytest.mark.parametrize(("length", "hop", "last", "expected"), [
    (30, 0, "dropped", [0, 10, 20]), (34, 0, "dropped", [0, 10, 20]), (35, 0, "dropped", [0, 10, 20, 25]), (34, 0, "aligned", [0, 10, 20, 24]),
    (9, 0, "dropped", [0]), (10, 0, "dropped", [0]), (12, 0, "dropped", [0]), (22, 5, "dropped", [0, 5, 10]), (23, 5, "dropped", [0, 5, 10, 13]),
])  # fmt: skip
def test_the_last_window(length, hop, last, expected):
    assert window_starts(length, 10, hop, last).tolist() == expected


def test_random_cuts_leave_out_the_margin(tones, index):
    """Document 000 never uses half a second at both ends of a clip."""
    config = small_config(tones, data__samples=1000, data__margin=300, train__batch_size=24, data__refresh_epochs=1)
    batches = TrainBatches(index, config)
    drawn = [batches(number) for number in range(60)]
    start, clip = (np.concatenate([batch[key] for batch in drawn]) for key in ("start", "clip"))
    room = index.length[clip] - 1000
    assert start.min() >= 300 and np.all(start <= room - 300)
    assert start.min() < 320 and np.max(start - room) > -330  # the whole range is used


def test_the_margin_shrinks_in_a_short_clip(tones, index):
    config = small_config(tones, data__samples=2000, data__margin=8000, train__batch_size=24)
    batch = TrainBatches(index, config)(0)
    spare = index.length[batch["clip"]] - 2000
    assert np.all(np.abs(batch["start"] - spare / 2) <= 0.5)


def test_fixed_windows_are_drawn_once_for_each_track(tones, index):
    """Document 004: 15 segments a track, drawn by the seed, in evaluation as in training."""
    config = small_config(
        tones, data__samples=500, data__segments="fixed", evaluate__windows="fixed", data__segments_per_track=15
    )
    batches = EvalBatches(index, config)
    tracks = index.track[batches.clip]
    assert np.bincount(tracks).tolist() == [15] * len(index.tracks)
    assert np.all(np.diff(batches.clip) >= 0) and len(set(zip(batches.clip, batches.start, strict=True))) > 0.9 * len(tracks)
    training = TrainBatches(index, config).rows
    pairs = sorted(zip(training.clip.tolist(), training.start.tolist(), strict=True))
    assert pairs == sorted(zip(batches.clip.tolist(), batches.start.tolist(), strict=True))
    other = EvalBatches(index, small_config(tones, seed=1, data__samples=500, evaluate__windows="fixed"))
    assert not np.array_equal(other.start, batches.start)


def test_random_windows_are_one_cut_of_each_clip(tones, index):
    config = small_config(tones, data__samples=500, data__margin=200, evaluate__windows="random")
    clip, start = windows_of(index, config.data, 0, "random", 0)
    assert clip.tolist() == list(range(len(index)))
    assert start.min() >= 200 and np.all(start <= index.length - 700) and len(set(start.tolist())) > 12
    assert not np.array_equal(start, windows_of(index, config.data, 0, "random", 1)[1])


def test_swishnet_trains_on_all_windows_with_half_overlap(index, tones):
    """Document 003: clips of 200 frames, half of them overlapping; the steps of an epoch stay for shorter clips."""
    steps = []
    for preset, seconds in (("", 2.0), (":one_second", 1.0), (":half_second", 0.5)):
        config = configs.load(f"{ROOT}/configs/swishnet.py{preset}")
        assert config.data.samples == 16_000 * seconds + 240 and config.data.segment_hop == 8_000 * seconds
        windows = len(window_starts(600 * 16_000, config.data.samples, config.data.segment_hop))
        steps.append(windows / config.train.batch_size)
    np.testing.assert_allclose(steps, steps[0], rtol=0.01)
    rows = TrainBatches(
        index, small_config(tones, data__samples=1000, data__segments="consecutive", data__segment_hop=500)
    ).rows
    assert len(rows) == sum(len(window_starts(int(n), 1000, 500)) for n in index.length)


# ---------------------------------------------------------------- labels


def write_several_labels(data_dir):
    """A data set whose clips have one to three labels, the first of which is not the lowest."""
    folder = locate.directory(data_dir, "several", RATE)
    rng, names = np.random.default_rng(0), ("a", "b", "c", "d")
    for split, count in (("train", 10), ("validation", 5), ("test", 9)):
        clips = []
        for number in range(count):
            labels = tuple(rng.permutation(4)[: rng.integers(1, 4)].tolist())
            audio = rng.integers(-9000, 9000, 2300).astype(np.int16)
            clips.append(tfrecord.Clip(f"{split}{number}", f"{split}{number // 2}", labels, audio, audio.max() / 32768))
        tfrecord.write_shards(folder, "several", split, clips, num_shards=1)
    facts = {
        "name": "several",
        "sample_rate": RATE,
        "labels": names,
        "splits": {s: {} for s in ("train", "validation", "test")},
    }
    passport.write(folder, facts)
    return folder


def test_cross_entropy_trains_on_the_first_label_and_scores_all(tmp_path):
    """Document 000's table 3.1 scores its cross-entropy rows by all labels: hits among the top k over all labels."""
    folder = write_several_labels(tmp_path)
    config = small_config(
        tmp_path, "snn", data__name="several", data__labels="first", loss__name="softmax", evaluate__windows="centre"
    )
    workdir = tmp_path / "run"
    results = train_and_evaluate(config, workdir)
    index = shards.load_index(folder, "test")
    with np.load(workdir / "predictions.npz") as table:
        labels, target, logits = table["labels"], table["target"], table["logits"]
    np.testing.assert_array_equal(labels, index.labels)
    np.testing.assert_array_equal(target, index.first_label)
    assert labels.sum() > len(labels) and np.any(labels.argmax(1) != target)
    hits = 0
    for row, truth in zip(logits, labels, strict=True):
        best = sorted(range(4), key=lambda c: (-row[c], c))[: truth.sum()]
        hits += sum(truth[c] for c in best)
    assert results["raw"]["top_k_accuracy"] == pytest.approx(hits / labels.sum())
    assert results["raw"]["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == target))
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if line["split"] == "validation"]
    assert all({"accuracy", "top_k_accuracy"} <= line.keys() for line in lines)
    batch = Run(config).batches(0)
    np.testing.assert_array_equal(batch["labels"].sum(1), 1)


def test_left_out_classes_take_their_clips_with_them(tmp_path):
    write_tones(tmp_path)
    config = small_config(tmp_path, "snn", data__classes=["high", "low"])
    results = train_and_evaluate(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "labels.json").read_text()) == ["low", "high"]
    assert results["clips"] == 6 and set(results["classes"]) == {"low", "high"}


# ---------------------------------------------------------------- selection, early stopping, training scores


@pytest.mark.parametrize(
    ("select_", "key", "sign"), [("min loss", "loss", -1), ("max raw/accuracy", "accuracy", 1), ("auto", "track_accuracy", 1)]
)
def test_the_best_checkpoint_is_that_of_the_chosen_score(tones, tmp_path, select_, key, sign):
    config = small_config(tones, "snn", evaluate__select=select_, train__duration="12 steps", train__evaluate_every="1 steps")
    results = train_and_evaluate(config, tmp_path)
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if line["split"] == "validation"]
    assert [line["score"] for line in lines] == [sign * line[key] for line in lines]
    best = max(line["score"] for line in lines)
    assert results["step"] == max(line["step"] for line in lines if line["score"] == best)


@pytest.mark.parametrize(("select_", "sentence"), [("loss", "must be auto, or max or min and a score"), ("max f1", "unknown score in evaluate.select 'f1'"),
                                                   ("min clip/mean_average_precision", "unknown score")])  # fmt: skip
def test_an_unknown_score_is_a_sentence(tones, select_, sentence):
    with pytest.raises(UserError, match=sentence):
        small_config(tones, evaluate__select=select_)


def test_a_run_ends_when_its_score_no_longer_improves(tones, tmp_path, capsys):
    """With a learning rate of 0 no evaluation is better than the first."""
    config = small_config(tones, "snn", evaluate__train=True, **IMPATIENT)
    results = train_and_evaluate(config, tmp_path)
    lines = [line["step"] for line in read_lines(tmp_path / "metrics.jsonl") if line["split"] == "validation"]
    assert lines == [2, 4, 6, 8] and results["step"] == 8
    assert "has not improved in 3 evaluations: the training ends at step 8" in capsys.readouterr().out
    with pytest.raises(UserError, match="train.patience' needs a validation split"):
        small_config(tones, train__patience=1, data__validation="")


def test_a_resumed_run_remembers_how_long_it_has_not_improved(tones, tmp_path, monkeypatch):
    config = small_config(tones, "snn", train__checkpoint_every="50 steps", **IMPATIENT)
    from genre_jax import loop

    whole = loop._validate

    def interrupted(run, state, step, logbook):
        if step == 6:
            while not (tmp_path / "checkpoints" / "4").exists():  # it is written in the background
                time.sleep(0.01)
            raise RuntimeError("killed")
        return whole(run, state, step, logbook)

    monkeypatch.setattr(loop, "_validate", interrupted)
    with pytest.raises(RuntimeError):
        train_and_evaluate(config, tmp_path)
    monkeypatch.setattr(loop, "_validate", whole)
    train_and_evaluate(config, tmp_path)
    lines = [line["step"] for line in read_lines(tmp_path / "metrics.jsonl") if line["split"] == "validation"]
    assert lines == [2, 4, 6, 8]


def test_the_training_split_is_scored_on_request(tones, tmp_path):
    """Document 002 prints the accuracy on the training split beside that on the other 30 %."""
    results = train_and_evaluate(small_config(tones, "snn", evaluate__train=True), tmp_path)
    with np.load(tmp_path / "predictions-train.npz") as table:
        accuracy = np.mean(table["logits"].argmax(1) == table["target"])
        assert len(set(table["clip"].tolist())) == 24
    assert results["train"]["raw"]["accuracy"] == pytest.approx(accuracy)
    assert "train" not in train_and_evaluate(small_config(tones, "snn"), tmp_path / "other")


# ---------------------------------------------------------------- the documents' configs


def test_burrows_validates_on_the_thirty_percent_and_standardises():
    for preset, rate in (("", 44_100), (":conv1d", 44_100), (":conv2d", 12_000)):
        config = configs.load(f"{ROOT}/configs/burrows.py{preset}")
        assert (config.data.validation, config.data.test, config.data.sample_rate) == ("test", "test", rate)
        assert config.frontend.scale == "standardise" and config.evaluate.train and config.evaluate.weights == "last"


def test_schindler_draws_fifteen_segments_and_validates():
    config = configs.load(f"{ROOT}/configs/schindler.py:code,cqt,exp")
    assert (config.evaluate.windows, config.data.segments, config.data.segments_per_track) == ("fixed", "fixed", 15)
    assert config.data.validation == "test" and config.evaluate.weights == "last"
    assert (config.schedule.every, config.schedule.learning_rate) == ("3000 steps", 3e-5)
    text = configs.load(f"{ROOT}/configs/schindler.py:text,exp")
    assert text.schedule.every == "3000 epochs" and text.optimizer.l1 == 0
    assert configs.load(f"{ROOT}/configs/schindler.py:bins_84").frontend.n_bins == 84


def test_presets_apply_in_the_order_of_the_file():
    """`code` must see which network was chosen, wherever it stands."""
    one, other = (configs.load(f"{ROOT}/configs/schindler.py:{presets}") for presets in ("shallow,code", "code,shallow"))
    assert one.model == other.model and one.name == other.name == "schindler_shallow_code" and not one.model.hidden_activation


def test_folmer_takes_the_lowest_validation_loss():
    config = configs.load(f"{ROOT}/configs/folmer.py:pieces")
    assert config.evaluate.select == "min loss" and config.data.last_window == "dropped"


def test_pollacks_text_and_code_differ_as_documented():
    code, text = (configs.load(f"{ROOT}/configs/pollack.py:unbalanced,noise{extra}") for extra in ("", ",text"))
    assert (code.frontend.scale, text.frontend.scale) == ("none", "min_max")
    assert (code.data.refresh_epochs, text.data.refresh_epochs) == (1, 10)
    assert (code.augment.start, text.augment.start) == ([], ["noise=10 epochs"])
    assert (code.schedule.boundaries, text.schedule.boundaries) == (
        ["25 epochs", "40 epochs"],
        ["10 epochs", "25 epochs", "40 epochs"],
    )
    assert code.data.margin == 8000 and code.data.samples == 48_000 and code.evaluate.windows == "random"
    assert configs.load(f"{ROOT}/configs/pollack.py:clean").data.test == "eval[100:@12345]"
    gru = configs.load(f"{ROOT}/configs/pollack.py:gru_attention,text")
    assert (gru.train.duration, gru.schedule.boundaries, gru.freeze.patterns) == ("40 epochs", ["25 epochs"], [])


def test_select_reads_the_splits_of_the_config(tones):
    run = Run(small_config(tones, data__train="train[:-4]", data__validation="train[-4:]+validation"))
    assert (len(run.splits["train"]), len(run.splits["validation"])) == (20, 16)
    names = select.load(run.folder, "train[-4:]").names
    assert run.splits["validation"].names[:4] == names
