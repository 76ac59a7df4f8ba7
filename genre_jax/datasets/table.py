"""Read the CSV files of data sets, in UTF-8, or in UTF-16 with a byte order mark.

A file that is damaged, or in another encoding, gives one sentence with its path and line.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from genre_jax.console import UserError

_LONGEST = 1 << 20  # characters of a line; a longer line means that the file is not text
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks
_DELIMITERS = ",;\t"


def delimiter(path: Path) -> str:
    """Returns the comma, semicolon or tab, whichever occurs most often in the first line of a file."""
    return max(_DELIMITERS, key=next(lines(path), "").count)


def rows(path: Path, separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its last line, cells) of each row of a CSV file, without the spaces after a `separator`.

    Raises `UserError` if the file is not CSV in UTF-8 or UTF-16. A quote that is not closed is an error as well, because it
    would hide the rows after it.
    """
    reader = csv.reader(lines(path), delimiter=separator, skipinitialspace=True, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}, line {first}: the row that begins here is not valid CSV ({error}): correct its quotes and line ends"
            ) from None
        if cells is None:
            return
        yield reader.line_num, cells


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file in UTF-8 or UTF-16, with their ends. Raises `UserError` if the file is not such a text."""
    with open(path, "rb") as file:
        wide = file.read(2) in _UTF_16
    with open(path, encoding="utf-16" if wide else "utf-8-sig", newline="") as text:
        number = 0
        try:
            while line := text.readline(_LONGEST):
                number += 1
                if "\0" in line:
                    raise UserError(f"{path}, line {number}: the line contains a NUL byte: save the file as text in UTF-8")
                if len(line) == _LONGEST:
                    raise UserError(f"{path}, line {number}: the line has {_LONGEST} characters or more: use a text file")
                yield line
        except UnicodeDecodeError:
            if wide:
                raise UserError(f"{path} begins as UTF-16, but its rest is not UTF-16: save the file in UTF-8") from None
            raise UserError(
                f"{path}, line {_undecodable(path)}: the line is not in UTF-8: save the file in UTF-8 (spreadsheets call this "
                "'CSV UTF-8')"
            ) from None


def _undecodable(path: Path) -> int:
    """Returns the number of the first line that is not UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1  # the file has changed since it was read
