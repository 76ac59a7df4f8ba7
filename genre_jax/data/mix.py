"""Several data sets as one training split (`data.mix`)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from genre_jax.console import UserError
from genre_jax.data.shards import Index


def merge(indices: Sequence[Index]) -> Index:
    """Join splits of several data sets, in their order, under the classes of the first.

    The other data sets may list their classes in another order, and may lack some. Raises `UserError` if one of them has
    a class that the first lacks, or another sample rate.
    """
    first = indices[0]
    if len(indices) == 1:
        return first
    for index in indices[1:]:
        if extra := sorted(set(index.classes) - set(first.classes)):
            raise UserError(
                f"data.mix: data set {index.data_set!r} has classes that {first.data_set!r} lacks, {', '.join(extra[:5])}"
                f"{' …' if len(extra) > 5 else ''}: only data sets of the same classes, or of some of them, can be mixed"
            )
        if index.sample_rate != first.sample_rate:
            raise UserError(f"data.mix: data set {index.data_set!r} has {index.sample_rate} Hz, not {first.sample_rate} Hz")
    columns = [[first.classes.index(name) for name in index.classes] for index in indices]
    labels = [np.zeros((len(index), len(first.classes)), np.uint8) for index in indices]
    for matrix, index, column in zip(labels, indices, columns, strict=True):
        matrix[:, column] = index.labels
    firsts = [np.append(column, -1)[index.first_label] for index, column in zip(indices, columns, strict=True)]

    def shifted(field: str, counted: str) -> np.ndarray:
        """Row numbers `field`, moved behind the rows of the `counted` things of the data sets before."""
        before = np.cumsum([0, *(len(getattr(index, counted)) for index in indices[:-1])])
        parts = [getattr(index, field) + shift for index, shift in zip(indices, before, strict=True)]
        return np.concatenate(parts).astype(np.int32)

    rows = ("record", "size", "checksum", "offset", "length", "maximum", "state", "stamps")
    joined: Any = {field: np.concatenate([getattr(index, field) for index in indices]) for field in rows}
    return dataclasses.replace(
        first,
        data_set="+".join(index.data_set for index in indices),
        shards=tuple(shard for index in indices for shard in index.shards),
        names=tuple(f"{index.data_set}:{name}" for index in indices for name in index.names),
        tracks=tuple(f"{index.data_set}:{track}" for index in indices for track in index.tracks),
        track=shifted("track", "tracks"),
        shard=shifted("shard", "shards"),
        labels=np.concatenate(labels),
        first_label=np.concatenate(firsts).astype(np.int32),
        **joined,
    )
