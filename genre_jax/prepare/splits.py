"""Split protocols, `--split=NAME[:NUMBER…]`, and the seeded draws that they use.

A draw sorts names by a hash of (seed, name). It depends neither on a random generator of a library nor on the order of
files in the file system.
"""

import collections
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from genre_jax import console
from genre_jax.console import UserError


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Returns the names in an order that depends on the seed. Adding or removing a name keeps the order of the others."""
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}/{name}".encode()).digest(), name))


def parse(text: str, legal: Mapping[str, str]) -> tuple[str, list[int]]:
    """Parse `--split=NAME[:NUMBER…]` into the name of the protocol and its numbers.

    `legal` maps each protocol to the form of its numbers: {"random": "[:SEED]", "folds": ":K[:SEED]"}. Numbers in
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


def drawn(names: Iterable[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Returns {name: split} with rounded shares of all names together, without regard to their classes."""
    return stratified(dict.fromkeys(names, ""), shares, seed)


def hashed(groups: Mapping[str, Sequence[str]], shares: Mapping[str, float]) -> dict[str, str]:
    """Returns {group: split} from the hash of each group's name, with `shares` on average.

    The hash alone keeps groups where they are when others are added. Exact shares would not. In a small data set the hash
    leaves some splits without a class. Therefore each class with a group for each split gets at least one in each split, and
    one in the first split in any case.

    Args:
      groups: {name of a group: labels of all its clips}; a group is a track, or all tracks of an artist.
      shares: {split: share above 0}, the training split first; the shares sum to 1.
    """
    positions = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 for name in groups}
    first, *others = shares
    order = [*others, first]  # the training split has the largest hashes
    limits = [sum(shares[split] for split in order[: n + 1]) for n in range(len(order) - 1)]
    placed = {name: order[sum(position >= limit for limit in limits)] for name, position in positions.items()}
    of_class: dict[str, list[str]] = {}
    for name in sorted(groups, key=positions.__getitem__):
        for label in set(groups[name]):
            of_class.setdefault(label, []).append(name)

    def spare(name: str) -> bool:
        """Whether every class of a group has another group in its split."""
        return all(any(placed[it] == placed[name] for it in of_class[label] if it != name) for label in set(groups[name]))

    for label in sorted(of_class, key=lambda label: (len(of_class[label]), label)):
        for split in shares:
            if any(placed[name] == split for name in of_class[label]):
                continue
            spares = [name for name in of_class[label] if spare(name)]
            if spares or split == first:
                placed[(spares or of_class[label])[0]] = split
    return placed


def folds(groups: Mapping[str, Sequence[str]], count: int, seed: int) -> dict[str, str]:
    """Returns {group: fold} of a cross-validation with the splits fold0 to fold(`count` - 1), each with a part of every class.

    A group is what must stay together: a track, or all tracks of an artist. The largest groups are placed first, each in the
    fold that has the smallest share of its labels; ties go to the fold with the fewest labels. With one clip and one label in
    each group, the folds differ by at most one clip, in total and in each class.

    Args:
      groups: {name of a group: labels of all its clips, a label as often as it occurs}.
      count: number of folds, 2 or more.
      seed: seed of the order of groups of the same size and labels.

    Raises `UserError` if `count` is below 2, or if there are fewer groups than folds.
    """
    if count < 2 or count > len(groups):
        raise UserError(
            f"--split=folds:{count} cannot be made: use 2 folds or more, and at most one for each of the {len(groups)} groups "
            "(artists, or tracks where no artist is known)"
        )
    totals = collections.Counter(label for labels in groups.values() for label in labels)
    rank = {name: place for place, name in enumerate(shuffled(groups, seed))}
    sizes = [0] * count
    held: list[collections.Counter[str]] = [collections.Counter() for _ in range(count)]
    placed = {}
    for name in sorted(groups, key=lambda name: (-len(groups[name]), sorted(groups[name]), rank[name])):
        labels = collections.Counter(sorted(groups[name]))
        shares = [sum(times * its[label] / totals[label] for label, times in labels.items()) for its in held]
        best = min(range(count), key=lambda fold: (shares[fold], sizes[fold], fold))
        placed[name] = f"fold{best}"
        sizes[best] += len(groups[name])
        held[best].update(labels)
    return placed
