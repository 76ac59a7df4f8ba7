"""Synthetic music: reproducible, balanced between genres, with disjoint splits, and not easier than it claims."""

import dataclasses
import hashlib
import subprocess
import sys
from collections import Counter

import librosa
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from genre_jax.console import UserError
from genre_jax.datasets import DATASETS
from genre_jax.datasets.synthetic import TRACKS, music, scene
from genre_jax.datasets.synthetic.difficulty import DIFFICULTIES, HARD, PLAIN
from genre_jax.datasets.synthetic.music import SPLITS
from genre_jax.datasets.synthetic.recipes import GENRES, PITCHED, RECIPES

RATE = 8000
PAIRS = [("house", "jungle", "rhythm"), ("march", "swing", "rhythm"), ("hymn", "noir", "harmony")]


def decibels(audio):
    return 10 * np.log10(np.mean(np.square(audio)))


def features(genre, track, split, difficulty):
    """Returns RMS and spectral centroid (mean and deviation of each), MFCC means, level in dB and peak of a track."""
    audio = music.render(genre, track, split, sample_rate=RATE, seconds=5.0, difficulty=difficulty)
    rms = librosa.feature.rms(y=audio)
    centroid = librosa.feature.spectral_centroid(y=audio, sr=RATE)
    mfcc = librosa.feature.mfcc(y=audio, sr=RATE, n_mfcc=20)
    plain = [rms.mean(), rms.std(), centroid.mean(), centroid.std()]
    return np.array([*plain, *mfcc.mean(1), decibels(audio), np.abs(audio).max()])


def table(difficulty):
    """Returns {split: (genres, tracks, features)}."""
    sizes = {"train": 20, "test": 8}
    return {s: np.array([[features(g, t, s, difficulty) for t in range(n)] for g in GENRES]) for s, n in sizes.items()}


@pytest.fixture(scope="module")
def tracks():
    return table(PLAIN)


@pytest.fixture(scope="module")
def hard_tracks():
    return table(HARD)


def accuracy(tracks, columns):
    """Returns the accuracy of a logistic regression on held-out tracks."""
    rows = {split: table[..., columns].reshape(-1, len(columns)) for split, table in tracks.items()}
    labels = {split: np.repeat(np.arange(len(GENRES)), table.shape[1]) for split, table in tracks.items()}
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return model.fit(rows["train"], labels["train"]).score(rows["test"], labels["test"])


@pytest.mark.slow
def test_loudness_and_centroid_do_not_tell_the_genre(tracks):
    assert accuracy(tracks, range(4)) <= 0.40


@pytest.mark.slow
def test_mean_spectrum_does_not_tell_the_genre(tracks):
    assert accuracy(tracks, range(4, 24)) <= 0.80


