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
    data_sets = "+".join(index.data_set for index in indices)
    return concatenate(
        [
            dataclasses.replace(
                index,
                data_set=data_sets,
                classes=first.classes,
                names=tuple(f"{index.data_set}:{name}" for name in index.names),
                tracks=tuple(f"{index.data_set}:{track}" for track in index.tracks),
                labels=matrix,
                first_label=own.astype(np.int32),
            )
            for index, matrix, own in zip(indices, labels, firsts, strict=True)
        ]
    )


def concatenate(indices: Sequence[Index]) -> Index:
    """Indices of the same classes, one after the other; data set and split are those of the first."""
    number = {track: i for i, track in enumerate(dict.fromkeys(track for index in indices for track in index.tracks))}
    tracks = [np.array([number[track] for track in index.tracks], np.int32)[index.track] for index in indices]
    before = np.cumsum([0, *(len(index.shards) for index in indices[:-1])])
    rows = ("labels", "first_label", "record", "size", "checksum", "offset", "length", "maximum", "state", "stamps")
    joined: Any = {field: np.concatenate([getattr(index, field) for index in indices]) for field in rows}
    return dataclasses.replace(
        indices[0],
        shards=tuple(shard for index in indices for shard in index.shards),
        names=tuple(name for index in indices for name in index.names),
        tracks=tuple(number),
        track=np.concatenate(tracks),
        shard=np.concatenate([index.shard + shift for index, shift in zip(indices, before, strict=True)]).astype(np.int32),
        **joined,
    )
