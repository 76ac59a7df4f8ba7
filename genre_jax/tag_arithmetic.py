"""Arithmetic on genres and tags, as word2vec does on words: "rock - guitar + synth" is a direction among the songs.

The vector of a tag is the mean of the standardised embeddings of the songs, weighted by the probability of the tag in each
song. It points from the mean song to the songs with the tag. The column of the classifier would be another choice, but it
points to what separates the tag from the other tags: what a tag shares with its relatives cancels, and relatives would not be
neighbours. The weighted mean also exists for tags that no classifier has, such as the labels of a data set.

Sources: Mikolov et al. 2013, "Linguistic Regularities in Continuous Space Word Representations".
"""

import re
from collections.abc import Sequence

import numpy as np

from genre_jax import console
from genre_jax.console import UserError

_SIGNS = "-+−–"
_ROUNDING = 1e-9


def standardised(vectors: np.ndarray) -> np.ndarray:
    """Returns embeddings `(songs, dimensions)` as float64 with mean 0 and deviation 1, or zeros where all are alike."""
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    deviation = centred.std(0)
    varies = deviation > _ROUNDING * np.abs(vectors).max(0)
    return centred / np.where(varies, deviation, np.inf)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors `(…, dimensions)` with length 1; zeros for a vector that is zero up to rounding."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > _ROUNDING, length, np.inf)


def tag_vectors(songs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the vector of each tag, of length 1, `(tags, dimensions)`; zeros for a tag without weight.

    Args:
      songs: `standardised` embeddings, `(songs, dimensions)`.
      weights: probability of each tag in each song, or the labels as 0 and 1, `(songs, tags)`, ≥ 0.
    """
    total = weights.sum(0, dtype=np.float64)[:, None]
    return unit(weights.T.astype(np.float64) @ songs / np.where(total > 0, total, 1))


def tag_query(expression: str, tag_names: Sequence[str], tag_vectors: np.ndarray) -> np.ndarray:
    """Returns the vector `(dimensions,)`, of length 1, of an expression such as "rock - guitar + synth".

    The songs nearest to it are those of `standardised` with the largest cosine.

    Args:
      expression: names of tags with + or - between them. Capital letters do not matter. A name may contain spaces and
        hyphens; the longest name that fits is meant.
      tag_names: the names, `(tags,)`.
      tag_vectors: the vector of each tag, `(tags, dimensions)`, as the function `tag_vectors` returns them.

    Raises `UserError` if a name is unknown, if a name is missing, or if the terms cancel.
    """
    terms = parse(expression, tag_names)
    vector = sum((sign * tag_vectors[number] for sign, number in terms), np.zeros(tag_vectors.shape[1]))
    if np.linalg.norm(vector) <= _ROUNDING:
        raise UserError(f"the terms of the expression {expression!r} cancel: name tags that differ")
    return unit(vector)


def parse(expression: str, tag_names: Sequence[str]) -> list[tuple[int, int]]:
    """Returns (sign, number of the tag) of each term of an expression. Raises `UserError` as `tag_query` does."""
    text = " ".join(expression.split())
    numbers = {" ".join(name.split()): number for number, name in enumerate(tag_names)}
    numbers.pop("", None)
    folded = {name.casefold(): number for name, number in numbers.items()}
    names = "|".join(re.escape(name) for name in sorted(numbers, key=len, reverse=True))
    term = re.compile(rf" ?([{_SIGNS}]?) ?({names})(?= ?[{_SIGNS}]| ?$)", re.IGNORECASE)
    terms: list[tuple[int, int]] = []
    place = 0
    while place < len(text) or not terms:
        found = term.match(text, place) if names else None
        if not found:
            raise _unknown(expression, text[place:], tag_names)
        sign, name = found.groups()
        number = numbers[name] if name in numbers else folded[name.casefold()]
        terms.append((1 if sign in ("", "+") else -1, number))
        place = found.end()
    return terms


def _unknown(expression: str, rest: str, tag_names: Sequence[str]) -> UserError:
    """The error for the rest of an expression, which does not begin with a term."""
    name = re.split(rf" [{_SIGNS}] ", rest.strip().lstrip(_SIGNS).strip())[0]
    if not name:
        return UserError(
            f"the expression {expression!r} lacks a tag: write tags with + or - between them, as in 'rock + piano'"
        )
    return console.unknown("tag", name, tag_names)
