"""Silence mask, loudness equaliser and log-MMSE against their definitions in float64 NumPy, and on noisy speech."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import signals

from genre_jax.console import UserError
from genre_jax.frontends import conditioning

special = pytest.importorskip("scipy.special")
SR = 16000


def noisy(decibels, clean, seed=3):
    """Return the clean signal and its sum with white noise at an SNR in dB. Both start with 0.2 s without the signal."""
    clean = np.concatenate([np.zeros(SR // 5), clean])
    noise = np.random.default_rng(seed).normal(size=clean.size)
    noise *= np.sqrt(np.mean(clean[SR // 5 :] ** 2) / 10 ** (decibels / 10)) / noise.std()
    return clean, clean + noise


@functools.cache
def syllables():
    """Return 1.1 s of harmonic tones with a gliding pitch, in four syllables per second; the number of samples is odd."""
    time = np.arange(int(1.1 * SR) + 1) / SR
    pitch = 2 * np.pi * (140 * time + 15 * np.sin(2 * np.pi * time))
    tone = sum(np.sin(k * pitch) / k for k in range(1, 12))
    return 0.1 * tone * np.clip(np.sin(2 * np.pi * 4 * time), 0, 1)


# --- silence_mask


def mask_by_definition(y, frame_length, hop_length, threshold_db, ref):
    padded = np.pad(y.astype(np.float64), frame_length // 2)
    starts = range(0, padded.size - frame_length + 1, hop_length)
    power = np.array([np.mean(padded[s : s + frame_length] ** 2) for s in starts])
    return 10 * np.log10(power / (power.max() if ref == "max" else ref) + 1e-300) > -threshold_db


@pytest.mark.parametrize(
    ("frame_length", "hop_length", "threshold_db"), [(400, 160, 40.0), (511, 187, 25.0), (2048, 512, 60.0)]
)
def test_silence_mask_is_the_definition(frame_length, hop_length, threshold_db):
    rng = np.random.default_rng(0)
    burst = rng.normal(0, 0.2, 9001) * np.repeat([1, 1e-4, 0.03, 0, 0.3], 1801)[:9001]
    y = np.stack([burst, *(signals.signals()[name] for name in ("noise", "sweep", "impulse"))]).astype(np.float32)
    for ref in ("max", 0.01):
        options = {"frame_length": frame_length, "hop_length": hop_length, "threshold_db": threshold_db, "ref": ref}
        ours = conditioning.silence_mask(y, **options)
        np.testing.assert_array_equal(ours, [mask_by_definition(one, **options) for one in y])
        assert ours.dtype == np.float32


def test_silence_mask_decides_as_librosa():
    librosa = pytest.importorskip("librosa")
    y = np.random.default_rng(1).normal(0, 0.2, 9001) * np.repeat([1, 1e-5, 0.03, 0, 0.3], 1801)[:9001]
    kept = np.zeros(9001, bool)
    for start, end in librosa.effects.split(y.astype(np.float32), top_db=35, frame_length=512, hop_length=128):
        kept[start:end] = True
    mask = conditioning.silence_mask(jnp.asarray(y, jnp.float32), frame_length=512, hop_length=128, threshold_db=35)
    np.testing.assert_array_equal(np.repeat(np.asarray(mask) > 0, 128)[:9001], kept)


def test_silence_mask_of_silence_is_0_and_of_nan_is_nan():
    np.testing.assert_array_equal(conditioning.silence_mask(jnp.zeros((2, 3000))), np.zeros((2, 6)))
    for bad in (np.nan, np.inf):
        y = jnp.ones(5000).at[2500].set(bad)
        assert np.isnan(jax.jit(conditioning.silence_mask)(y)).all()
        fixed = jax.jit(functools.partial(conditioning.silence_mask, frame_length=400, hop_length=200, ref=1.0))(y)
        assert np.isnan(fixed[12:14]).all() and not np.isnan(fixed[:11]).any() and not np.isnan(fixed[16:]).any()


# --- equalise_loudness


def equalised_by_definition(y, length, hop, taper, floor=1e-4):
    y = y.astype(np.float64)
    total, weight = np.zeros(y.size + length + hop), np.zeros(y.size + length + hop)
    for start in range(0, max(1, y.size - length + hop), hop):
        frame = y[start : start + length]
        total[start : start + frame.size] += frame / max(frame.std(), floor) * taper[: frame.size]
        weight[start : start + frame.size] += taper[: frame.size]
    return total[: y.size] / weight[: y.size]


@pytest.mark.parametrize(
    ("samples", "sr", "frame", "hop", "window"),
    [
        (9001, 16000, 0.25, 0.01, "hann"),
        (9001, 16000, 0.2, 0.01, "boxcar"),  # frames of the author's earlier code
        (9001, 11025, 0.0991, 0.0037, "hann"),  # a hop that does not divide the frame
        (9001, 8000, 0.01, 0.01, "hamming"),
        (300, 16000, 0.25, 0.01, "hann"),  # shorter than a frame
    ],
)
def test_equaliser_is_the_definition(samples, sr, frame, hop, window):
    y = signals.batch()[:, :samples]
    options = {"sr": sr, "frame": frame, "hop": hop, "window": window}
    ours = jax.jit(functools.partial(conditioning.equalise_loudness, **options))(y)
    length = round(frame * sr)
    taper = {"hann": np.hanning(length + 2)[1:-1], "boxcar": np.ones(length)}.get(window)
    if taper is None:
        taper = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(1, length + 1) / (length + 1))
    expected = [equalised_by_definition(clip, length, round(hop * sr), taper) for clip in y]
    assert ours.shape == y.shape
    assert signals.worst(ours, np.stack(expected)) < 1e-5


@pytest.mark.parametrize(("frame", "window"), [(0.25, "hann"), (0.2, "boxcar")])
def test_a_step_of_30_db_comes_out_level(frame, window):
    y = np.random.default_rng(5).normal(0, 0.2, 2 * SR)
    y[SR:] *= 10**-1.5
    equalise = jax.jit(functools.partial(conditioning.equalise_loudness, sr=SR, frame=frame, window=window))
    ours = np.asarray(equalise(jnp.asarray(y, jnp.float32)))
    level = ours[: 8 * 4000].reshape(8, 4000).std(-1)
    np.testing.assert_allclose(np.delete(level, [3, 4]), 1, atol=0.03)  # parts of 250 ms; the step is between 3 and 4


def test_equalised_signal_does_not_depend_on_the_gain():
    y = signals.signals()["noise"]
    ours = conditioning.equalise_loudness(jnp.stack([y, 30 * y, 0.01 * y]), sr=SR)
    np.testing.assert_allclose(ours[1:], ours[np.zeros(2, int)], rtol=2e-4, atol=1e-5)


# --- log_mmse


def test_exp1_and_its_gradient():
    x = np.concatenate([np.geomspace(1e-8, 50, 3000), [1.0, 0.9999999, 1.0000001]]).astype(np.float32)
    exact = x.astype(np.float64)
    ours = jax.jit(conditioning.exp1)(jnp.asarray(x))
    assert np.max(np.abs(ours / special.exp1(exact) - 1)) < 1e-6
    slope = jax.jit(jax.vmap(jax.grad(conditioning.exp1)))(jnp.asarray(x))
    assert np.max(np.abs(slope / (-np.exp(-exact) / exact) - 1)) < 1e-6
    with jax.enable_x64(True):
        assert np.max(np.abs(jax.jit(conditioning.exp1)(jnp.asarray(exact)) / special.exp1(exact) - 1)) < 1e-12
    assert np.isnan(jax.jit(conditioning.exp1)(jnp.float32(np.nan)))


def log_mmse_by_definition(y, sr, noise_frames=6, alpha=0.98, smoothing=0.98, threshold=0.15):
    """Compute log-MMSE frame by frame over the full spectrum. Also returns the least distance of the ratio to its threshold."""
    length = int(0.02 * sr)
    length += length % 2
    hop = length // 2
    taper = np.hanning(length + 2)[1:-1]
    taper *= hop / taper.sum()
    y = y.astype(np.float64)
    starts = np.arange(noise_frames) * length
    noise = np.mean([np.abs(np.fft.fft(taper * y[s : s + length], 2 * length)) for s in starts], axis=0) ** 2
    noise = np.maximum(noise, 1e-10)
    out, before, margin = np.zeros(y.size + 2 * length), None, np.inf
    padded = np.pad(y, (0, 2 * length))
    for start in range(0, y.size, hop):
        spectrum = np.fft.fft(taper * padded[start : start + length], 2 * length)
        power = np.abs(spectrum) ** 2
        gamma = np.minimum(power / noise, 40)
        previous = 1 if before is None else before / noise
        xi = np.maximum(alpha * previous + (1 - alpha) * np.maximum(gamma - 1, 0), 10 ** (-25 / 10))
        ratio = np.sum(gamma * xi / (1 + xi) - np.log(1 + xi)) / length
        margin = min(margin, abs(ratio - threshold))
        if ratio < threshold:
            noise = np.maximum(smoothing * noise + (1 - smoothing) * power, 1e-10)
        v = gamma * xi / (1 + xi)
        gain = xi / (1 + xi) * np.exp(0.5 * special.exp1(np.maximum(v, 1e-300)))
        gain = np.where(power > 0, gain, 0)
        before = (gain * np.abs(spectrum)) ** 2
        out[start : start + length] += np.fft.ifft(gain * spectrum).real[:length]
    return out[: y.size], margin


run = jax.jit(conditioning.log_mmse, static_argnames=("sr", "frame", "noise_frames", "alpha", "smoothing", "threshold"))


@pytest.mark.parametrize(
    ("sr", "options"),
    [(16000, {}), (11025, {"noise_frames": 4}), (8000, {"alpha": 0.9, "smoothing": 0.8, "threshold": 0.3})],
)
def test_log_mmse_is_the_definition(sr, options):
    """Skips clips with a likelihood ratio within 1e-5 of the threshold, because float32 may decide differently there."""
    clips = [noisy(d, syllables(), seed)[1][:15001] for d, seed in ((0, 3), (10, 4))]
    clips += [np.pad(one, (3000, 3000)) + 0.01 * clips[0] for one in signals.signals().values()]
    y = np.stack(clips).astype(np.float32)
    ours = np.asarray(run(jnp.asarray(y), sr=sr, **options))
    expected, margins = zip(*(log_mmse_by_definition(one, sr, **options) for one in y), strict=True)
    safe = np.array(margins) > 1e-5
    assert safe.sum() > len(y) / 2
    assert ours.shape == y.shape
    assert signals.worst(ours[safe], np.stack(expected)[safe]) < 1e-4


def snr_gain(clean, mixed, decibels):
    """Return by how many dB the SNR of the whole signal improves, from 0.2 s on."""
    ours = np.asarray(run(jnp.asarray(mixed, jnp.float32), sr=SR))
    before, after = (np.sum((x - clean)[SR // 5 :] ** 2) for x in (mixed, ours))
    return 10 * np.log10(before / after)


@pytest.mark.parametrize("decibels", [0, 5, 10])
def test_log_mmse_gains_more_than_3_db_on_syllables(decibels):
    assert snr_gain(*noisy(decibels, syllables()), decibels) > 3


@pytest.mark.parametrize("decibels", [0, 5, 10])
def test_log_mmse_gains_more_than_3_db_on_speech(decibels):
    paths = sorted((signals.AUDIO / "speech").glob("*.ogg"))
    if not paths:
        pytest.skip("no real clips here")
    soundfile = pytest.importorskip("soundfile")
    for path in paths:
        y, sr = soundfile.read(path, frames=4 * SR)
        assert sr == SR
        assert snr_gain(*noisy(decibels, y), decibels) > 3, path.name


def test_log_mmse_of_silence_is_silence_and_after_it_the_signal_passes_but_for_its_first_frame():
    np.testing.assert_array_equal(run(jnp.zeros((2, 4001)), sr=SR), np.zeros((2, 4001)))
    y = np.concatenate([np.zeros(3200), 0.5 * np.sin(2 * np.pi * 440 * np.arange(3201) / SR)])
    ours = run(jnp.asarray(y, jnp.float32), sr=SR)
    np.testing.assert_allclose(ours[3200 + 320 :], y[3200 + 320 :], atol=0.01)


# --- all


CALLS = {
    "equalise_loudness": functools.partial(conditioning.equalise_loudness, sr=SR, frame=0.05),
    "log_mmse": functools.partial(conditioning.log_mmse, sr=SR),
    "silence_mask": functools.partial(conditioning.silence_mask, frame_length=400, hop_length=160),
}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_batches_gradients_and_nan(name):
    call = CALLS[name]
    y = jnp.asarray(np.random.default_rng(2).normal(0, 0.1, (2, 3, 2601)), jnp.float32)
    run = jax.jit(call)
    together = run(y)
    assert together.shape[:2] == (2, 3) and together.dtype == np.float32
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.vmap(call)))(y), together, atol=1e-5)
    np.testing.assert_allclose(run(y[1, 2]), together[1, 2], atol=1e-5)
    slope = jax.jit(jax.grad(lambda y: jnp.sum(call(y) * jnp.cos(jnp.arange(together.shape[-1])))))
    for signal in (y, jnp.zeros_like(y), y.at[..., :2000].set(0)):
        assert np.isfinite(slope(signal)).all()
    for bad in (np.nan, np.inf):
        ours = np.isnan(run(y.at[0, 1, 1300].set(bad)))
        touched = slice(1300, 1301) if together.shape[-1] == 2601 else slice(8, 9)
        assert ours[0, 1, touched].all() and not ours[0, 0].any() and not ours[1].any()
    assert jax.eval_shape(call, y.astype(jnp.float16)).dtype == np.float32


@pytest.mark.parametrize("name", sorted(CALLS))
def test_double_precision_goes_through(name):
    with jax.enable_x64(True):
        y = np.random.default_rng(2).normal(0, 0.1, 2601)
        ours = jax.jit(CALLS[name])(y)
        assert ours.dtype == np.float64
        if name == "log_mmse":
            assert signals.relative(ours, log_mmse_by_definition(y, SR)[0]) < 1e-10
        if name == "equalise_loudness":
            assert signals.relative(ours, equalised_by_definition(y, 800, 160, np.hanning(802)[1:-1])) < 1e-12


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda y: conditioning.silence_mask(y, threshold_db=-1), "threshold_db must be at least 0, and was given -1"),
        (lambda y: conditioning.silence_mask(y, ref="min"), "ref must be a power above 0 or 'max', and was given 'min'"),
        (lambda y: conditioning.silence_mask(y, ref=0.0), "ref must be a power above 0 or 'max', and was given 0.0"),
        (lambda y: conditioning.silence_mask(y, hop_length=0), "hop_length must be at least 1, and was given 0"),
        (lambda y: conditioning.equalise_loudness(y, sr=SR, frame=0), "frame must be at least one sample of sr = 16000 Hz, and was given 0 s"),
        (lambda y: conditioning.equalise_loudness(y, sr=SR, hop=0.3), r"hop must lie in \(0, frame = 0.25\] s, and was given 0.3"),
        (lambda y: conditioning.equalise_loudness(y, sr=SR, floor=0), "floor must be positive, and was given 0"),
        (lambda y: conditioning.equalise_loudness(y[:0], sr=SR), "at least 1 sample, and has 0"),
        (lambda y: conditioning.equalise_loudness(y, sr=SR, window="round"), "window must be a window of .*, and was given 'round'"),
        (lambda y: conditioning.log_mmse(y, sr=SR), "at least 1920 samples .noise_frames = 6 of 320 samples., and has 1000"),
        (lambda y: conditioning.log_mmse(y, sr=SR, frame=0), "frame must be at least one sample of sr = 16000 Hz, and was given 0 s"),
        (lambda y: conditioning.log_mmse(y, sr=SR, noise_frames=0), "noise_frames must be at least 1, and was given 0"),
        (lambda y: conditioning.log_mmse(y, sr=SR, alpha=1), r"alpha must lie in \[0, 1\) and smoothing in \[0, 1\], and were given 1, 0.98"),
        (lambda y: conditioning.log_mmse(y.astype(jnp.int16), sr=SR), "needs a .*waveform of floats .* was given int16"),
    ],
)  # fmt: skip
def test_bad_arguments_get_a_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(jnp.zeros(1000))
