"""The report of one or several runs: one HTML page that opens from the disk, figures and audio beside it.

    python -m genre_jax.report --output=DIR RUN…

A run is a workdir. Whatever is missing there (no results yet, no validation, the data set moved away) is left out and
said so. Confusions, class scores and mistakes are per clip, by the mean probability over its windows. Reads files
alone: neither JAX nor TensorFlow is needed.
"""

import dataclasses
import importlib.util
import json
import math
import wave
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genre_jax import metrics
from genre_jax.atomic import write_text
from genre_jax.console import UserError
from genre_jax.data import shards
from genre_jax.report import baselines

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
LEVELS = {"raw": "windows", "clip": "clips", "track": "tracks"}
BASELINES = {
    "rms_centroid": "RMS + spectral centroid, logistic regression",
    "mfcc_means": "Means of 20 MFCCs, logistic regression",
}
WORST = 20
PLAYED_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Run:
    """What a workdir holds so far; a file that is not there yet is empty or None."""

    workdir: Path
    name: str
    config: dict
    environment: dict
    metrics: list[dict]
    timings: list[dict]
    results: dict | None
    predictions: dict[str, np.ndarray] | None

    @property
    def task(self) -> str:
        """One of `metrics.TASKS`."""
        return (self.results or {}).get("task", "single")


def write_report(workdirs: Sequence[str | Path], output: str | Path) -> Path:
    """Write `output/index.html` about the runs in `workdirs`, with its PNG and WAV files; gives the page's path.

    Raises `UserError` where a workdir holds no run, or matplotlib, Jinja2 or librosa is not installed.
    """
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"the report needs {package}, which is not installed: pip install {package}")
    if not workdirs:
        raise UserError("no run given: name at least one workdir, as in runs/bytenet")
    import jinja2

    runs = _distinct([read_run(Path(workdir)) for workdir in workdirs])
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
        undefined=jinja2.ChainableUndefined,  # an older results.json may lack a key: a dash
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "duration": duration}
    page = output / "index.html"
    write_text(page, environment.get_template("report.html.j2").render(context))
    return page


# ---------------------------------------------------------------- reading a workdir


