"""The clips of a run: split names with slices and sums, and the choice of classes.

A split of a config is a name of a split of the data set, a slice of one, or a sum of these:

    test                   the whole split
    eval[:-100]            all clips but the last 100, in the order of their names
    eval[:100@12345]       the first 100 clips after a shuffle that follows from the seed 12345
    fold1+fold2+fold3      several splits as one
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.data import mix, shards
from genre_jax.data.bucket import Place
from genre_jax.data.shards import Index

_TERM = re.compile(r"([^\[\]+@]+)(?:\[(-?\d*):(-?\d*)(?:@(\d{1,18}))?\])?")


def load(folder: Place, splits: str, classes: Sequence[str] = ()) -> Index:
    """The clips of `splits`, in the form that this module describes, of the data set in `folder`.

    With `classes`, only clips of these classes are kept, and only these classes remain, in the order of the data set.

    Raises `UserError` if the text is malformed, for an unknown split or class, for clips that are in two of the summands, and
    if no clip is left.
    """
    parts = [_slice(folder, term, splits) for term in splits.split("+")]
    index = functools.reduce(_join, parts)
    index = _of_classes(index, classes) if classes else index
    if not len(index):
        raise UserError(f"split {splits!r} of data set {index.data_set!r} holds no clips")
    return dataclasses.replace(index, split=splits)


def _slice(folder: Place, term: str, splits: str) -> Index:
    match = _TERM.fullmatch(term.strip())
    if match is None:
        raise UserError(
            f"a split must be NAME, NAME[FIRST:END] or NAME[FIRST:END@SEED], or several of them joined by +, as in "
            f"'eval[:-100]', and was given {splits!r}"
        )
    name, first, end, seed = match.groups()
    index = shards.load_index(folder, name.strip())
    if first is None:
        return index
    rows = np.arange(len(index))
    if seed is not None:
        rows = np.random.Generator(np.random.Philox(key=[int(seed), 0])).permutation(rows)
    chosen = slice(int(first) if first else None, int(end) if end else None)
    return index.take(np.sort(rows[chosen]))


def _join(first: Index, second: Index) -> Index:
    """Two parts of one data set as one."""
    if both := set(first.names) & set(second.names):
        raise UserError(f"clip {min(both)!r} is in two of the splits that the config joins with +: name each split once")
    return mix.concatenate([first, second])


def _of_classes(index: Index, classes: Sequence[str]) -> Index:
    for name in classes:
        if name not in index.classes:
            raise console.unknown("class in data.classes", name, index.classes)
    columns = np.flatnonzero([name in classes for name in index.classes])
    index = index.take(np.flatnonzero(index.labels[:, columns].any(1)))
    labels = index.labels[:, columns]
    # A clip whose first label is left out gets the remaining label of the lowest class number.
    number = np.append(np.full(len(index.classes), -1), -1)
    number[columns] = np.arange(len(columns))
    first = number[index.first_label]
    first = np.where(first < 0, labels.argmax(1) if len(labels) else first, first).astype(np.int32)
    return dataclasses.replace(
        index, classes=tuple(index.classes[column] for column in columns), labels=labels, first_label=first
    )
