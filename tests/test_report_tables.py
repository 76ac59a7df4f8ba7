"""The tables of a report as Markdown, CSV and LaTeX: values, and what is escaped."""

import csv
import io
import re
import shutil
import subprocess

import pytest

from genre_jax.report import formats, tables
from genre_jax.report.tables import INTERVAL, Column, Table

TABLE = Table(
    "scores",
    "Scores",
    (Column("Name"), Column("Score", formats.percent), INTERVAL, Column("Clips", formats.number)),
    [("plain", 1 / 3, (0.25, 0.5), 1234), ("-x", float("nan"), None, None)],
)
HOSTILE = [
    "=cmd|' /C calc'!A0",
    "+1",
    "@SUM(A1)",
    "\t=1",
    "＝1",
    "a|b",
    "<script>alert(1)</script>",
    r"50 % & $x_1^2$ #~ \input{x} {y}",
    "[2pt] *",
    'say "hi", twice',
    "line\nbreak",
    "left\u202eright",
    "🎵" * 3,
    "x" * 300,
]


def table_of(texts):
    return Table("scores", "Scores", (Column("Name"), Column("Score", formats.percent)), [(text, 0.5) for text in texts])


def test_values():
    assert tables.markdown(TABLE) == (
        "| Name | Score | 95 % interval | Clips |\n| --- | ---: | ---: | ---: |\n"
        "| plain | 33.3 % | 25.0 % – 50.0 % | 1,234 |\n| -x | – | – | – |\n"
    )
    rows = list(csv.reader(io.StringIO(tables.comma_separated(TABLE))))
    assert rows == [
        ["Name", "Score", "95 % interval, low", "95 % interval, high", "Clips"],
        ["plain", repr(1 / 3), "0.25", "0.5", "1234"],
        ["'-x", "", "", "", ""],
    ]
    latex = tables.latex(TABLE).splitlines()
    assert latex[1:4] == [r"\begin{tabular}{lrrr}", r"\hline", r"Name & Score & 95 \% interval & Clips \\"]
    assert latex[4:6] == [r"\hline", r"plain & 33.3 \% & 25.0 \% -- 50.0 \% & 1,234 \\"]


def test_no_formula_and_no_reordering_mark_in_csv():
    rows = list(csv.reader(io.StringIO(tables.comma_separated(table_of(HOSTILE)))))[1:]
    assert len(rows) == len(HOSTILE)
    for (cell, value), text in zip(rows, HOSTILE, strict=True):
        assert value == "0.5" and cell[0] not in "=+-@\t\r＝＋－＠" and "\u202e" not in cell
        assert cell.lstrip("'") == formats.text(text)  # nothing else changes


def test_a_row_of_markdown_keeps_its_columns():
    lines = tables.markdown(table_of(HOSTILE)).splitlines()
    assert len(lines) == 2 + len(HOSTILE)
    for line in lines:
        assert len(re.findall(r"(?<!\\)\|", line)) == 3
        assert "<" not in line and "\u202e" not in line


def test_special_characters_of_latex_are_escaped():
    found = tables.latex(table_of(HOSTILE)).splitlines()[5 : 5 + len(HOSTILE)]
    assert found[7] == (
        r"50 \% \& \$x\_1\textasciicircum{}2\$ \#\textasciitilde{} \textbackslash{}input\{x\} \{y\} & 50.0 \% \\"
    )
    assert found[8] == r"{[}2pt] {*} & 50.0 \% \\"
    assert found[6] == r"\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{} & 50.0 \% \\"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_latex_compiles(tmp_path):
    text = tables.latex(table_of(text for text in HOSTILE if text.isascii()))
    (tmp_path / "x.tex").write_text(f"\\documentclass{{article}}\\begin{{document}}{text}\\end{{document}}")
    done = subprocess.run(["pdflatex", "-halt-on-error", "x.tex"], cwd=tmp_path, check=False, capture_output=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_files_of_an_earlier_report_are_deleted_and_others_are_kept(tmp_path):
    folder = tmp_path / "tables"
    tables.write([TABLE], folder)
    for name in ("run-3-classes.csv", "notes.csv", "scores.txt"):
        (folder / name).write_text("x")
    tables.write([Table("cost", "Cost", (Column("Run"),), [])], folder)
    assert sorted(path.name for path in folder.iterdir()) == ["cost.csv", "cost.md", "cost.tex", "notes.csv", "scores.txt"]


@pytest.mark.parametrize(
    "value, text",
    [(1.234e9, "1.23 G"), (999, "999"), (0, "0"), (None, "–"), (float("nan"), "–"), (3e18, "3,000 P")],
)
def test_prefixes(value, text):
    assert formats.prefixed(value) == text


@pytest.mark.parametrize("value, text", [(2**30, "1 GiB"), (1536, "1.5 KiB"), (1023, "1,023 B"), (None, "–")])
def test_sizes(value, text):
    assert formats.size(value) == text
