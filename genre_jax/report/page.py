"""The report of one or several runs: one HTML page, with its figures and audio files in the same folder.

    python -m genre_jax.report --output=DIR RUN…

RUN is a workdir. If a file of the run or the data set is missing, the page omits that part and says why. Confusions, class
scores and misclassified clips use the mean probability over the windows of a clip. This module needs neither JAX nor
TensorFlow.
"""

import contextlib
import importlib.util
import json
import math
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genre_jax import intervals, metrics
from genre_jax.atomic import write_text
from genre_jax.console import UserError
from genre_jax.data import shards
from genre_jax.report import baselines
from genre_jax.report.runs import LEVELS, Run, distinct, finite, read_run

NEEDED = ("matplotlib", "jinja2", "librosa")
CURVES = {
    "loss": "Loss",
    "accuracy": "Accuracy",
    "track_accuracy": "Track accuracy",
    "mean_average_precision": "Mean average precision",
    "top_k_accuracy": "Top-k accuracy",
    "roc_auc": "ROC area",
}
SCORES = {key: CURVES[key] for key in ("mean_average_precision", "roc_auc", "top_k_accuracy")}
OPTIMISER = {"learning_rate": "Learning rate", "gradient_norm": "Gradient norm"}
BASELINES = {
    "rms_centroid": "RMS + spectral centroid, logistic regression",
    "mfcc_means": "Means of 20 MFCCs, logistic regression",
}
WORST = 20  # clips with players
PLAYED_SECONDS = 60  # at most, of each clip


def write_report(workdirs: Sequence[str | Path], output: str | Path) -> Path:
    """Write the report of the runs in `workdirs` to `output/index.html`, with PNG and WAV files; return the path of the page.

    Raises `UserError` if a workdir holds no run, or if matplotlib, Jinja2 or librosa is not installed.
    """
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"the report needs {package}, which is not installed: pip install {package}")
    if not workdirs:
        raise UserError("no run given: name at least one workdir, as in runs/bytenet")
    import jinja2

    runs = distinct([read_run(Path(workdir)) for workdir in workdirs])
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    context = {
        "title": runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        "comparison": _comparison(runs, output) if len(runs) > 1 else None,
        "runs": [_section(run, output, "" if len(runs) == 1 else f"run-{i}/") for i, run in enumerate(runs, 1)],
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,  # a key that an older results.json lacks is shown as a dash
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "duration": duration}
    page = output / "index.html"
    write_text(page, environment.get_template("report.html.j2").render(context))
    return page


# ---------------------------------------------------------------- one run


def _section(run: Run, output: Path, prefix: str) -> dict:
    """Return the template's values for one run, and write its figures and audio to `output/prefix`."""
    folder = output / prefix
    folder.mkdir(parents=True, exist_ok=True)
    index, without_audio = _open_data(run)
    baseline_rows, without_baselines = _baseline_rows(run)
    return {
        "name": run.name,
        "prefix": prefix,
        "faults": run.faults,
        "results": run.results,
        "multi": run.task == "multi",
        "last_step": max((int(line["step"]) for line in run.metrics), default=None),
        "classes": len(run.predictions["classes"]) if run.predictions else None,
        "scores": _score_rows(run.results, baseline_rows) if run.results and run.task == "single" else [],
        "multi_scores": _multi_score_rows(run.results) if run.results and run.task == "multi" else None,
        "score_names": SCORES,
        "without_baselines": without_baselines,
        "curves": _draw_curves(run, folder),
        "throughput": _draw_throughput(run, folder),
        **_class_scores(run, folder),
        "mistakes": _mistakes(run, index, folder),
        "without_audio": without_audio,
        "environment": run.environment,
        "config": json.dumps(run.config, indent=2, ensure_ascii=False) if run.config else "",
    }


def _open_data(run: Run) -> tuple[shards.Index | None, str]:
    """Return (index of the evaluated split, "") or (None, reason)."""
    if run.results is None:
        return None, "the run has no results yet"
    folder = Path(run.results.get("directory", ""))
    if not (folder / "passport.json").exists():
        return None, f"the data set is no longer at {folder}"
    try:
        return shards.load_index(folder, run.results["split"]), ""
    except UserError as error:
        return None, str(error)
    except (OSError, ValueError, KeyError):
        return None, f"the data set is no longer at {folder}"


