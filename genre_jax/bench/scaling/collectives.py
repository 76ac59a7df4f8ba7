"""Count the all-reduces of a compiled program in XLA's text."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

# A computation's first line, `%name (parameters) -> type {`; an all-reduce with its result's type; the references of a line.
_HEAD = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) .*\{$")
_ALL_REDUCE = re.compile(r" = (?P<type>.*?) all-reduce(-start)?\(")
_ARRAY = re.compile(r"(?P<dtype>[a-z]\w*)\[(?P<shape>[\d,]*)\]")
_CALLED = re.compile(
    r"(?:body|calls|to_apply|branch_computations|true_computation|false_computation)=\{?((?:%?[\w.-]+(?:, )?)+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class AllReduces(NamedTuple):
    """All-reduces in one call of a program on one device: their number, and the bytes of their operands."""

    number: int
    size: int


def _sum(parts: Iterable[AllReduces]) -> AllReduces:
    total = AllReduces(0, 0)
    for part in parts:
        total = AllReduces(total.number + part.number, total.size + part.size)
    return total


def all_reduces(text: str) -> AllReduces:
    """Count the all-reduces in `compiled.as_text()`. XLA has merged those that do not wait for one another.

    The body of a loop counts as often as the loop runs if XLA knows the number, and otherwise once. All branches of a
    conditional count.
    """
    lines: dict[str, list[str]] = {}
    entry = ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            body = lines.setdefault(head["name"], [])
            entry = head["name"] if head["entry"] else entry
        elif line.startswith(" "):
            body.append(line)
    known: dict[str, AllReduces] = {}

    def total(name: str) -> AllReduces:
        if name not in known:
            known[name] = _sum(map(of_line, lines.get(name, ())))
        return known[name]

    def of_line(line: str) -> AllReduces:
        if found := _ALL_REDUCE.search(line):
            return AllReduces(1, type_bytes(found["type"]))
        called = [name.lstrip("%") for names in _CALLED.findall(line) for name in names.split(", ")]
        inside = _sum(map(total, called))
        trips = int(found[1]) if (found := _TRIPS.search(line)) else 1
        return AllReduces(trips * inside.number, trips * inside.size)

    return total(entry)


def type_bytes(text: str) -> int:
    """Return the bytes of a type in XLA's text, such as `f32[6,64]{1,0}` or a tuple of such types."""
    return sum(
        math.prod(map(int, filter(None, array["shape"].split(",")))) * _item_bytes(array["dtype"])
        for array in _ARRAY.finditer(re.sub(r"/\*.*?\*/|\{.*?\}", "", text))
    )


def _item_bytes(dtype: str) -> int:
    """Return the bytes of a number: the type's name holds its bits, except for `pred`."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1