def read_run(workdir: Path) -> Run:
    """Read what is there of a workdir. Raises `UserError` where nothing is."""
    config, results = (_read_json(workdir / name) for name in ("config.json", "results.json"))
    lines = _read_lines(workdir / "metrics.jsonl")
    if config is None and results is None and not lines:
        raise UserError(f"no run in {str(workdir)!r}: a workdir holds config.json, metrics.jsonl or results.json")
    return Run(
        workdir=workdir,
        name=str((results or {}).get("run") or (config or {}).get("name") or workdir.resolve().name),
        config=config or {},
        environment=_read_json(workdir / "environment.json") or {},
        metrics=[line for line in lines if isinstance(line.get("step"), int | float)],
        timings=_read_lines(workdir / "timings.jsonl"),
        results=results,
        predictions=_read_predictions(workdir / "predictions.npz"),
    )


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_lines(path: Path) -> list[dict]:
    """The objects of a JSON-lines file; a line cut off by a crash is passed over."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _read_predictions(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with open(path, "rb") as file, np.load(file) as columns:  # NumPy leaves a broken file open
            return dict(columns)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _distinct(runs: list[Run]) -> list[Run]:
    """The same runs, those that share a name told apart by their workdir."""
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else dataclasses.replace(run, name=f"{run.name} ({run.workdir})") for run in runs]


# ---------------------------------------------------------------- one run


def _section(run: Run, output: Path, prefix: str) -> dict:
    """The template's values for one run; its files go to `output/prefix`."""
    folder = output / prefix
    folder.mkdir(parents=True, exist_ok=True)
    index, without_audio = _open_data(run)
    baseline_rows, without_baselines = _baseline_rows(run)
    return {
        "name": run.name,
        "prefix": prefix,
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
    """(index of the evaluated split, "") or (None, why there is none)."""
    if run.results is None:
        return None, "the run has no results yet"
    folder = Path(run.results.get("directory", ""))
    try:
        return shards.load_index(folder, run.results["split"]), ""
    except UserError as error:
        return None, str(error)
    except (OSError, ValueError, KeyError):
        return None, f"the data set is not at {folder} any more"


def _score_rows(results: dict, baseline_rows: list[tuple[str, float, int, str]]) -> list[dict]:
    """Accuracies with 95 % intervals, tracks first: {"name", "value", "count", "low", "high", "kind"}."""
    names = {"max_probability": "largest sum of probabilities", "max_logit": "largest sum of logits"}
    names |= {"majority": "majority of windows"}
    rows = [
        (f"Per {level[:-1]}, {names[rule]}", results[key][rule].get("accuracy"), results.get(level, 0), "run")
        for key, level in (("track", "tracks"), ("clip", "clips"))
        for rule in names
        if rule in results.get(key, {})
    ]
    if "raw" in results:
        rows.append(("Per window (raw)", results["raw"].get("accuracy"), results.get("windows", 0), "run"))
    found = []
    for name, value, count, kind in rows + baseline_rows:
        low, high = metrics.wilson_interval(float("nan") if value is None else value, count)
        found.append({"name": name, "value": value, "count": count, "low": low, "high": high, "kind": kind})
    return found


def _baseline_rows(run: Run) -> tuple[list[tuple[str, float, int, str]], str]:
    """Baselines for single-label runs, and why some are missing."""
    if run.results is None or run.task != "single":
        return [], ""
    tracks = run.results.get("tracks", 0)
    train_split = run.config.get("data", {}).get("train", "train")
    try:
        scores, reason = baselines.cached_score(Path(run.results["directory"]), train_split, run.results["split"])
    except (OSError, ValueError, KeyError):
        scores, reason = None, "the data set is not there any more"
    rows = [(BASELINES[name], value, tracks, "baseline") for name, value in (scores or {}).items()]
    if run.predictions and len(run.predictions["track"]):
        truth = metrics.group_targets(run.predictions["labels"], run.predictions["track"])
        share = metrics.accuracy(truth, np.full_like(truth, np.argmax(np.bincount(truth))))
        rows.append(("Always the most frequent class", share, tracks, "baseline"))
    return rows, reason


def _multi_score_rows(results: dict) -> list[tuple[str, int | None, list[float | None]]]:
    rows = (("track", "tracks"), ("clip", "clips"), ("raw", "windows"))
    return [(level, results.get(level), [results.get(key, {}).get(score) for score in SCORES]) for key, level in rows]


def _draw_curves(run: Run, folder: Path) -> list[tuple[dict, str]]:
    from genre_jax.report import figures

    seen = {key for line in run.metrics if line.get("split") in ("train", "validation") for key in line}
    if not seen:
        return []
    shown = {key: title for key, title in CURVES.items() if key in seen}
    found = []
    if shown:
        picture = figures.save(folder / "curves.png", figures.curves({run.name: run.metrics}, shown))
        found.append((picture, f"{' and '.join(shown.values())} against the step, training and validation"))
    columns = {title: figures.series(run.metrics, "train", key) for key, title in OPTIMISER.items() if key in seen}
    if columns:
        picture = figures.save(folder / "optimiser.png", figures.panels(columns, "step"))
        found.append((picture, f"{' and '.join(columns)} against the step"))
    return found


def _draw_throughput(run: Run, folder: Path) -> dict | None:
    """The figure of clips/s and waiting over time, with their medians."""
    from genre_jax.report import figures

    keys = ("seconds", "clips_per_second", "waiting")
    if not run.timings:
        return None
    table = np.array([[_finite(line.get(key)) for key in keys] for line in run.timings])
    minutes = table[:, 0] / 60
    columns = {"Clips per second": (minutes, table[:, 1]), "Time waiting for data": (minutes, table[:, 2])}
    draw = figures.panels(columns, "minutes", percent=("Time waiting for data",))
    medians = {key: _median(run.timings, key) for key in keys[1:]}
    return {"picture": figures.save(folder / "throughput.png", draw)} | medians


def _median(timings: list[dict], key: str) -> float | None:
    known = [value for line in timings if math.isfinite(value := _finite(line.get(key)))]
    return float(np.median(known)) if known else None


def _class_scores(run: Run, folder: Path) -> dict:
    """Confusion matrices, the commonest confusions, and a row of scores for every class, per clip."""
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
        targets, answers = metrics.group_targets(table["labels"], table["clip"]), np.argmax(probabilities, axis=1)
        matrix = metrics.confusion_matrix(targets, answers, len(classes))
        scores = metrics.precision_recall_f1(matrix)
        support = scores.pop("support")
        scores = columns = {"F1": scores["f1"], "precision": scores["precision"], "recall": scores["recall"]}
        confusions = {
            "confusions": [
                figures.save(folder / f"confusion-{kind}.png", figures.confusion(matrix, classes, kind == "rates"))
                for kind in ("rates", "counts")
            ],
            "pairs": _commonest_confusions(matrix, classes),
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


def _commonest_confusions(matrix: np.ndarray, classes: list[str], most: int = 10) -> list[tuple[str, str, int, float]]:
    """(true, predicted, clips, share of the true class), most clips first."""
    wrong = matrix - np.diag(np.diagonal(matrix))
    places = np.argsort(-wrong, axis=None, kind="stable")[:most]
    found = [divmod(int(place), len(classes)) for place in places]
    return [(classes[i], classes[j], int(wrong[i, j]), wrong[i, j] / matrix[i].sum()) for i, j in found if wrong[i, j]]


# ---------------------------------------------------------------- mistakes


def _mistakes(run: Run, index: shards.Index | None, folder: Path) -> list[dict]:
    """The worst clips, worst first, with their files `mistakes/NN.png` and `NN.wav` where the data set is there."""
    media = folder / "mistakes"
    media.mkdir(exist_ok=True)
    for old in (*media.glob("[0-9][0-9].png"), *media.glob("[0-9][0-9].wav")):
        old.unlink()
    if not run.predictions or not len(run.predictions["clip"]):
        return []
    rows = {name: row for row, name in enumerate(index.names)} if index else {}
    found = worst_clips(run.predictions, run.task)
    for place, mistake in enumerate(found, 1):
        row = rows.get(mistake["clip"])
        if index is not None and row is not None:
            mistake |= _write_media(index, row, mistake["heard_span"], media / f"{place:02d}")
    return found


def worst_clips(table: Mapping[str, np.ndarray], task: str, most: int = WORST) -> list[dict]:
    """The clips that went most wrong, worst first: {"clip", "track", "score", "truth", "heard", "heard_span", "files"}.

    Task "single": misclassified clips by -log of the true class's mean probability; "multi": by the mean loss of the
    windows. `truth` and `heard` are [(class, probability)], `heard_span` the first and last sample that was evaluated.
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
        labels = np.eye(probabilities.shape[1])[metrics.group_targets(table["labels"], groups)]
        badness = -np.log(np.maximum((probabilities * labels).sum(axis=1), 1e-300))
        chosen = np.flatnonzero(labels.argmax(axis=1) != probabilities.argmax(axis=1))
    chosen = chosen[np.argsort(-np.nan_to_num(badness[chosen]), kind="stable")][:most]
    names, samples = [str(name) for name in table["classes"]], int(table["samples"])
    found = []
    for i in chosen:
        starts = table["start"][groups == numbers[i]]
        truth = np.flatnonzero(labels[i])
        heard = np.argsort(-probabilities[i], kind="stable")[: max(1, len(truth) if task == "multi" else 1)]
        found.append(
            {
                "clip": str(table["clip_names"][numbers[i]]),
                "track": str(table["track_names"][table["track"][first[i]]]),
                "score": float(badness[i]),
                "truth": [(names[c], float(probabilities[i, c])) for c in truth],
                "heard": [(names[c], float(probabilities[i, c])) for c in heard],
                "heard_span": (int(starts.min()), int(starts.max()) + samples),
                "files": None,
            }
        )
    return found


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
    """The table, the overlaid curves and the differing config keys of several runs."""
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
        return entry.get("max_probability", entry).get("accuracy")

    keys = ("data_set", "step", "parameters", "loss", "train_seconds")
    return {"name": run.name, "score": "mAP" if multi else "accuracy"} | {
        "clips_per_second": _median(run.timings, "clips_per_second"),
        **{level: score(level) for level in LEVELS},
        **{key: results.get(key) for key in keys},
    }


def _flatten(config: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    found: dict = {}
    for key, value in config.items():
        found |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


# ---------------------------------------------------------------- how values are written on the page


def _finite(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def percent(value: object, digits: int = 1) -> str:
    """0.8437 → "84.4 %", a dash where there is no number."""
    return f"{100 * known:.{digits}f} %" if math.isfinite(known := _finite(value)) else "–"


def number(value: object, digits: int = 0) -> str:
    """8041219 → "8,041,219", a dash where there is no number."""
    return f"{known:,.{digits}f}" if math.isfinite(known := _finite(value)) else "–"


def duration(seconds: object) -> str:
    """5025 → "1 h 24 min", a dash where there is no number."""
    known = _finite(seconds)
    if not math.isfinite(known):
        return "–"
    whole = round(known)
    if whole < 60:
        return f"{known:.1f} s" if known < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    days, hours, minutes = whole // 86400, whole % 86400 // 3600, whole % 3600 // 60
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"