def _score_rows(results: dict, baseline_rows: list[tuple[str, float, int, str]]) -> list[dict]:
    """Return accuracies with 95 % intervals, tracks first: {"name", "value", "count", "low", "high", "kind"}."""
    names = {"max_probability": "sum of probabilities", "max_logit": "sum of logits", "majority": "majority of windows"}
    rows = [
        (f"Per {level[:-1]}, {names[rule]}", results[key][rule].get("accuracy"), results.get(level, 0), "run")
        for key, level in (("track", "tracks"), ("clip", "clips"))
        for rule in names
        if isinstance(results.get(key, {}).get(rule), dict)
    ]
    if "raw" in results:
        rows.append(("Per window", results["raw"].get("accuracy"), results.get("windows", 0), "run"))
    scores = []
    for name, value, count, kind in rows + baseline_rows:
        value = value if 0 <= finite(value) <= 1 else None
        low, high = intervals.wilson_interval(finite(value), count)
        scores.append({"name": name, "value": value, "count": count, "low": low, "high": high, "kind": kind})
    return scores


def _baseline_rows(run: Run) -> tuple[list[tuple[str, float, int, str]], str]:
    """Return the baseline rows of a single-label run, and the reason if some are missing."""
    if run.results is None or run.task != "single":
        return [], ""
    tracks = run.results.get("tracks", 0)
    data = run.config.get("data")
    train_split = str(data.get("train", "train")) if isinstance(data, dict) else "train"
    scores, reason = None, "the data set is no longer there"
    with contextlib.suppress(OSError, ValueError, KeyError):
        folder = Path(run.results["directory"])
        if (folder / "passport.json").exists():
            scores, reason = baselines.cached_score(folder, train_split, run.results["split"])
    rows = [(BASELINES[name], value, tracks, "baseline") for name, value in (scores or {}).items()]
    if run.predictions and len(run.predictions["track"]):
        truth = metrics.group_targets(metrics.first_labels(run.predictions["labels"]), run.predictions["track"])
        share = metrics.accuracy(truth, np.full_like(truth, np.argmax(np.bincount(truth[truth >= 0], minlength=1))))
        rows.append(("Always the most frequent class", share, tracks, "baseline"))
    return rows, reason


def _multi_score_rows(results: dict) -> list[tuple[str, int | None, list[float | None]]]:
    rows = (("track", "tracks"), ("clip", "clips"), ("raw", "windows"))
    return [(level, results.get(level), [results.get(key, {}).get(score) for score in SCORES]) for key, level in rows]


def _draw_curves(run: Run, folder: Path) -> list[tuple[dict, str]]:
    from genre_jax.report import figures

    logged = {key for line in run.metrics if line.get("split") in ("train", "validation") for key in line}
    shown = {key: title for key, title in CURVES.items() if key in logged}
    pictures = []
    if shown:
        picture = figures.save(folder / "curves.png", figures.curves({run.name: run.metrics}, shown))
        pictures.append((picture, f"{' and '.join(shown.values())} against the step, training and validation"))
    columns = {title: figures.series(run.metrics, "train", key) for key, title in OPTIMISER.items() if key in logged}
    if columns:
        picture = figures.save(folder / "optimiser.png", figures.panels(columns, "step"))
        pictures.append((picture, f"{' and '.join(columns)} against the step"))
    return pictures


def _draw_throughput(run: Run, folder: Path) -> dict | None:
    """Draw the throughput and the waiting time against time; return the figure and the medians."""
    from genre_jax.report import figures

    keys = ("seconds", "clips_per_second", "waiting")
    if not run.timings:
        return None
    table = np.array([[finite(line.get(key)) for key in keys] for line in run.timings])
    minutes = table[:, 0] / 60
    columns = {"Clips per second": (minutes, table[:, 1]), "Time waiting for data": (minutes, table[:, 2])}
    draw = figures.panels(columns, "minutes", percent=("Time waiting for data",))
    medians = {key: _median(run.timings, key) for key in keys[1:]}
    return {"picture": figures.save(folder / "throughput.png", draw)} | medians


def _median(timings: list[dict], key: str) -> float | None:
    values = [value for line in timings if math.isfinite(value := finite(line.get(key)))]
    return float(np.median(values)) if values else None


