"""A page for each track worth a look: spectrogram, player, class scores over time, the votes, and the confidence vector."""

import dataclasses
from pathlib import Path

import numpy as np

from genre_jax import metrics
from genre_jax.report import formats
from genre_jax.report.clips import Audio, fresh, write_wave
from genre_jax.report.runs import Run
from genre_jax.report.tables import Column, Table

MOST = 12  # tracks of a run
CLIPS = 4  # with a spectrogram, of each track
SHOWN = 12  # classes of the heat map and of the confidence vector
WINDOWS = 400  # of a clip in the heat map
VOTES = {"max_logit": "sum of logits", "max_probability": "sum of probabilities", "majority": "majority of windows"}


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The tracks of a run.

    Attributes:
      numbers: track numbers, ascending, `(tracks,)`.
      truth: multi-hot labels `(tracks, classes)`; task "single" has the class that softmax trains on.
      probabilities: mean probability over the windows `(tracks, classes)`.
      votes: voting rule → scores `(tracks, classes)`, divided by the windows of the track; empty for task "multi".
      order: rows of the tracks worth a page, best first.
    """

    numbers: np.ndarray
    truth: np.ndarray
    probabilities: np.ndarray
    votes: dict[str, np.ndarray]
    order: np.ndarray


def rank(table: dict[str, np.ndarray], task: str, most: int = MOST) -> Ranking:
    """Choose the tracks worth a page.

    Task "single": the tracks that a vote classifies wrongly, or on which the votes disagree. First come those that are wrong by
    the sum of probabilities and on which the votes disagree, then the other wrong ones, then those that are right; in each
    of these groups the track with the lowest probability of its true class is first. Task "multi": the highest mean loss first.
    """
    groups = table["track"]
    probabilities = metrics.group_probabilities(table["logits"], groups, task)
    windows = metrics.group_sums(np.ones(len(groups)), groups)[1]
    numbers = np.unique(groups)
    if task == "multi":
        loss = metrics.group_sums(table["loss"], groups)[1] / windows
        order = np.argsort(-loss, kind="stable")[:most]
        return Ranking(numbers, metrics.group_labels(table["labels"], groups), probabilities, {}, order)
    target = metrics.group_targets(table["target"], groups)
    truth = target[:, None] == np.arange(probabilities.shape[1])
    votes = {rule: scores / windows[:, None] for rule, scores in metrics.vote_scores(table["logits"], groups).items()}
    answers = np.stack([scores.argmax(axis=1) for scores in votes.values()])
    disagree = (answers != answers[0]).any(axis=0)
    wrong = votes["max_probability"].argmax(axis=1) != target
    order = np.lexsort(((probabilities * truth).sum(axis=1), ~disagree, ~wrong))
    return Ranking(numbers, truth, probabilities, votes, order[(disagree | wrong)[order] & (target >= 0)[order]][:most])


def pages(run: Run, audio: Audio, folder: Path, most: int = MOST) -> list[dict]:
    """Write the figures and players of the chosen tracks to `folder`, and return the values of their pages."""
    fresh(folder, ("[0-9][0-9].html", "[0-9][0-9]-*.png", "[0-9][0-9]-*.wav"))
    table = run.predictions
    if not table or not len(table["track"]):
        return []
    ranking = rank(table, run.task, most)
    return [_page(table, ranking, run.task, row, audio, folder / f"{i:02d}") for i, row in enumerate(ranking.order, 1)]


def _page(table: dict[str, np.ndarray], ranking: Ranking, task: str, row: int, audio: Audio, stem: Path) -> dict:
    """The values of the page of one track, whose figures and players begin with `stem`."""
    classes = [str(name) for name in table["classes"]]
    number = ranking.numbers[row]
    truth = np.flatnonzero(ranking.truth[row])
    windows = np.flatnonzero(table["track"] == number)
    rows = windows[np.lexsort((table["start"][windows], table["clip"][windows]))]
    shown = _shown_classes(ranking.probabilities[row], truth)
    found = {rule: _winners(scores[row], classes) for rule, scores in ranking.votes.items()}
    winners = {rule: vote[0] for rule, vote in found.items()}
    clips = np.unique(table["clip"][rows])
    answer = int(ranking.probabilities[row].argmax())
    return {
        "name": str(table["track_names"][number]),
        "file": f"{stem.parent.name}/{stem.name}.html",
        "truth": [classes[i] for i in truth],
        "predicted": classes[answer],
        "right": answer in truth,
        "windows": len(rows),
        "votes": votes_table(found) if found else None,
        "winners": winners,
        "disagree": len(set(winners.values())) > 1,
        "confidence": [
            (classes[i], float(ranking.probabilities[row, i]), i in truth)
            for i in np.argsort(-ranking.probabilities[row], kind="stable")
            if i in shown
        ],
        "hidden": len(classes) - len(shown),
        "clips": [
            _clip(table, rows[table["clip"][rows] == clip], shown, task, audio, stem.with_name(f"{stem.name}-{i}"))
            for i, clip in enumerate(clips[:CLIPS], 1)
        ],
        "more_clips": max(0, len(clips) - CLIPS),
    }


def _shown_classes(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The true classes and the most probable ones, ascending, at most `SHOWN` unless there are more true ones."""
    likely = [i for i in np.argsort(-probabilities, kind="stable") if i not in truth]
    return np.sort([*truth, *likely[: max(0, SHOWN - len(truth))]]).astype(int)


