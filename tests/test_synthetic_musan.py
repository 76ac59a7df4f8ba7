"""The embedded music, noise and speech: reproducible, varied, alike in loudness, and not told apart by a mean spectrum."""

from collections import Counter

import numpy as np
import pytest
from scipy import signal
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from genre_jax.console import UserError
from genre_jax.datasets import DATASETS
from genre_jax.datasets.synthetic import MUSAN_CLASSES, MUSAN_FILES, musan, noises, speech

RATE = speech.RATE


def spectrum(audio):
    """Returns the mean and the deviation of the level in dB in 20 bands, (40,)."""
    power = signal.spectrogram(audio, RATE, nperseg=400, noverlap=0, mode="magnitude")[2] ** 2
    bands = np.array([part.sum(0) for part in np.array_split(power, 20)])
    decibels = 10 * np.log10(bands + 1e-9)
    return np.concatenate([decibels.mean(1), decibels.std(1)])


@pytest.fixture(scope="module")
def sounds():
    """Returns {split: {class: waveforms of the first files}}."""
    sizes = {"train": 12, "test": 8}
    return {s: {name: [musan.render(name, n, s) for n in range(k)] for name in MUSAN_CLASSES} for s, k in sizes.items()}


def test_the_splits_are_those_of_document_003():
    source = DATASETS["synthetic_musan"]()
    assert source.labels == MUSAN_CLASSES and len({item.track for item in source.items}) == 300
    counts = Counter((item.split, item.labels[0]) for item in source.items)
    assert counts == {(split, name): count for split, count in MUSAN_FILES.items() for name in MUSAN_CLASSES}
    assert source.render(source.items[0], 8000).audio.samples.dtype == np.float32


def test_an_item_renders_the_file_that_it_names():
    source = DATASETS["synthetic_musan"]()
    item = next(item for item in source.items if item.name == "test/speech/0007")
    np.testing.assert_array_equal(source.render(item, 8000).audio.samples, musan.render("speech", 7, "test", sample_rate=8000))


@pytest.mark.parametrize("label", MUSAN_CLASSES)
def test_a_file_is_a_function_of_its_name_and_sounds_alike_at_each_rate(label):
    audio = musan.render(label, 3)
    np.testing.assert_array_equal(audio, musan.render(label, 3))
    assert audio.dtype == np.float32 and 6 * RATE <= len(audio) <= 12 * RATE and np.abs(audio).max() < 0.95
    for rate in (8000, 22050):
        other = musan.render(label, 3, sample_rate=rate)
        assert len(other) == round(len(audio) / RATE * rate)
        count = int(3000 * len(audio) / RATE)  # bins below 3 kHz
        spectra = [np.abs(np.fft.rfft(wave))[:count] / len(wave) for wave in (audio, other)]
        assert np.corrcoef(*spectra)[0, 1] > 0.999
    for another in (musan.render(label, 4), musan.render(label, 3, "test")):
        size = min(len(audio), len(another))
        assert abs(np.corrcoef(audio[:size], another[:size])[0, 1]) < 0.3


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("music", [0.177775, 0.046689, 0.067628, 0.036808, -0.210889, 0.081817, 0.125678, 0.025859]),
        ("noise", [-0.011688, 0.040631, -0.04212, 0.018068, -0.024031, -0.04218, 0.071509, -0.06526]),
        ("speech", [-0.014532, 0.006018, 0.012106, -0.014225, 0.101854, 0.066008, -0.047061, 0.095711]),
    ],
)
def test_the_files_stay_as_they_are(label, expected):
    np.testing.assert_allclose(musan.render(label, 7)[20_000:60_000:5000], expected, atol=2e-5)