def _class_scores(run: Run, folder: Path) -> dict:
    """Draw and tabulate, per clip, the confusion matrices, the most frequent confusions and the scores of every class."""
    from genre_jax.report import figures

    empty: dict = {"confusions": [], "pairs": [], "per_class": None, "class_rows": [], "class_columns": [], "macro": {}}
    if not run.predictions or not len(run.predictions["clip"]):
        return empty
    table = run.predictions
    classes = [str(name) for name in table["classes"]]
    probabilities = metrics.group_probabilities(table["logits"], table["clip"], run.task)
    if run.task == "multi":
        labels = metrics.group_labels(table["labels"], table["clip"])
        area = metrics.roc_auc(labels, probabilities)
        scores = {"average precision": metrics.average_precision(labels, probabilities), "ROC area": area}
        columns, support = scores | {"d′": metrics.d_prime(area)}, labels.sum(axis=0, dtype=np.int64)
        confusions: dict = {}
    else:
        targets = metrics.group_targets(metrics.first_labels(table["labels"]), table["clip"])
        answers = np.argmax(probabilities, axis=1)
        matrix = metrics.confusion_matrix(targets, answers, len(classes))
        scores = metrics.precision_recall_f1(matrix)
        support = scores.pop("support")
        scores = columns = {"F1": scores["f1"], "precision": scores["precision"], "recall": scores["recall"]}
        confusions = {
            "confusions": [
                figures.save(folder / f"confusion-{kind}.png", figures.confusion(matrix, classes, kind == "rates"))
                for kind in ("rates", "counts")
            ],
            "pairs": _frequent_confusions(matrix, classes),
            "macro": metrics.macro_precision_recall_f1(matrix),
        }
    order = np.argsort(-np.nan_to_num(next(iter(scores.values())), nan=-1.0), kind="stable")
    draw = figures.per_class(scores, classes, support, order)
    rows = [(classes[i], int(support[i]), [float(column[i]) for column in columns.values()]) for i in order]
    drawn = {
        "per_class": figures.save(folder / "classes.png", draw),
        "class_rows": rows,
        "class_columns": list(columns),
    }
    return empty | drawn | confusions


def _frequent_confusions(matrix: np.ndarray, classes: list[str], most: int = 10) -> list[tuple[str, str, int, float]]:
    """Return (true class, predicted class, clips, share of the true class), most clips first."""
    wrong = matrix - np.diag(np.diagonal(matrix))
    places = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(classes)) for place in places]
    return [(classes[i], classes[j], int(wrong[i, j]), wrong[i, j] / matrix[i].sum()) for i, j in pairs if wrong[i, j]]


# ---------------------------------------------------------------- worst clips


def _mistakes(run: Run, index: shards.Index | None, folder: Path) -> list[dict]:
    """Return the worst clips, and write their files `mistakes/NN.png` and `NN.wav` if the data set is available."""
    media = folder / "mistakes"
    media.mkdir(exist_ok=True)
    for old in (*media.glob("[0-9][0-9].png"), *media.glob("[0-9][0-9].wav")):
        old.unlink()
    if not run.predictions or not len(run.predictions["clip"]):
        return []
    rows = {name: row for row, name in enumerate(index.names)} if index else {}
    mistakes = worst_clips(run.predictions, run.task)
    for place, mistake in enumerate(mistakes, 1):
        row = rows.get(mistake["clip"])
        if index is not None and row is not None:
            mistake |= _write_media(index, row, mistake["span"], media / f"{place:02d}")
    return mistakes


def worst_clips(table: Mapping[str, np.ndarray], task: str, most: int = WORST) -> list[dict]:
    """Return the clips with the worst predictions, worst first.

    Task "single" ranks the misclassified clips by -log of the mean probability of the true class. "multi" ranks all clips
    by the mean loss of their windows.

    Each clip is {"clip", "track", "score", "truth", "predicted", "span", "files"}. `truth` and `predicted` are lists of
    (class, mean probability), and `span` is the evaluated range (first sample, end).
    """
    groups = table["clip"]
    numbers, first = np.unique(groups, return_index=True)
    probabilities = metrics.group_probabilities(table["logits"], groups, task)
    if task == "multi":
        labels = metrics.group_labels(table["labels"], groups)
        windows = metrics.group_sums(np.ones(len(groups)), groups)[1]
        badness = metrics.group_sums(table["loss"], groups)[1] / windows
        chosen = np.arange(len(numbers))
    else:
        targets = metrics.group_targets(metrics.first_labels(table["labels"]), groups)
        labels = (np.arange(probabilities.shape[1]) == targets[:, None]).astype(float)
        badness = -np.log(np.maximum((probabilities * labels).sum(axis=1), 1e-300))
        chosen = np.flatnonzero(labels.argmax(axis=1) != probabilities.argmax(axis=1))
    chosen = chosen[np.argsort(-np.nan_to_num(badness[chosen]), kind="stable")][:most]
    names, samples = [str(name) for name in table["classes"]], int(table["samples"])
    mistakes = []
    for i in chosen:
        starts = table["start"][groups == numbers[i]]
        truth = np.flatnonzero(labels[i])
        predicted = np.argsort(-probabilities[i], kind="stable")[: max(1, len(truth) if task == "multi" else 1)]
        mistakes.append(
            {
                "clip": str(table["clip_names"][numbers[i]]),
                "track": str(table["track_names"][table["track"][first[i]]]),
                "score": float(badness[i]),
                "truth": [(names[c], float(probabilities[i, c])) for c in truth],
                "predicted": [(names[c], float(probabilities[i, c])) for c in predicted],
                "span": (int(starts.min()), int(starts.max()) + samples),
                "files": None,
            }
        )
    return mistakes


