"""Tests of the augmentations: effect on the signal, random keys, and schedule. `test_vocoder.py` tests the vocoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import section, small_config

from genre_jax import config as configs
from genre_jax import losses, parallel
from genre_jax.augment import features, noise, validate, waveform
from genre_jax.console import UserError
from genre_jax.data import locate, shards
from genre_jax.run import Run

RATE = 8000


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def decibels(power):
    return 10 * np.log10(power)


# ---------------------------------------------------------------- noise


def hum_bank(lengths=(6000, 500), samples=2000):
    """Return a noise bank of a long and a short recording: tones of 1013 Hz and 2987 Hz."""
    tones = [np.sin(2 * np.pi * f * np.arange(n) / RATE) for f, n in zip((1013, 2987), lengths, strict=True)]
    audio = np.zeros(sum(lengths) + 2 * samples, np.int16)
    start = samples + np.cumsum(lengths) - np.array(lengths)
    for at, signal in zip(start, tones, strict=True):
        audio[at : at + len(signal)] = np.round(16_000 * signal)
    return {"audio": audio, "start": start.astype(np.int32), "length": np.array(lengths, np.int32)}


@functools.cache
def noisy(**changes):
    config = section("augment", noise__data_set="hum", **changes)
    bank = hum_bank()
    return jax.jit(lambda y, keys: waveform.augment(y, keys, config, bank=bank))


def test_noise_has_the_gain_probability_and_place_of_the_thesis():
    added = np.asarray(noisy()(jnp.zeros((3000, 2000)), keys_of(3000)))
    heard = np.abs(added).max(1)
    assert abs(np.mean(heard > 0) - 0.5) < 0.03
    gain = heard[heard > 0] / (16_000 / 32_768)
    assert 0.135 < gain.min() < 0.145 and 0.255 < gain.max() < 0.262 and abs(gain.mean() - 0.2) < 0.003  # tones peak at 98 %
    spectrum = np.abs(np.fft.rfft(added, axis=1))
    high = spectrum[:, 740:760].max(1) > spectrum[:, 240:260].max(1)  # bins are 4 Hz
    assert abs(high[heard > 0].mean() - 0.5) < 0.05  # both recordings are equally frequent
    short, long = added[high & (heard > 0)], added[~high & (heard > 0)]
    assert ((long != 0).mean(1) > 0.7).all()  # fills the segment (a tone is zero at some samples)
    first, last = (short != 0).argmax(1), 1999 - (short != 0)[:, ::-1].argmax(1)
    assert (last - first < 500).all() and (last - first > 490).all()  # the whole short recording is inside the segment
    assert first.min() < 60 and 1440 < first.max() <= 1502 and abs(first.mean() - 750) < 40


@pytest.mark.parametrize("count", [1, 2])
def test_noise_has_the_ratio_that_was_asked(count):
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.normal(0, rng.uniform(0.01, 0.3, (500, 1)), (500, 2000)), jnp.float32)
    added = noisy(noise__snr_db=(5.0, 20.0), noise__probability=1.0, noise__count=count)(y, keys_of(500)) - y
    ratio = decibels(np.asarray((y**2).mean(1) / (added**2).mean(1), np.float64))
    assert 4.98 < ratio.min() < 5.3 and 19.7 < ratio.max() < 20.02 and abs(ratio.mean() - 12.5) < 0.6
    silent = noisy(noise__snr_db=(5.0, 20.0), noise__probability=1.0, noise__count=count)(jnp.zeros((4, 2000)), keys_of(4))
    assert not np.asarray(silent).any()


def test_a_bank_is_read_from_a_prepared_data_set(tones):
    index = shards.load_index(locate.directory(tones, "tones", RATE), "train")
    bank = noise.bank_of(index, 2000, "noise")
    clips = np.flatnonzero(index.labels[:, 3])
    assert len(bank["start"]) == len(clips) == 6
    for start, length, clip in zip(bank["start"], bank["length"], clips, strict=True):
        np.testing.assert_array_equal(bank["audio"][start : start + length], index.cut(clip, 0, int(index.length[clip])))
    assert not bank["audio"][:2000].any() and not bank["audio"][-2000:].any()
    with pytest.raises(UserError, match="unknown augment.noise.label 'nois' .did you mean 'noise'."):
        noise.bank_of(index, 2000, "nois")


# ---------------------------------------------------------------- filters


def test_band_limit_silences_one_side_of_its_cutoff():
    config = section(
        "augment", band_limit__probability=0.8, band_limit__low_pass=[500.0, 1000.0], band_limit__high_pass=[1500.0, 2500.0]
    )
    impulse = jnp.zeros((600, 4000)).at[:, 0].set(1.0)
    out = jax.jit(lambda y, keys: waveform.augment(y, keys, config, sample_rate=RATE))(impulse, keys_of(600))
    gain = np.abs(np.fft.rfft(np.asarray(out, np.float64), axis=1))  # bins are 2 Hz
    untouched = np.abs(gain - 1).max(1) < 1e-3
    assert abs(untouched.mean() - 0.2) < 0.05
    low, high = gain[:, 50] > 0.9, gain[:, 1900] > 0.9
    assert abs((low & ~high).mean() - 0.4) < 0.06 and abs((high & ~low).mean() - 0.4) < 0.06
    cutoff = 2 * np.abs(decibels(gain[low & ~high] ** 2) + 3.01).argmin(1)
    assert 498 <= cutoff.min() < 520 and 970 < cutoff.max() <= 1002
    assert abs(np.log(cutoff).mean() - np.log(500 * 1000) / 2) < 0.03
    assert gain[low & ~high][:, 1000:].max() < 10 ** (-45 / 20)  # one octave above the highest cut-off frequency: 48 dB
    cutoff = 2 * np.abs(decibels(gain[high & ~low] ** 2 + 1e-12) + 3.01).argmin(1)
    assert 1498 <= cutoff.min() < 1540 and 2440 < cutoff.max() <= 2502
    assert gain[high & ~low][:, 375].max() < 10 ** (-45 / 20)


# ---------------------------------------------------------------- mixup, masks, smoothing


def test_mixup_mixes_signal_and_labels_by_one_share():
    """Mixup adds signals and labels (one or several) with the same weights. The example itself has the larger weight."""
    x = jnp.eye(4000)[:, :3] * 0 + jnp.arange(1.0, 4001)[:, None]
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4000, 5)), jnp.float32)
    other = jnp.zeros_like(x), jnp.ones_like(labels)
    valid = jnp.ones(4000).at[7].set(0)
    mixed, mixed_labels = features.mixup(keys_of(4000), (x, labels), other=other, valid=valid, alpha=0.4)
    share = np.asarray(mixed / x)[:, 0].astype(np.float64)
    np.testing.assert_allclose(mixed_labels, share[:, None] * labels + (1 - share[:, None]), atol=1e-6)
    np.testing.assert_allclose(mixed, share[:, None] * x, rtol=1e-6)
    assert share[7] == 1
    draws = np.random.default_rng(1).beta(0.4, 0.4, 100_000)
    expected = np.quantile(np.maximum(draws, 1 - draws), [0.1, 0.3, 0.5, 0.7, 0.9])
    np.testing.assert_allclose(np.quantile(share, [0.1, 0.3, 0.5, 0.7, 0.9]), expected, atol=0.02)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_the_next_example_is_that_of_the_global_batch(devices):
    x = jnp.arange(16.0).reshape(devices, 16 // devices, 1)
    step = jax.vmap(lambda x: parallel.following({"x": x}, "d"), axis_name="d")
    np.testing.assert_array_equal(step(x)["x"].reshape(-1), np.roll(np.arange(16), -1))
    np.testing.assert_array_equal(parallel.following(x[0], None), np.roll(x[0], -1, 0))


def test_the_next_example_where_devices_share_clips():
    x = jnp.arange(4.0).reshape(2, 2, 1).repeat(2, 0)  # two groups of two devices
    step = jax.vmap(lambda x: parallel.following(x, "d", 2), axis_name="d")
    np.testing.assert_array_equal(step(x)[..., 0], [[1, 2], [1, 2], [3, 0], [3, 0]])


@pytest.mark.parametrize("image", [False, True])
def test_masked_bands_and_spans_are_silent_and_the_rest_is_untouched(image):
    config = section("augment", mask__frequency=1, mask__frequency_width=0.25, mask__time=2, mask__time_width=0.1).mask
    x = jnp.asarray(np.random.default_rng(0).normal(-30, 5, (1000, 60, 24)), jnp.float32)
    given = jnp.swapaxes(x, 1, 2)[..., None] if image else x
    out = jax.jit(lambda x, keys: features.mask(x, keys, config))(given, keys_of(1000))
    out = np.asarray(jnp.swapaxes(out[..., 0], 1, 2) if image else out)
    hidden = out == np.asarray(x).min((1, 2), keepdims=True)
    np.testing.assert_array_equal(out[~hidden], np.asarray(x)[~hidden])
    bands, spans = hidden.all(1).sum(1), hidden.all(2).sum(1)
    assert (bands.min(), bands.max()) == (0, 6) and abs(bands.mean() - 3) < 0.2  # uniform from 0 to 24 / 4
    assert spans.min() == 0 and 10 <= spans.max() <= 12
    assert (hidden.sum((1, 2)) <= 24 * spans + 60 * bands - spans * bands + 1).all()  # nothing else, except the minimum
    edges = np.diff(hidden.all(1).astype(int), axis=1)
    assert ((edges == 1).sum(1) <= 1).all()  # a single band
    assert hidden.all(1)[:, 0].any() and hidden.all(1)[:, -1].any()  # bands reach both ends


def test_label_smoothing_is_pytorchs():
    labels, logits = jnp.eye(4)[:3], jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    criterion = losses.LOSSES["softmax"]
    value = criterion.values(logits, criterion.smooth(labels, 0.1), jnp.ones(4))
    p = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(value, [-0.9 * p[i, i] - 0.1 * p[i].mean() for i in range(3)], rtol=1e-5)
    np.testing.assert_allclose(losses.LOSSES["sigmoid"].smooth(labels, 0.1), np.where(labels, 0.95, 0.05), rtol=1e-6)


# ---------------------------------------------------------------- keys and schedules


def test_each_augmentation_is_redrawn_every_so_many_visits():
    config = section("augment", refresh=["noise=10", "gain=1"])
    visit = jnp.arange(24)
    batch = {"visit": visit, "clip": jnp.full(24, 5), "variant": jnp.zeros(24, int)}
    keys = waveform.keys_by_name(jax.random.key(0), batch, validate.visits(config, 4))
    expected = {"noise": visit // 10, "gain": visit, "shift": visit // 4}
    for name, turn in expected.items():
        data = [tuple(row) for row in np.asarray(jax.random.key_data(waveform.own_keys(keys[name], name))).tolist()]
        same = np.array([[a == b for a in data] for b in data])
        np.testing.assert_array_equal(same, np.asarray(turn)[:, None] == np.asarray(turn)[None])


def test_an_augmentation_is_off_before_its_start_and_drawn_as_ever_after():
    config = section("augment", gain_db=6.0, polarity=1.0)
    y = jnp.ones((3, 8))
    step = jax.jit(lambda on: waveform.augment(y, keys_of(3), config, on={"gain": on}))
    np.testing.assert_array_equal(step(False), -y)
    np.testing.assert_allclose(step(True), waveform.augment(y, keys_of(3), config), rtol=1e-6)
    assert (np.abs(step(True)) != 1).all()


FEW = {
    "augment__noise__data_set": "tones", "augment__noise__label": "noise", "augment__polarity": 0.5, "augment__shift": 0.5,
    "augment__mixup__alpha": 0.5, "augment__mask__frequency": 1, "augment__mask__time": 1, "loss__label_smoothing": 0.1,
}  # fmt: skip
ALL = FEW | {
    "augment__speed": 0.2, "augment__pitch": 2.0, "augment__stretch": 0.2, "augment__vocoder_fft": 256, "augment__equalise_db": 3.0,
    "augment__band_limit__probability": 0.5, "augment__band_limit__low_pass": [1000, 3000], "augment__gain_db": 3.0,
    "data__copies__semitones": [-2, 3], "data__copies__draw": "one",
}  # fmt: skip


def learn(config, devices, steps):
    """Return the losses of `steps` steps on `devices` devices, and the last parameters."""
    config = configs.from_json(configs.to_json(config))
    config.devices = devices
    run = Run(config)
    state, metrics = run.initial_state(), []
    for step in range(steps):
        state, values = run.program.train_step(state, run.constants, run.program.devices.shard(run.batches(step)))
        metrics.append(float(values["loss"]))
    return metrics, jax.device_get(state.params)


@pytest.mark.parametrize(
    ("of", "which", "late"),
    [
        ("waveform", FEW, ["mixup=1 steps", "mask=2 steps"]),
        pytest.param("features", ALL, ["pitch=2 steps", "stretch=0 steps", "noise=1 steps"], marks=pytest.mark.slow),
    ],
)
def test_8_devices_and_micro_batches_change_nothing(tones, of, which, late):
    """Float64, with mixup across devices, noise, masks, label smoothing, late starts. The slow case has all augmentations."""
    with jax.enable_x64(True):
        config = small_config(tones, "snn", dtype="float64", augment__start=late, augment__mixup__of=of, **which)
        config.train.batch_size = 16
        expected, params = learn(config, 1, 3)
        config.train.accumulate = 2
        found, others = learn(config, 8, 3)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)


def inputs_of(run, batch, step=0):
    """Return the inputs and labels of the training step `step` on one device."""
    state = run.initial_state().replace(step=jnp.asarray(step))
    arrays = {key: jnp.asarray(value) for key, value in batch.items()}
    step = dataclasses.replace(run.program.step, axis_name=None)
    return step.inputs(state, jax.device_get(run.constants), arrays)


def test_an_example_is_augmented_by_its_clip_and_visit_alone(tones):
    """The result is the same at another position in the batch, and differs at the next visit."""
    changes = {key: value for key, value in ALL.items() if "mixup" not in key}
    run = Run(small_config(tones, "snn", devices=1, **changes))
    compute = jax.jit(lambda batch: inputs_of(run, batch)["features"])
    batch = run.batches(0)
    features = compute(batch)
    turned = {key: np.roll(value, 3, 0) for key, value in batch.items()}
    np.testing.assert_allclose(np.roll(features, 3, 0), compute(turned), atol=1e-5)
    again = compute(batch | {"visit": batch["visit"] + 1})
    assert (np.abs(np.asarray(again - features)).max((1, 2)) > 1e-2).all()


def test_mixed_labels_reach_the_loss_and_wait_for_their_start(tones):
    options = {"augment__mixup__alpha": 1.0, "augment__start": ["mixup=3 steps"], "augment__mixup__of": "features"}
    run = Run(small_config(tones, "snn", devices=1, **options))
    batch = run.batches(0)
    compute = jax.jit(lambda batch, step: inputs_of(run, batch, step))
    before, after = compute(batch, 2), compute(batch, 3)
    np.testing.assert_array_equal(before["labels"], batch["labels"])
    shares = np.asarray(after["labels"])[np.arange(8), batch["labels"].argmax(1)]
    following = np.roll(batch["labels"], -1, 0)
    different = (following != batch["labels"]).any(1)
    assert different.any() and (shares[different] < 1).all() and (shares >= 0.5).all()
    rest = np.asarray(after["labels"])[np.arange(8), following.argmax(1)]
    np.testing.assert_allclose((shares + rest)[different], 1, rtol=1e-6)
    expected = shares[:, None, None] * before["features"] + (1 - shares[:, None, None]) * np.roll(before["features"], -1, 0)
    np.testing.assert_allclose(after["features"][different], expected[different], atol=1e-4)
    np.testing.assert_array_equal(after["clean_labels"], batch["labels"])


def test_the_bank_is_a_constant_of_the_step_and_planned_with_it(tones):
    run = Run(small_config(tones, "snn", devices=2, augment__noise__data_set="tones"))
    assert run.constants["noise"]["audio"].dtype == jnp.int16
    assert len(run.constants["noise"]["audio"].addressable_shards) == 2
    _, constants, _ = run.program.shapes()
    assert constants["noise"]["audio"].shape == run.constants["noise"]["audio"].shape
    with pytest.raises(UserError, match="data set 'hum' at 8000 Hz is not in"):
        Run(small_config(tones, "snn", augment__noise__data_set="hum"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stretch": 1.5}, r"'augment.stretch' must lie in \[0, 1\], and was given 1.5"),
        ({"pitch": 30.0}, r"'augment.pitch' must lie in \[0, 24\], and was given 30.0"),
        ({"gain_db": -1.0}, "'augment.gain_db' must be at least 0, and was given -1.0"),
        ({"vocoder_fft": 1023}, "'augment.vocoder_fft' must be a multiple of 4, and was given 1023"),
        ({"noise__gain": [0.3, 0.1]}, r"'augment.noise.gain' must hold two positive numbers, least and most, and was given \[0.3, 0.1\]"),
        ({"noise__snr_db": [5]}, r"'augment.noise.snr_db' must hold two numbers, least and most, or none, and was given \[5\]"),
        ({"noise__count": 0}, "'augment.noise.count' must be at least 1, and was given 0"),
        ({"band_limit__low_pass": [0, 5]}, r"'augment.band_limit.low_pass' must hold two positive numbers.*given \[0, 5\]"),
        ({"band_limit__probability": 0.5, "band_limit__low_pass": [], "band_limit__high_pass": []}, "needs a range in low_pass or high_pass"),
        ({"mixup__of": "labels"}, "unknown augment.mixup.of 'labels': choose one of features, waveform"),
        ({"mask__time_width": 2.0}, r"'augment.mask.time_width' must lie in \[0, 1\], and was given 2.0"),
        ({"start": ["noise"]}, "'augment.start' must hold name=duration, as in 'noise=10 epochs', and was given 'noise'"),
        ({"start": ["nois=3 epochs"]}, "unknown augmentation in augment.start 'nois' .did you mean 'noise'..: choose one of band_limit"),
        ({"start": ["noise=3 weeks"]}, "'augment.start' must be a number and one of steps, epochs, examples.*given '3 weeks'"),
        ({"refresh": ["noise=0.5"]}, "'augment.refresh' must hold whole numbers of at least 1, and was given noise=0.5"),
        ({"refresh": ["nose=5"]}, "unknown augmentation in augment.refresh 'nose'"),
    ],
)  # fmt: skip
def test_bad_values_get_a_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        section("augment", **changes)


def test_masks_need_features_of_two_axes(tones):
    with pytest.raises(UserError, match=r"augment.mask needs features \(frames, bins\), and front end 'waveform' computes"):
        small_config(tones, "bytenet", augment__mask__time=1)
