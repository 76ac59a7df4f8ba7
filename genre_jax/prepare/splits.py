"""Split protocols, `--split=NAME[:NUMBER…]`, and the seeded draws that they use.

A draw sorts names by a hash of (seed, name). It depends neither on a random generator of a library nor on the order of
files in the file system.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping

from genre_jax import console
from genre_jax.console import UserError


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Returns the names in an order that depends on the seed. Adding or removing a name keeps the order of the others."""
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}/{name}".encode()).digest(), name))


def parse(text: str, legal: Mapping[str, str]) -> tuple[str, list[int]]:
    """Parse `--split=NAME[:NUMBER…]` into the name of the protocol and its numbers.

    `legal` maps each protocol to the form of its numbers: {"random": "[:SEED]", "folds": ":K:INDEX[:SEED]"}. Numbers in
    brackets are optional and default to 0. Raises `UserError` with the legal forms.
    """
    name, *numbers = text.split(":")
    form = legal.get(name)
    if form is None or not all(re.fullmatch(r"[0-9]{1,9}", number) for number in numbers):
        raise _unknown(text, legal)
    most, least = form.count(":"), form.split("[")[0].count(":")
    if not least <= len(numbers) <= most:
        raise _unknown(text, legal)
    return name, [int(number) for number in numbers] + [0] * (most - len(numbers))


def _unknown(text: str, legal: Mapping[str, str]) -> UserError:
    return console.unknown("split", text, [name + form for name, form in legal.items()])


def stratified(classes: Mapping[str, str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Returns {name: split} with the same rounded shares of every class.

    `classes` maps each name to its class; `shares` maps each split to its share, and the shares sum to 1.
    """
    placed = {}
    for label in sorted(set(classes.values())):
        names = shuffled((name for name, its_class in classes.items() if its_class == label), seed)
        done = 0.0
        for split, share in shares.items():
            first, done = round(done * len(names)), done + share
            placed.update(dict.fromkeys(names[first : round(done * len(names))], split))
    return placed


def folds(classes: Mapping[str, str], count: int, index: int, seed: int) -> dict[str, str]:
    """Returns {name: split} of a cross-validation with `count` folds of every class.

    Fold `index` is the test split. If there are three folds or more, the next fold is the validation split. Raises
    `UserError` if `count` is below 2 or `index` is not in [0, count).
    """
    if count < 2 or index >= count:
        raise UserError(f"there is no fold {index} of {count} folds: use 2 folds or more, and an index from 0 to K - 1")
    placed = {}
    for label in sorted(set(classes.values())):
        names = shuffled((name for name, its_class in classes.items() if its_class == label), seed)
        for place, name in enumerate(names):
            turn = (place - index) % count
            placed[name] = "test" if turn == 0 else "validation" if turn == 1 and count > 2 else "train"
    return placed