def test_levels_overlap_and_a_mean_spectrum_does_not_solve_the_set(sounds):
    levels = {name: [10 * np.log10(np.mean(wave**2)) for wave in waves] for name, waves in sounds["train"].items()}
    means = [np.mean(level) for level in levels.values()]
    assert max(means) - min(means) < 4 and all(np.std(level) > 3 for level in levels.values()), levels
    rows = {split: np.array([spectrum(wave) for waves in of.values() for wave in waves]) for split, of in sounds.items()}
    targets = {split: np.repeat(np.arange(3), len(of["music"])) for split, of in sounds.items()}

    def score(columns):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
        return model.fit(rows["train"][:, columns], targets["train"]).score(rows["test"][:, columns], targets["test"])

    assert score(slice(0, 20)) <= 0.85 and score(slice(0, 40)) >= 0.6  # chance is 1/3


def test_a_voice_has_a_pitch_syllables_and_pauses():
    for seed in range(4):
        voice = speech.Voice.draw(np.random.default_rng(seed))
        audio = speech.speak(np.random.default_rng(seed), 12 * RATE)
        assert audio.shape == (12 * RATE,) and np.mean(audio**2) == pytest.approx(1.0)
        envelope = np.sqrt(np.square(audio).reshape(-1, 160).mean(1))  # 100 Hz
        assert np.mean(envelope < 0.02 * envelope.max()) > 0.03  # pauses and closures
        sounding = np.flatnonzero(envelope > 0.02 * envelope.max())
        assert 0.13 < np.diff(sounding).max() / 100 < 1.2  # seconds of the longest pause; a stop closes for 80 ms at most
        power = np.abs(np.fft.rfft(envelope - envelope.mean())) ** 2
        assert power[12:96].sum() > 0.4 * power[1:].sum()  # 1 to 8 Hz
        blocks = audio[: 11 * RATE].reshape(-1, 1600)
        loud = blocks[np.argsort(np.mean(blocks**2, axis=1))[-20:]]
        lags = np.arange(RATE // 400, RATE // 50)
        pitches = [RATE / lags[np.argmax([block[:-lag] @ block[lag:] / (len(block) - lag) for lag in lags])] for block in loud]
        assert 0.45 < np.median(pitches) / voice.pitch < 1.7, (seed, pitches, voice.pitch)


def test_voices_differ_and_span_the_range_of_pitch():
    pitches = [speech.Voice.draw(np.random.default_rng(seed)).pitch for seed in range(100)]
    assert min(pitches) < 100 and max(pitches) > 270 and 80 <= min(pitches) <= max(pitches) <= 300


@pytest.mark.parametrize("kind", noises.KINDS)
def test_recordings_of_a_kind_of_noise_differ(kind):
    waves = [noises.render(kind, np.random.default_rng(seed), 4 * RATE) for seed in range(3)]
    shapes = np.array([spectrum(wave)[:20] for wave in waves])
    assert all(np.mean(wave**2) == pytest.approx(1.0) for wave in waves)
    assert min(np.abs(shapes[a] - shapes[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 3.0  # dB


def test_some_noises_have_a_pitch():
    def strongest(kind):
        """Returns the share of the power in the strongest hundredth of the frequencies."""
        power = np.sort(np.abs(np.fft.rfft(noises.render(kind, np.random.default_rng(2), 4 * RATE))) ** 2)
        return power[-len(power) // 100 :].sum() / power.sum()

    assert min(strongest("hum"), strongest("alarm"), strongest("impacts")) > 0.6 > 0.3 > strongest("rain")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: musan.render("tone", 0), "unknown class 'tone': choose one of music, noise, speech"),
        (lambda: musan.render("music", 0, "dev"), "unknown split 'dev': choose one of test, train, validation"),
        (lambda: musan.render("noise", -1), "number must be 0 or more, not -1"),
        (lambda: musan.render("noise", 0, sample_rate=4000), "sample_rate must be 8000 Hz or more, not 4000"),
        (lambda: DATASETS["synthetic_musan"]("x"), "data set 'synthetic_musan' is synthesised and needs no source"),
    ],
)
def test_errors_are_one_sentence_with_the_legal_values(call, sentence):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(sentence)
