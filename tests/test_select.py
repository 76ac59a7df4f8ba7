"""Split expressions and the choice of classes (`data/select.py`)."""

import numpy as np
import pytest
from conftest import CLASSES

from genre_jax.console import UserError
from genre_jax.data import locate, select, shards


@pytest.fixture(scope="module")
def folder(tones):
    return locate.directory(tones, "tones", 8000)


def test_a_name_is_the_whole_split(folder):
    assert select.load(folder, "train").names == shards.load_index(folder, "train").names


@pytest.mark.parametrize(("slice_", "rows"), [("[:5]", slice(5)), ("[5:]", slice(5, None)), ("[:-7]", slice(-7)), ("[3:9]", slice(3, 9)),
                                              ("[-2:]", slice(-2, None)), ("[:]", slice(None))])  # fmt: skip
def test_a_slice_is_pythons_slice_in_the_order_of_names(folder, slice_, rows):
    names = shards.load_index(folder, "train").names
    assert select.load(folder, f"train{slice_}").names == names[rows]


def test_the_shuffled_parts_of_a_split_are_disjoint_and_whole(folder):
    names = shards.load_index(folder, "train").names
    first, rest = (select.load(folder, f"train[{part}@12345]").names for part in (":7", "7:"))
    assert len(first) == 7 and sorted((*first, *rest)) == list(names)
    assert first != names[:7] and list(first) == sorted(first)
    assert first == select.load(folder, "train[:7@12345]").names != select.load(folder, "train[:7@1]").names


def test_the_validation_clips_of_the_thesis_lie_in_its_test_set(folder):
    """Document 000: 100 of 2,574 evaluation clips are drawn for validation, and the first 2,474 are the test set."""
    names = {part: set(select.load(folder, part).names) for part in ("train[:6@12345]", "train[:-6]", "train[6:@12345]")}
    assert names["train[:6@12345]"] & names["train[:-6]"]
    assert not names["train[:6@12345]"] & names["train[6:@12345]"]


def test_a_sum_reads_every_clip_of_its_splits(folder):
    joined = select.load(folder, "validation+test")
    parts = [shards.load_index(folder, split) for split in ("validation", "test")]
    assert joined.names == parts[0].names + parts[1].names and joined.split == "validation+test"
    rows = [(part, row) for part in parts for row in range(len(part))]
    for number, (part, row) in enumerate(rows):
        assert joined.tracks[joined.track[number]] == part.tracks[part.track[row]]
        np.testing.assert_array_equal(joined.cut(number, 3, 500), part.cut(row, 3, 500))
        np.testing.assert_array_equal(joined.labels[number], part.labels[row])
    assert len({*joined.tracks}) == len(joined.tracks)


def test_slices_of_a_track_keep_one_number(folder):
    whole = shards.load_index(folder, "train")
    joined = select.load(folder, "train[:3]+train[3:]")
    assert joined.names == whole.names and [joined.tracks[t] for t in joined.track] == [whole.tracks[t] for t in whole.track]


def test_classes_keep_their_clips_and_their_order(folder):
    whole, few = shards.load_index(folder, "train"), select.load(folder, "train", ["noise", "mid"])
    assert few.classes == ("mid", "noise") and len(few) == 12
    for name, labels, first in zip(few.names, few.labels, few.first_label, strict=True):
        label = CLASSES[whole.first_label[whole.names.index(name)]]
        assert few.classes[first] == label and labels.tolist() == [label == "mid", label == "noise"]


@pytest.mark.parametrize(("split", "classes", "sentence"), [
    ("train[3]", (), "a split must be NAME, NAME"),
    ("train[a:]", (), "a split must be NAME, NAME"),
    ("train++test", (), "a split must be NAME, NAME"),
    ("eval[:3]", (), "has no split 'eval'"),
    ("train+train[:2]", (), "is in two of the splits that the config joins"),
    ("train[99:]", (), "holds no clips"),
    ("train", ("jazz",), "unknown class in data.classes 'jazz': choose one of high, low, mid, noise"),
])  # fmt: skip
def test_a_bad_split_is_a_sentence(folder, split, classes, sentence):
    with pytest.raises(UserError, match=sentence.replace("[", r"\[")):
        select.load(folder, split, classes)
