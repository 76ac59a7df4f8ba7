"""Simple baselines for the accuracy of a network: logistic regression on loudness and brightness, on timbre, or on musicnn.

The features of a clip are, for `rms_centroid`, the mean and standard deviation of its RMS and spectral centroid over
frames; for `mfcc_means` the means of 20 MFCCs; and for `musicnn` the mean of the 200 penultimate units of the published
network over windows side by side (`genre_jax.load("musicnn")`). They are standardised, and a multinomial logistic regression
is fitted on the training split. The predicted class of a track has the largest sum of probabilities over the clips, as in the
rule 'max_probability' of `metrics.votes`.
"""

import contextlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import genre_jax
from genre_jax import console, metrics
from genre_jax.atomic import write_json
from genre_jax.console import UserError
from genre_jax.data import select
from genre_jax.data.shards import Index
from genre_jax.weights import musicnn

MAX_CLIPS = 4_000  # per split, evenly spaced in the order of names; more clips cost minutes and hardly change the accuracy
MUSICNN_CLIPS = 150  # per split for musicnn, which takes about 0.04 s of a CPU core per 3 s of audio
MAX_SECONDS = 30  # used of each clip
NAMES = ("rms_centroid", "mfcc_means", "musicnn")
_N_FFT, _HOP = 2048, 512  # librosa's defaults, as are the 128 mel bands


def score(train: Index, test: Index) -> dict[str, float]:
    """Return the track accuracy on `test`, in [0, 1], of each baseline fitted on `train`: {"rms_centroid", "mfcc_means"}.

    Raises `UserError` if a clip does not have exactly one label, if there is only one class, or if scikit-learn or librosa
    is not installed.
    """
    for index in (train, test):
        if not len(index) or np.any(index.labels.sum(axis=1) != 1):
            raise UserError(f"split {index.split!r} of {index.data_set!r} has clips without exactly one label")
    if np.count_nonzero(train.labels.any(axis=0)) < 2:
        raise UserError(f"split {train.split!r} of {train.data_set!r} has clips of a single class")
    train_rows, test_rows = _spread(len(train), MAX_CLIPS), _spread(len(test), MAX_CLIPS)
    fitted, scored = _features(train, train_rows), _features(test, test_rows)
    return {name: _accuracy(train, train_rows, fitted[name], test, test_rows, scored[name]) for name in fitted}


def cached_score(folder: Path, train_split: str, test_split: str) -> tuple[dict[str, float] | None, str]:
    """Return (scores, "") of a prepared data set, or (None, reason) if the baselines do not apply.

    If the baseline `musicnn` alone cannot be computed, the scores of the others are returned with the reason. The scores are
    cached in `baselines.json` in the folder of the shards, if that file can be written.
    """
    try:
        train, test = (select.load(folder, split) for split in (train_split, test_split))
        key = f"{train_split} {len(train)} > {test_split} {len(test)}"
        cache = folder / "baselines.json"
        known = _read(cache)
        if key not in known:
            known[key] = score(train, test)
            _write(cache, known)
    except UserError as error:
        return None, str(error)
    try:
        if "musicnn" not in known[key]:
            known[key]["musicnn"] = _musicnn_score(train, test)
            _write(cache, known)
    except UserError as error:
        return known[key], str(error)
    return known[key], ""


def _musicnn_score(train: Index, test: Index) -> float:
    """Return the track accuracy of the baseline `musicnn` on splits that `score` takes.

    Raises `UserError` if JAX is not installed, or if the published weights are not in the cache: a report downloads nothing.
    """
    try:
        if not musicnn.cached("musicnn"):
            raise UserError('the weights of musicnn are not in the cache: genre_jax.load("musicnn") fetches them once')
        tagger = genre_jax.load("musicnn")
    except ImportError as error:
        raise UserError("the baseline musicnn needs JAX, which is not installed") from error
    train_rows, test_rows = _spread(len(train), MUSICNN_CLIPS), _spread(len(test), MUSICNN_CLIPS)
    fitted, scored = _embeddings(tagger, train, train_rows), _embeddings(tagger, test, test_rows)
    return _accuracy(train, train_rows, fitted, test, test_rows, scored)


