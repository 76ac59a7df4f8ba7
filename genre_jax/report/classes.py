"""Scores by class of a run, per clip: confusion matrices, frequent confusions, a score for each class, and calibration."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from genre_jax import calibration, metrics
from genre_jax.report import formats
from genre_jax.report.runs import Run
from genre_jax.report.tables import Column, Table


def class_scores(run: Run, folder: Path) -> dict:
    """Draw and tabulate the confusion matrices, the most frequent confusions and the scores of every class."""
    from genre_jax.report import figures

    empty: dict = {"confusions": [], "pairs": None, "matrix": None, "per_class": None, "class_table": None, "macro": {}}
    if not run.predictions or not len(run.predictions["clip"]):
        return empty
    scores = by_class(run)
    classes, matrix = scores.classes, scores.matrix
    confusions: dict = {}
    if matrix is not None:
        confusions = {
            "confusions": [
                figures.save(
                    folder / f"confusion-{kind}.png",
                    figures.confusion(matrix, classes, kind == "rates"),
                    narrow=len(classes) <= figures.LEGIBLE,
                )
                for kind in ("rates", "counts")
            ],
            "pairs": _frequent_confusions(matrix, classes),
            "matrix": _matrix_table(matrix, classes),
            "macro": metrics.macro_precision_recall_f1(matrix),
        }
    drawn = {name: column for name, column in scores.columns.items() if name != "d′"}
    draw = figures.per_class(drawn, classes, scores.support, scores.order)
    page = {"per_class": figures.save(folder / "classes.png", draw, narrow=True), "class_table": class_table(scores)}
    return empty | confusions | page


class ByClass(NamedTuple):
    """The scores of each class, per clip.

    Attributes:
      classes: the names of the classes.
      columns: name of a score → its value for each class, `(classes,)`; NaN if it is not defined.
      support: number of clips of each class, int `(classes,)`.
      order: the classes, the largest first score first, int `(classes,)`.
      matrix: confusion matrix in clips, rows are true classes, `(classes, classes)`; None for task "multi".
    """

    classes: list[str]
    columns: dict[str, np.ndarray]
    support: np.ndarray
    order: np.ndarray
    matrix: np.ndarray | None


def by_class(run: Run) -> ByClass:
    """Compute the scores of each class of a run that has predictions."""
    table = run.predictions or {}
    classes, matrix = [str(name) for name in table["classes"]], None
    probabilities = metrics.group_probabilities(table["logits"], table["clip"], run.task)
    if run.task == "multi":
        labels = metrics.group_labels(table["labels"], table["clip"])
        area = metrics.roc_auc(labels, probabilities)
        columns = {"average precision": metrics.average_precision(labels, probabilities), "ROC area": area}
        columns, support = columns | {"d′": metrics.d_prime(area)}, labels.sum(axis=0, dtype=np.int64)
    else:
        targets, answers = metrics.group_targets(table["target"], table["clip"]), np.argmax(probabilities, axis=1)
        matrix = metrics.confusion_matrix(targets, answers, len(classes))
        known = metrics.precision_recall_f1(matrix)
        support = known["support"]
        columns = {"F1": known["f1"], "precision": known["precision"], "recall": known["recall"]}
    order = np.argsort(-np.nan_to_num(next(iter(columns.values())), nan=-1.0), kind="stable")
    return ByClass(classes, columns, support, order, matrix)


def class_table(scores: ByClass) -> Table:
    """The table of the scores of each class, in their order."""
    names, columns, support, order, _ = scores
    rows = [(names[i], int(support[i]), *(float(column[i]) for column in columns.values())) for i in order]
    titles = (Column("Class"), Column("Clips", formats.number), *(Column(name, formats.decimal) for name in columns))
    return Table("classes", "Scores of each class, per clip", titles, rows)


def _frequent_confusions(matrix: np.ndarray, classes: list[str], most: int = 10) -> Table | None:
    """The table of the most frequent confusions, most clips first; None if there are none."""
    wrong = matrix - np.diag(np.diagonal(matrix))
    places = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(classes)) for place in places]
    rows = [(classes[i], classes[j], int(wrong[i, j]), wrong[i, j] / matrix[i].sum()) for i, j in pairs if wrong[i, j]]
    share = Column("Share of the true class", lambda value: formats.percent(value, 0))
    columns = (Column("True"), Column("Predicted"), Column("Clips", formats.number), share)
    return Table("confusions", "Most frequent confusions", columns, rows) if rows else None


def _matrix_table(matrix: np.ndarray, classes: list[str]) -> Table:
    """The confusion matrix in clips, for the files; the page shows the figure."""
    columns = (Column("True"), *(Column(name, formats.number) for name in classes))
    rows = [(name, *map(int, row)) for name, row in zip(classes, matrix, strict=True)]
    return Table("confusion", "Confusion matrix in clips: rows are true classes, columns predicted classes", columns, rows)


def calibrated(run: Run, folder: Path) -> dict:
    """Draw the reliability diagram of the clips and tabulate its bins; for task "multi" also tabulate thresholds."""
    from genre_jax.report import charts, figures

    table = run.predictions
    empty: dict = {"reliability": None, "calibration": None, "error": None, "thresholds": None}
    if not table or not len(table["clip"]):
        return empty
    probabilities = metrics.group_probabilities(table["logits"], table["clip"], run.task)
    if run.task == "multi":
        confidence, right = calibration.pairs(metrics.group_labels(table["labels"], table["clip"]), probabilities)
    else:
        confidence, right = calibration.confidences(metrics.group_targets(table["target"], table["clip"]), probabilities)
    curve = calibration.reliability(confidence, right)
    edges = np.linspace(0, 1, len(curve.centre) + 1)
    columns = (
        *(Column("From", formats.percent), Column("To", formats.percent), Column("Examples", formats.number)),
        *(Column("Mean confidence", formats.percent), Column("Share that is right", formats.percent)),
    )
    values = zip(edges[:-1], edges[1:], curve.examples, curve.confidence, curve.accuracy, strict=True)
    rows = [(float(low), float(high), int(n), float(mean), float(share)) for low, high, n, mean, share in values if n]
    if not rows:
        return empty
    draw = charts.reliability(curve.confidence, curve.accuracy, curve.examples)
    return empty | {
        "reliability": figures.save(folder / "reliability.png", draw, narrow=True),
        "calibration": Table("calibration", "Calibration", columns, rows),
        "error": calibration.expected_calibration_error(curve),
        "thresholds": _thresholds(run) if run.task == "multi" else None,
    }


def _thresholds(run: Run) -> Table | None:
    """The threshold of each class with the best F1 on the training clips, and what it scores on the evaluated clips.

    None if the run has no predictions of the training split with the same classes.
    """
    test, train = run.predictions, run.trained
    if not test or not train or not len(train["clip"]) or not np.array_equal(test["classes"], train["classes"]):
        return None
    (chosen_on, scored_on) = (
        (
            metrics.group_labels(table["labels"], table["clip"]),
            metrics.group_probabilities(table["logits"], table["clip"], "multi"),
        )
        for table in (train, test)
    )
    found = calibration.apply_thresholds(*scored_on, calibration.thresholds(*chosen_on).threshold)
    columns = (Column("Class"), *(Column(title, formats.decimal) for title in ("Threshold", "Precision", "Recall", "F1")))
    rows = [(str(name), *map(float, row)) for name, row in zip(test["classes"], np.transpose(found), strict=True)]
    return Table("thresholds", "Thresholds of the classes", columns, rows)
