"""Arithmetic on tags: vectors of tags, the parser of expressions, and the sentences for wrong ones."""

import numpy as np
import pytest

from genre_jax import tag_arithmetic
from genre_jax.console import UserError

NAMES = ("rock", "guitar", "synth", "new age", "Hip-Hop", "hip", "90s", "rock & roll", "R+B", "Ölmusik")


def test_a_vector_is_the_weighted_mean_of_the_standardised_songs():
    rng = np.random.default_rng(0)
    vectors, weights = rng.normal(3, 2, size=(40, 6)), rng.uniform(size=(40, 3))
    vectors[:, 5], weights[:, 2] = 0.1, 0
    songs = tag_arithmetic.standardised(vectors)
    np.testing.assert_allclose(songs[:, :5], (vectors - vectors.mean(0))[:, :5] / vectors.std(0)[:5])
    np.testing.assert_allclose(songs[:, 5], 0, atol=1e-12)
    found = tag_arithmetic.tag_vectors(songs, weights)
    for tag in (0, 1):
        mean = np.average(songs, axis=0, weights=weights[:, tag])
        np.testing.assert_allclose(found[tag], mean / np.linalg.norm(mean))
    assert not found[2].any()


def test_rock_without_guitar_with_synth():
    """Songs are sums of a genre and an instrument; the nearest song has the genre and the instrument of the expression."""
    names = ("rock", "jazz", "guitar", "synth", "piano")
    pairs = [(genre, instrument) for genre in (0, 1) for instrument in (2, 3, 4)]
    parts = np.random.default_rng(1).normal(size=(5, 30))
    songs = tag_arithmetic.standardised(np.array([parts[list(pair)].sum(0) for pair in pairs]))
    labels = np.array([[tag in pair for tag in range(5)] for pair in pairs])
    vector = tag_arithmetic.tag_query("rock - guitar + synth", names, tag_arithmetic.tag_vectors(songs, labels))
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert pairs[int((tag_arithmetic.unit(songs) @ vector).argmax())] == (0, 3)


@pytest.mark.parametrize(
    "expression, terms",
    [
        ("rock", [(1, 0)]),
        ("  Rock -  GUITAR+synth ", [(1, 0), (-1, 1), (1, 2)]),
        ("new  age + hip-hop - hip", [(1, 3), (1, 4), (-1, 5)]),
        ("hip-hip-hop", [(1, 5), (-1, 4)]),
        ("−rock − 90s", [(-1, 0), (-1, 6)]),
        ("rock & roll + R+B + rock", [(1, 7), (1, 8), (1, 0)]),
        ("ölmusik", [(1, 9)]),
    ],
)
def test_names_may_hold_spaces_and_signs(expression, terms):
    assert tag_arithmetic.parse(expression, NAMES) == terms


def test_a_name_with_the_right_capitals_is_preferred():
    assert [tag_arithmetic.parse(text, ("Rock", "rock", "ROCK"))[0][1] for text in ("rock", "Rock", "rOCK")] == [1, 0, 2]


@pytest.mark.parametrize(
    "expression, names, sentence",
    [
        ("rock - gitar + synth", NAMES, r"^unknown tag 'gitar' \(did you mean 'guitar'\?\): choose one of "),
        ("rock guitar", NAMES, "^unknown tag 'rock guitar'"),
        ("rock +", NAMES, "^the expression 'rock \\+' lacks a tag: write tags with \\+ or - between them"),
        (" ", NAMES, "^the expression ' ' lacks a tag"),
        ("rock", (), "^unknown tag 'rock': none is defined"),
        ("rock + synth - rock - synth", NAMES, "^the terms of the expression '.*' cancel: name tags that differ"),
    ],
)
def test_a_wrong_expression_is_one_sentence(expression, names, sentence):
    with pytest.raises(UserError, match=sentence):
        tag_arithmetic.tag_query(expression, names, np.eye(max(1, len(names))))