def _winners(scores: np.ndarray, classes: list[str]) -> tuple[str, float, str | None, float | None]:
    """(winner, its score, second class, its score) of one vote."""
    order = np.argsort(-scores, kind="stable")
    second = (classes[order[1]], float(scores[order[1]])) if len(order) > 1 else (None, None)
    return (classes[order[0]], float(scores[order[0]]), *second)


def votes_table(found: dict[str, tuple]) -> Table:
    """The three votes on a track; `found` is rule → (winner, score, second class, score), the scores as means over windows."""
    number = formats.decimal
    columns = (
        Column("Vote"),
        Column("Winner"),
        Column("Score", number),
        Column("Second"),
        Column("Score of the second", number),
    )
    return Table("votes", "Votes", columns, [(VOTES[rule], *vote) for rule, vote in found.items()])


def _clip(table: dict[str, np.ndarray], rows: np.ndarray, shown: np.ndarray, task: str, audio: Audio, stem: Path) -> dict:
    """Draw the class scores of a clip over time, and write its player; `rows` are its windows in the order of time."""
    rows = rows[:WINDOWS]
    logits = table["logits"][rows]
    probabilities = metrics.sigmoid(logits) if task == "multi" else metrics.softmax(logits)
    start, samples, rate = table["start"][rows], int(table["samples"]), max(1, int(table["sample_rate"]))
    name = str(table["clip_names"][table["clip"][rows[0]]])
    sound = audio.cut(name, (int(start.min()), int(start.max()) + samples))
    player = None
    if sound:
        write_wave(stem.with_suffix(".wav"), *sound)
        player = f"{stem.name}.wav"
    places = {c: i for i, c in enumerate(shown)}
    from genre_jax.report import charts

    picture = charts.scores_over_time(
        stem.with_suffix(".png"),
        probabilities[:, shown],
        np.array([places.get(c, -1) for c in logits.argmax(axis=1)]),
        start / rate,
        samples / rate,
        [str(table["classes"][c]) for c in shown],
        sound[0] / np.float32(32768) if sound and len(sound[0]) else None,
        rate,
    )
    return {"name": name, "player": player, "picture": picture}


def as_table(pages_of_tracks: list[dict]) -> Table:
    """The table of the chosen tracks: truth, and the winner of each vote."""
    rules = list(pages_of_tracks[0]["winners"]) if pages_of_tracks else []
    columns = (Column("Track"), Column("True"), *(Column(VOTES[rule].capitalize()) for rule in rules), Column("Votes"))
    rows, links = [], []
    for page in pages_of_tracks:
        verdict = "disagree" if page["disagree"] else "agree" if rules else None
        winners = [page["winners"][rule] for rule in rules]
        rows.append((page["name"], ", ".join(page["truth"]) or "no label", *winners, verdict))
        links.append(page["file"])
    if not rules:  # task "multi" has no votes: the most probable class stands in their place
        columns = (Column("Track"), Column("True"), Column("Most probable"))
        rows = [(page["name"], ", ".join(page["truth"]) or "no label", page["predicted"]) for page in pages_of_tracks]
    return Table("tracks", "Tracks worth a look", columns, rows, links)
