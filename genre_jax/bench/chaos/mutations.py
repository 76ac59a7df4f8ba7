"""Seeded damage to files: bytes of any file, and values that a JSON file or an .npz file should not hold."""

import io
import json
import zipfile
from collections.abc import Callable

import numpy as np

Rng = np.random.Generator

_VALUES: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    2**27,
    2**70,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    "",
    "\x1b[2J\n\ud800",
    "../..",
    [],
    {},
    [[]],
    {"a": {}},
)
_SHAPES = ((), (0,), (1,), (3, 3), (48,), (48, 4), (4, 48), (1, 1, 1), (2**20, 2**20), (2**31,), (-1,))
_TYPES = ("<f4", "<f8", "<f2", "<i8", "<u8", "|b1", "<U9", "<c8", "|O", "<M8[s]", "|S4", "|V8")


def damage(data: bytes, rng: Rng) -> bytes:
    """Returns the bytes after one to three kinds of damage at random places."""
    for _ in range(int(rng.integers(1, 4))):
        kind = _KINDS[int(rng.integers(len(_KINDS)))]
        data = kind(data, rng) if data else data
    return data


def _place(data: bytes, rng: Rng) -> tuple[int, int]:
    """Returns a random range (first byte, end)."""
    first = int(rng.integers(len(data)))
    return first, min(len(data), first + int(2 ** rng.uniform(0, 12)))


def _flip_bits(data: bytes, rng: Rng) -> bytes:
    array = np.frombuffer(data, np.uint8).copy()
    where = rng.integers(len(array), size=int(2 ** rng.uniform(0, 8)))
    array[where] ^= (1 << rng.integers(8, size=len(where))).astype(np.uint8)
    return array.tobytes()


def _change_header(data: bytes, rng: Rng) -> bytes:
    array = np.frombuffer(data, np.uint8).copy()
    where = rng.integers(min(len(array), 128), size=int(rng.integers(1, 9)))
    array[where] = rng.choice(np.array([0, 1, 127, 128, 255, int(rng.integers(256))], np.uint8), size=len(where))
    return array.tobytes()


def _cut_off(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data)))]


def _zero(data: bytes, rng: Rng) -> bytes:
    first, end = _place(data, rng)
    return data[:first] + bytes(end - first) + data[end:]


def _repeat(data: bytes, rng: Rng) -> bytes:
    first, end = _place(data, rng)
    return data[:end] + data[first:end] * int(rng.integers(1, 5)) + data[end:]


def _remove(data: bytes, rng: Rng) -> bytes:
    first, end = _place(data, rng)
    return data[:first] + data[end:]


def _move(data: bytes, rng: Rng) -> bytes:
    (first, end), target = _place(data, rng), int(rng.integers(len(data)))
    return data[:target] + data[first:end] + data[target:]


def _append_itself(data: bytes, rng: Rng) -> bytes:
    return data + data[int(rng.integers(len(data))) :] if rng.random() < 0.5 else data + data


_KINDS: tuple[Callable[[bytes, Rng], bytes], ...] = (
    _flip_bits, _change_header, _cut_off, _zero, _repeat, _remove, _move, _append_itself,
)  # fmt: skip


def damage_json(data: bytes, rng: Rng) -> bytes:
    """Replace one value of a JSON file, or of one line of a JSON-lines file, by a value of another type or size."""
    lines = [data] if data.startswith(b"{\n") else data.splitlines()
    number = int(rng.integers(len(lines)))
    lines[number] = json.dumps(_replaced(json.loads(lines[number]), rng)).encode()
    return b"\n".join(lines) + b"\n"


def _replaced(value: object, rng: Rng) -> object:
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner or rng.random() < 0.1:
        return _deep(rng) if rng.random() < 0.1 else _VALUES[int(rng.integers(len(_VALUES)))]
    key = inner[int(rng.integers(len(inner)))]
    value[key] = _replaced(value[key], rng)  # type: ignore[index]
    return value


def _deep(rng: Rng) -> object:
    value: object = 0
    for _ in range(int(rng.integers(20, 900))):
        value = {"a": value}
    return value


def damage_safetensors(data: bytes, rng: Rng) -> bytes:
    """Damage a file of `save_pretrained`: any of its bytes, those of its arrays alone, or one value of its header or config."""
    start = 8 + int.from_bytes(data[:8], "little")
    how = int(rng.integers(4))
    if how == 0:
        return damage(data, rng)
    if how == 1:
        return data[:start] + damage(data[start:], rng)
    header = json.loads(data[8:start])
    if how == 2:
        header = _replaced(header, rng)
    else:
        about = header["__metadata__"]
        about["config"] = json.dumps(_replaced(json.loads(about["config"]), rng))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[start:]


def damage_npz(data: bytes, rng: Rng) -> bytes:
    """Replace one column of an .npz file: another type or shape, values out of range, or a header that states too much."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    names = list(members)
    name = names[int(rng.integers(len(names)))]
    how = int(rng.integers(4))
    if how == 0:
        members[name] = _stating(members[name], rng)
    elif how == 1:
        del members[name]
    elif how == 2:
        members[name] = members[names[int(rng.integers(len(names)))]]
    else:
        column = np.load(io.BytesIO(members[name]))
        flat = column.reshape(-1).copy()
        if flat.size and column.dtype.kind in "fiu":
            wrong = [np.nan, np.inf, 1e38] if column.dtype.kind == "f" else [2**31 - 1, 99, 255]
            flat[int(rng.integers(flat.size))] = np.array(wrong[int(rng.integers(3))]).astype(column.dtype)
        file = io.BytesIO()
        np.save(file, flat.reshape(column.shape) if rng.random() < 0.7 else flat)
        members[name] = file.getvalue()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return file.getvalue()


def _stating(content: bytes, rng: Rng) -> bytes:
    """Returns the content of a .npy file with a header that states another shape or type."""
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    descr = np.lib.format.dtype_to_descr(dtype) if rng.random() < 0.5 else _TYPES[int(rng.integers(len(_TYPES)))]
    if rng.random() < 0.7:
        shape = _SHAPES[int(rng.integers(len(_SHAPES)))]
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(made, {"descr": descr, "fortran_order": bool(rng.random() < 0.3), "shape": shape})
    return made.getvalue() + file.read()