def _write_media(index: shards.Index, row: int, span: tuple[int, int], stem: Path) -> dict:
    """Write the evaluated part of a clip as STEM.wav and its spectrogram as STEM.png."""
    from genre_jax.report import figures

    start, stop = span[0], min(span[1], int(index.length[row]), span[0] + PLAYED_SECONDS * index.sample_rate)
    audio = index.cut(row, start, max(0, stop - start))
    with wave.open(str(stem.with_suffix(".wav")), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(index.sample_rate)
        file.writeframes(audio.astype("<i2").tobytes())
    figures.spectrogram(stem.with_suffix(".png"), audio / np.float32(32768), index.sample_rate)
    return {"files": f"mistakes/{stem.name}"}


# ---------------------------------------------------------------- several runs


def _comparison(runs: list[Run], output: Path) -> dict:
    """Return the score table, the overlaid learning curves and the differing config keys of several runs."""
    from genre_jax.report import figures

    lines = {run.name: run.metrics for run in runs}
    validation = {key for run in runs for line in run.metrics if line.get("split") == "validation" for key in line}
    shown = {key: title for key, title in CURVES.items() if key in validation or key == "loss"}
    drawn = figures.save(output / "comparison.png", figures.curves(lines, shown)) if any(lines.values()) else None
    flat = [_flatten(run.config) for run in runs]
    keys = sorted({key for config in flat for key in config})
    differing = [(key, [config.get(key) for config in flat]) for key in keys]
    return {
        "rows": [_comparison_row(run) for run in runs],
        "picture": drawn,
        "differing": [
            (key, ["–" if value is None else json.dumps(value) for value in values])
            for key, values in differing
            if any(value != values[0] for value in values) and key != "name"
        ],
    }


def _comparison_row(run: Run) -> dict:
    results = run.results or {}
    multi = run.task == "multi"

    def score(level: str) -> float | None:
        entry = results.get(level, {})
        if multi:
            return entry.get("mean_average_precision")
        rule = entry.get("max_probability")
        return (rule if isinstance(rule, dict) else entry).get("accuracy")

    keys = ("data_set", "step", "parameters", "loss", "train_seconds")
    return {"name": run.name, "score": "mAP" if multi else "accuracy"} | {
        "clips_per_second": _median(run.timings, "clips_per_second"),
        **{level: score(level) for level in LEVELS},
        **{key: results.get(key) for key in keys},
    }


def _flatten(config: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat: dict = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


# ---------------------------------------------------------------- formatting of values


def percent(value: object, digits: int = 1) -> str:
    """0.8437 → "84.4 %"; a dash for a missing value."""
    return f"{100 * known:.{digits}f} %" if math.isfinite(known := finite(value)) else "–"


def number(value: object, digits: int = 0) -> str:
    """8041219 → "8,041,219"; a dash for a missing value."""
    return f"{known:,.{digits}f}" if math.isfinite(known := finite(value)) else "–"


def duration(seconds: object) -> str:
    """5025 → "1 h 23 min"; a dash for a missing value."""
    known = finite(seconds)
    if not math.isfinite(known):
        return "–"
    whole = round(known)
    if whole < 60:
        return f"{known:.1f} s" if known < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    days, hours, minutes = whole // 86400, whole % 86400 // 3600, whole % 3600 // 60
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"