@pytest.mark.slow
def test_the_hard_set_is_not_solved_by_its_mean_spectrum(hard_tracks):
    assert accuracy(hard_tracks, range(4)) <= 0.40 and accuracy(hard_tracks, range(4, 24)) <= 0.55


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["tracks", "hard_tracks"])
def test_genres_are_equally_loud(fixture, request):
    level = request.getfixturevalue(fixture)["train"][..., 24].mean(1)
    assert np.all(np.abs(level - level.mean()) < 1.5), dict(zip(GENRES, level.round(1), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["tracks", "hard_tracks"])
def test_peaks_leave_room_and_are_not_small(fixture, request):
    for table in request.getfixturevalue(fixture).values():
        peaks = table[..., 25]
        assert peaks.min() > 0.25 and peaks.max() <= 0.95


@pytest.mark.parametrize("difficulty", [PLAIN, HARD])
@pytest.mark.parametrize("rate", [8000, 11025])
def test_a_track_is_a_pure_function_and_a_shorter_one_its_beginning(rate, difficulty):
    arguments = {"sample_rate": rate, "difficulty": difficulty}
    long = music.render("raga", 3, "test", seconds=40.0, **arguments)
    assert long.dtype == np.float32 and long.shape == (40 * rate,)
    for seconds in (0.01, 1.5, 10.0):
        short = music.render("raga", 3, "test", seconds=seconds, **arguments)
        np.testing.assert_array_equal(short, long[: len(short)])
    assert np.abs(long[:8000] - music.render("raga", 4, "test", seconds=1.0, **arguments)[:8000]).max() > 0.01
    assert decibels(long[-10 * rate :]) == pytest.approx(decibels(long[: 10 * rate]), abs=6)  # it goes on to the end


@pytest.mark.parametrize(
    ("track", "expected"),
    [
        (("raga", 3, "test"), [-0.027571, -0.03735, -0.191076, 0.161199, 0.032997, -0.273852, 0.09176, 0.030782]),
        (("house", 0, "train"), [-0.078784, 0.135885, 0.2467, 0.008877, -0.048323, 0.020813, -0.219163, 0.359342]),
        (("waltz", 7, "validation"), [-0.015656, -0.201309, -0.1171, -0.069578, -0.005512, 0.150482, 0.109353, 0.00532]),
    ],
)
def test_the_plain_set_stays_as_it_was_before_the_hard_set(track, expected):
    audio = music.render(*track, sample_rate=8000, seconds=2.0)
    np.testing.assert_allclose(audio[1000::2000], expected, atol=2e-6)  # NumPy rounds exp and sin differently on each CPU


def test_draws_are_the_same_in_another_process():
    script = (
        "import hashlib; from genre_jax.datasets.synthetic import difficulty, music\n"
        "print(music.draw('waltz', 7, 'validation'), music.draw('waltz', 7, 'validation', difficulty.HARD))\n"
        "print(hashlib.sha256(music.render('waltz', 7, seconds=3.0, difficulty=difficulty.HARD).tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    draws = [str(music.draw("waltz", 7, "validation", difficulty)) for difficulty in (PLAIN, HARD)]
    digest = hashlib.sha256(music.render("waltz", 7, seconds=3.0, difficulty=HARD).tobytes()).hexdigest()
    assert printed == f"{' '.join(draws)}\n{digest}\n"


def test_a_track_sounds_alike_at_both_rates():
    low, high = (music.render("hymn", 0, sample_rate=rate, seconds=8.0) for rate in (8000, 16000))
    spectra = [np.abs(np.fft.rfft(audio))[800:12_000] / len(audio) for audio in (low, high)]  # 100 to 1500 Hz
    assert np.corrcoef(*spectra)[0, 1] > 0.95


@pytest.mark.parametrize("name", DIFFICULTIES)
@pytest.mark.parametrize("genre", GENRES)
def test_splits_share_no_draw(genre, name):
    difficulty = DIFFICULTIES[name]
    draws = {split: [music.draw(genre, track, split, difficulty) for track in range(300)] for split in SPLITS}
    low, high = difficulty.tempi(RECIPES[genre])
    for field in dataclasses.fields(music.Draw):
        seen = {split: {getattr(drawn, field.name) for drawn in draws[split]} for split in SPLITS}
        for one, other in [("train", "validation"), ("train", "test"), ("validation", "test")]:
            assert not seen[one] & seen[other], field.name
        if field.name == "key":
            assert set.union(*seen.values()) == set(range(12))
            continue
        # The values are disjoint by design: every value is in a cell of its split.
        scale = {"tempo": (low, high), "tuning": (-music.TUNING_CENTS, music.TUNING_CENTS)}
        first, last = scale.get(field.name, (0.0, 1.0))
        cells = {s: {int((v - first) / (last - first) * music.CELLS) for v in seen[s]} for s in SPLITS}
        assert [len(cells[split]) for split in SPLITS] == [16, 8, 8]
        assert not cells["train"] & cells["validation"] and not cells["train"] & cells["test"]
        assert not cells["validation"] & cells["test"]


# ---------------------------------------------------------------- the hard set


def scenes(genre, count=100, rate=8000):
    """Returns the scenes of some tracks of the hard set."""
    draws = [np.random.default_rng([track, GENRES.index(genre)]) for track in range(count)]
    return [scene.Scene.draw(HARD, RECIPES[genre], rng, rate) for rng in draws]


def test_genres_of_the_hard_set_share_tempi_and_instruments():
    tempi = {genre: [music.draw(genre, track, "train", HARD).tempo for track in range(100)] for genre in GENRES}
    slowest, fastest = max(map(min, tempi.values())), min(map(max, tempi.values()))  # what every genre reaches
    assert fastest - slowest > 0.9 * (HARD.tempo[1] - HARD.tempo[0])
    for genre in GENRES:
        for instrument in PITCHED:
            timbres = Counter(drawn.timbres[instrument] for drawn in scenes(genre))
            assert timbres.keys() == set(HARD.timbres), (genre, instrument)
            assert 0.35 < timbres[RECIPES[genre].timbre] / timbres.total() < 0.75  # ½ and a seventh of ½
    plain = scene.Scene.draw(PLAIN, RECIPES["raga"], np.random.default_rng(0), 8000)
    assert plain.timbres == dict.fromkeys(PITCHED, RECIPES["raga"].timbre)


def test_a_plain_scene_changes_nothing():
    plain = scene.Scene.draw(PLAIN, RECIPES["raga"], np.random.default_rng(0), 8000)
    audio = np.random.default_rng(1).standard_normal(4001)
    assert plain.whole(4001) == 4001 and plain.performed(1.2345) == 1.2345
    assert plain.heard(audio, 1.0, np.random.default_rng(2), 8000) is audio


def test_the_tempo_drifts_within_its_bound_and_from_the_start():
    for drawn in scenes("hymn"):
        times = np.linspace(0.0, 60.0, 6001)
        played = np.array([drawn.performed(time) for time in times])
        speed = np.diff(played) / np.diff(times)
        assert played[0] == 0.0 and np.abs(speed - 1).max() <= HARD.drift
        assert np.abs(speed - 1).max() == pytest.approx(drawn.drift, rel=1e-3)


@pytest.mark.parametrize("rate", [8000, 22050])
def test_the_room_is_noise_that_decays(rate):
    for drawn in scenes("hymn", count=5, rate=rate):
        energy = drawn.room**2
        assert energy.sum() == pytest.approx(1.0)
        left = 10 * np.log10(np.cumsum(energy[::-1])[::-1][: len(energy) // 2])  # Schroeder's decay curve in dB
        fall = np.polyfit(np.arange(len(left)) / rate, left, 1)[0]
        assert HARD.room[0] < -60 / fall * 1.25 and -60 / fall * 0.8 < HARD.room[1]


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_the_room_is_a_convolution(blocks):
    rng = np.random.default_rng(blocks)
    response, audio = rng.standard_normal(45), rng.standard_normal(45 * blocks)
    np.testing.assert_allclose(scene._convolve(audio, response), np.convolve(audio, response)[: len(audio)], atol=1e-12)


def test_the_noise_has_its_level_below_4_khz_at_each_rate():
    base = scene.Scene.draw(PLAIN, RECIPES["raga"], np.random.default_rng(0), 8000)
    noisy = dataclasses.replace(base, noise=0.25, noise_tilt_db=0.0)
    for rate in (8000, 22050):
        audio = noisy.heard(np.zeros(4 * rate), 2.0, np.random.default_rng(3), rate)
        power = np.abs(np.fft.rfft(audio)[: 4 * 4000]) ** 2
        assert np.sqrt(2 * power.sum()) / len(audio) == pytest.approx(0.5, rel=0.02)


def test_an_exact_share_of_each_split_has_a_wrong_label():
    hard, again = DATASETS["synthetic_hard"](), DATASETS["synthetic_hard"]()
    assert hard.items == again.items and hard.labels == GENRES
    assert Counter(item.split for item in hard.items) == {split: 10 * tracks for split, tracks in TRACKS.items()}
    wrong = [item for item in hard.items if item.labels[0] != item.name.split("/")[1]]
    assert Counter(item.split for item in wrong) == {"train": 16, "validation": 4, "test": 6}
    assert len({item.labels[0] for item in wrong}) > 5 and all(len(item.labels) == 1 for item in hard.items)
    assert all(item.labels[0] == item.name.split("/")[1] for item in DATASETS["synthetic"]().items)


def test_the_hard_set_renders_what_its_clips_name():
    source = DATASETS["synthetic_hard"]()
    item = next(item for item in source.items if item.labels[0] != item.name.split("/")[1])
    split, genre, track = item.name.split("/")
    expected = music.render(genre, int(track), split, sample_rate=8000, difficulty=HARD)
    rendered = source.render(item, 8000)
    np.testing.assert_array_equal(rendered.audio.samples, expected)
    assert rendered.labels is None
    plain = music.render(genre, int(track), split, sample_rate=8000)
    assert np.corrcoef(plain, expected)[0, 1] < 0.9


# ---------------------------------------------------------------- the recipes


@pytest.mark.parametrize(("one", "other", "field"), PAIRS)
def test_pairs_differ_in_one_field_alone(one, other, field):
    one, other = dataclasses.asdict(RECIPES[one]), dataclasses.asdict(RECIPES[other])
    assert {name for name in one if one[name] != other[name]} == {field}


@pytest.mark.parametrize(("one", "other"), [pair[:2] for pair in PAIRS[:2]])
def test_rhythm_pairs_strike_equally_often(one, other):
    for instrument in music.INSTRUMENTS:
        counts = [getattr(RECIPES[genre].rhythm, instrument).count("x") for genre in (one, other)]
        assert counts[0] == counts[1], instrument


def test_harmony_pair_has_the_same_roots_and_number_of_voices():
    hymn, noir = ([(root, len(voices)) for root, voices in RECIPES[genre].harmony.progression] for genre in ("hymn", "noir"))
    assert hymn == noir


@pytest.mark.parametrize("genre", GENRES)
def test_patterns_fit_their_bar(genre):
    rhythm = RECIPES[genre].rhythm
    for instrument in music.INSTRUMENTS:
        pattern = getattr(rhythm, instrument)
        assert set(pattern) <= set("xo-.") and set(pattern) & set("xo"), instrument
        assert len(pattern) % rhythm.beats == 0, instrument


def test_multilabel_mixes_one_to_three_genres_at_equal_loudness():
    mixes = [music.render_multilabel(track, sample_rate=8000, seconds=2.0) for track in range(40)]
    assert {len(names) for _, names in mixes} == {1, 2, 3}
    assert {name for _, names in mixes for name in names} == set(GENRES)
    for audio, names in mixes:
        assert audio.dtype == np.float32 and audio.shape == (16_000,) and 0.2 < np.abs(audio).max() <= 0.95
        assert list(names) == sorted(set(names), key=GENRES.index)
        assert decibels(audio) == pytest.approx(20 * np.log10(music.LOUDNESS), abs=2.0)
    track = next(track for track, (_, names) in enumerate(mixes) if len(names) == 3)
    audio, names = mixes[track]
    parts = np.stack([music.render(name, track, sample_rate=8000, seconds=2.0) for name in names], 1)
    weights = np.linalg.lstsq(parts / parts.std(0), audio, rcond=None)[0]
    assert weights.max() / weights.min() < 1.3
    np.testing.assert_array_equal(audio, music.render_multilabel(track, sample_rate=8000, seconds=2.0)[0])
    other, _ = music.render_multilabel(track, "test", sample_rate=8000, seconds=2.0)
    assert not np.array_equal(audio, other)


@pytest.mark.parametrize(("colour", "slope"), [("white", 0.0), ("pink", -1.0), ("brown", -2.0)])
def test_noise_has_the_slope_of_its_colour(colour, slope):
    audio = music.noise(5, sample_rate=RATE, seconds=8.0, colour=colour)
    assert audio.dtype == np.float32 and audio.shape == (64_000,) and np.abs(audio).max() == pytest.approx(0.9)
    power = np.abs(np.fft.rfft(audio)) ** 2
    edges = 50 * 2.0 ** np.arange(7)  # octaves from 50 to 3200 Hz
    octaves = [power[int(low * 8) : int(low * 16)].mean() for low in edges[:-1]]
    assert np.polyfit(np.log(edges[:-1]), np.log(octaves), 1)[0] == pytest.approx(slope, abs=0.08)
    np.testing.assert_array_equal(audio, music.noise(5, sample_rate=RATE, seconds=8.0, colour=colour))


@pytest.mark.parametrize("speakers", [1, 3])
def test_babble_is_modulated_at_the_rate_of_syllables(speakers):
    peaks = []
    for seed in range(4):
        audio = music.babble(seed, sample_rate=RATE, seconds=20.0, speakers=speakers)
        assert audio.dtype == np.float32 and audio.shape == (160_000,) and np.abs(audio).max() == pytest.approx(0.9)
        envelope = np.sqrt(np.square(audio).reshape(-1, 80).mean(1))  # 100 Hz
        spectrum = np.abs(np.fft.rfft(envelope - envelope.mean())) ** 2
        smooth = np.convolve(spectrum, np.ones(20) / 20, "same")  # 1 Hz wide
        peaks.append(smooth.argmax() / 20.0)
    assert all(2.0 < peak < 8.0 for peak in peaks), peaks
    np.testing.assert_array_equal(audio, music.babble(3, sample_rate=RATE, seconds=20.0, speakers=speakers))


def test_babble_lies_in_the_band_of_speech():
    power = np.abs(np.fft.rfft(music.babble(0, sample_rate=16000, seconds=10.0))) ** 2
    assert power[800:40_000].sum() / power.sum() > 0.9  # 80 to 4000 Hz


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: music.render("hose", 0), "unknown genre 'hose' (did you mean 'house'?): choose one of arcade, "),
        (lambda: music.draw("hymn", 0, "dev"), "unknown split 'dev': choose one of test, train, validation"),
        (lambda: music.render("hymn", -1), "track must be 0 or more, not -1"),
        (lambda: music.render("hymn", 0, sample_rate=4000), "sample_rate must be 8000 Hz or more, not 4000"),
        (lambda: music.render("hymn", 0, seconds=0.0), "seconds must make at least one sample, not 0.0"),
        (lambda: music.render_multilabel(0, "dev"), "unknown split 'dev': choose one of test, train, validation"),
        (lambda: music.noise(0, colour="blue"), "unknown noise colour 'blue': choose one of brown, pink, white"),
        (lambda: music.noise(-2), "seed must be 0 or more, not -2"),
        (lambda: music.babble(0, speakers=0), "speakers must be 1 or more, not 0"),
    ],
)
def test_errors_are_one_sentence_with_the_legal_values(call, sentence):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(sentence)


def test_importing_it_brings_no_framework():
    script = (
        "import sys, genre_jax.datasets.synthetic.music\n"
        "print([name for name in ('jax', 'tensorflow', 'librosa', 'sklearn') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
