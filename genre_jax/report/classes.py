"""Scores by class of a run, per clip: confusion matrices, frequent confusions, a score for each class, and calibration."""

from pathlib import Path

import numpy as np

from genre_jax import metrics
from genre_jax.report import formats, predictions
from genre_jax.report.runs import Run
from genre_jax.report.tables import Column, Table


def class_scores(run: Run, folder: Path) -> dict:
    """Draw and tabulate the confusion matrices, the most frequent confusions and the scores of every class."""
    from genre_jax.report import figures

    empty: dict = {"confusions": [], "pairs": None, "matrix": None, "per_class": None, "class_table": None, "macro": {}}
    if not run.predictions or not len(run.predictions["clip"]):
        return empty
    table = run.predictions
    classes = [str(name) for name in table["classes"]]
    probabilities = metrics.group_probabilities(table["logits"], table["clip"], run.task)
    confusions: dict = {}
    if run.task == "multi":
        labels = metrics.group_labels(table["labels"], table["clip"])
        area = metrics.roc_auc(labels, probabilities)
        scores = {"average precision": metrics.average_precision(labels, probabilities), "ROC area": area}
        columns, support = scores | {"d′": metrics.d_prime(area)}, labels.sum(axis=0, dtype=np.int64)
    else:
        targets, answers = predictions.true_classes(table, table["clip"]), np.argmax(probabilities, axis=1)
        known = targets >= 0
        matrix = metrics.confusion_matrix(targets[known], answers[known], len(classes))
        scores = metrics.precision_recall_f1(matrix)
        support = scores.pop("support")
        scores = columns = {"F1": scores["f1"], "precision": scores["precision"], "recall": scores["recall"]}
        confusions = {
            "confusions": [
                figures.save(folder / f"confusion-{kind}.png", figures.confusion(matrix, classes, kind == "rates"), narrow=True)
                for kind in ("rates", "counts")
            ],
            "pairs": _frequent_confusions(matrix, classes),
            "matrix": _matrix_table(matrix, classes),
            "macro": metrics.macro_precision_recall_f1(matrix),
        }
    order = np.argsort(-np.nan_to_num(next(iter(scores.values())), nan=-1.0), kind="stable")
    rows = [(classes[i], int(support[i]), *(float(column[i]) for column in columns.values())) for i in order]
    titles = (Column("Class"), Column("Clips", formats.number), *(Column(name, formats.decimal) for name in columns))
    draw = figures.per_class(scores, classes, support, order)
    return (
        empty
        | confusions
        | {
            "per_class": figures.save(folder / "classes.png", draw, narrow=True),
            "class_table": Table("classes", "Scores of each class, per clip", titles, rows),
        }
    )


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
