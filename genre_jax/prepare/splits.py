"""Split protocols by name, `--split=NAME[:NUMBER…]`, and the seeded draws behind them.

A draw sorts names by a hash of (seed, name): it depends on no library's generator, and on no file system's order.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping

from genre_jax import console
from genre_jax.console import UserError


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """The names in the order of the seed; a name more or less leaves the order of the others."""
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}/{name}".encode()).digest(), name))


def parse(text: str, legal: Mapping[str, str]) -> tuple[str, list[int]]:
    """The protocol that `text` names and its numbers, those in brackets being 0 where they are left out.

    `legal` maps a name to the form of its numbers: {"random": "[:SEED]", "folds": ":K:INDEX[:SEED]"}.
    Raises `UserError` with the legal forms.
    """
    name, *given = text.split(":")
    form = legal.get(name)
    if form is None or not all(re.fullmatch(r"\d+", number) for number in given):
        raise _unknown(text, legal)
    most, least = form.count(":"), form.split("[")[0].count(":")
    if not least <= len(given) <= most:
        raise _unknown(text, legal)
    return name, [int(number) for number in given] + [0] * (most - len(given))


def _unknown(text: str, legal: Mapping[str, str]) -> UserError:
    return console.unknown("split", text, [name + form for name, form in legal.items()])


def stratified(classes: Mapping[str, str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Name → split: of each class the same shares, rounded; `classes` maps names to classes, `shares` sum to 1."""
    placed = {}
    for label in sorted(set(classes.values())):
        names = shuffled((name for name, own in classes.items() if own == label), seed)
        done = 0.0
        for split, share in shares.items():
            first, done = round(done * len(names)), done + share
            placed.update(dict.fromkeys(names[first : round(done * len(names))], split))
    return placed


def folds(classes: Mapping[str, str], count: int, index: int, seed: int) -> dict[str, str]:
    """Name → split: fold `index` of `count` is the test, the next one the validation (where there are three), by class.

    Raises `UserError` where there is no such fold.
    """
    if count < 2 or index >= count:
        raise UserError(f"there is no fold {index} of {count}: give 2 folds or more, and an index from 0 to K - 1")
    placed = {}
    for label in sorted(set(classes.values())):
        for place, name in enumerate(shuffled((name for name, own in classes.items() if own == label), seed)):
            turn = (place - index) % count
            placed[name] = "test" if turn == 0 else "validation" if turn == 1 and count > 2 else "train"
    return placed