def _accuracy(
    train: Index, train_rows: np.ndarray, fitted: np.ndarray, test: Index, test_rows: np.ndarray, scored: np.ndarray
) -> float:
    """The track accuracy of a logistic regression on the features of these rows."""
    tracks = test.track[test_rows]
    truth = metrics.group_targets(np.argmax(test.labels[test_rows], axis=1), tracks)
    return metrics.accuracy(truth, _answers(fitted, np.argmax(train.labels[train_rows], axis=1), scored, tracks))


def _spread(clips: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, clips - 1, min(clips, most)).round().astype(int))


def _cut(index: Index, row: int) -> np.ndarray:
    """The first `MAX_SECONDS` of a clip, float32 in [-1, 1]."""
    return index.cut(row, 0, min(int(index.length[row]), MAX_SECONDS * index.sample_rate)).astype(np.float32) / 32768


def _embeddings(tagger: Any, index: Index, rows: np.ndarray) -> np.ndarray:
    """Return the mean embedding `(clips, values)` of some rows of an index."""
    means = []
    pace = console.Pace()
    for done, row in enumerate(rows):
        if pace.due():
            console.note(f"baseline musicnn: {done:,} of {len(rows):,} clips of split {index.split!r}")
        means.append(tagger.tags(_cut(index, row), index.sample_rate).embeddings.mean(0))
    return np.array(means, np.float64)


def _features(index: Index, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return baseline → features `(clips, values)` of some rows of an index."""
    try:
        from librosa import feature, power_to_db, stft
    except ImportError as error:
        raise UserError("the baseline rows need librosa: pip install librosa") from error
    features: dict[str, list[np.ndarray]] = {"rms_centroid": [], "mfcc_means": []}
    sr = index.sample_rate
    for row in rows:
        audio = _cut(index, row)
        magnitude = np.abs(stft(np.pad(audio, (0, max(0, _N_FFT - len(audio)))), n_fft=_N_FFT, hop_length=_HOP))
        rms = feature.rms(S=magnitude, frame_length=_N_FFT)
        centroid = feature.spectral_centroid(S=magnitude, sr=sr, n_fft=_N_FFT)
        features["rms_centroid"].append(np.array([f(x) for x in (rms, centroid) for f in (np.mean, np.std)]))
        mel = feature.melspectrogram(S=magnitude**2, sr=sr, n_fft=_N_FFT)
        features["mfcc_means"].append(feature.mfcc(S=power_to_db(mel), sr=sr, n_mfcc=20).mean(axis=-1))
    return {name: np.array(rows, np.float64) for name, rows in features.items()}


def _answers(train: np.ndarray, targets: np.ndarray, test: np.ndarray, tracks: np.ndarray) -> np.ndarray:
    """Return the predicted class of each track of `test`, in ascending order of track number."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise UserError("the baseline rows need scikit-learn: pip install scikit-learn") from error
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
    with warnings.catch_warnings():  # separable toy sets never converge; the predicted classes are the same
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes")  # of sets with one track in many classes
        model.fit(train, targets)
    _, votes = metrics.group_sums(model.predict_proba(test), tracks)
    return model.classes_[np.argmax(votes, axis=1)]


def _read(cache: Path) -> dict[str, dict[str, float]]:
    """Returns the scores that the cache holds; scores that are damaged are computed again."""
    try:
        known = json.loads(cache.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: scores for key, scores in known.items() if _are_scores(scores)} if isinstance(known, dict) else {}


def _are_scores(scores: object) -> bool:
    """Whether a value is a map from names of baselines to accuracies in [0, 1]."""
    if not isinstance(scores, dict) or not scores or not scores.keys() <= set(NAMES):
        return False
    return all(isinstance(score, int | float) and 0 <= score <= 1 for score in scores.values())


def _write(cache: Path, known: dict[str, dict[str, float]]) -> None:
    with contextlib.suppress(OSError):  # a read-only data set is scored again at the next report
        write_json(cache, known)
