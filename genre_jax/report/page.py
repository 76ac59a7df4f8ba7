"""The report of one or several runs: one HTML page, with its figures, audio files, track pages and tables in the same folder.

    python -m genre_jax.report --output=DIR RUN…

RUN is a workdir. If a file of the run or the data set is missing, the page omits that part and says why. Confusions, class
scores and misclassified clips use the mean probability over the windows of a clip. This module needs neither JAX nor
TensorFlow.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genre_jax.atomic import write_text
from genre_jax.console import UserError
from genre_jax.report import comparison, formats, published, speech, systems, tables
from genre_jax.report.runs import Run, distinct, read_run
from genre_jax.report.section import section

NEEDED = ("matplotlib", "jinja2", "librosa")


def write_report(
    workdirs: Sequence[str | Path], output: str | Path, show_published: bool = False, latency: str | Path | None = None
) -> Path:
    """Write the report of the runs in `workdirs` to `output/index.html`; return the path of the page.

    PNG and WAV files, `tracks/NN.html` and `tables/NAME.{md,csv,tex}` lie beside it. The printed scores are shown if a run
    repeats one of them, or if `show_published` is true. `latency` is a file of `bench latency`, for the table of document 003.

    A workdir without a run is a sentence on the page, unless it is the only one. Raises `UserError` if no workdir holds a run,
    or if matplotlib, Jinja2 or librosa is not installed.
    """
    check_packages()
    milliseconds = speech.read_latency(latency) if latency else {}
    runs, left_out = _read_runs(workdirs)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    prefixes = ["" if len(runs) == 1 else f"run-{i}/" for i in range(1, len(runs) + 1)]
    links = [f"#run-{i}" for i in range(1, len(runs) + 1)]
    several = comparison.compare(runs, links, output) if len(runs) > 1 else None
    printed = published.section(runs, show_published)
    pictures, label_table = comparison.labels(runs, output)
    sections = [section(run, output, prefix, len(runs)) for run, prefix in zip(runs, prefixes, strict=True)]
    cost = comparison.cost_table(runs, links)
    spoken, paired = speech.table(runs, links, milliseconds), systems.differences(runs, links)
    compared = [(several or {}).get(key) for key in ("scores", "differing")]
    parts = [cost, spoken, paired, label_table, (printed or {}).get("table"), *compared]
    tables.write([table for table in parts if table] + [table for _, own in sections for table in own], output / "tables")
    context = {
        "title": runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        "left_out": left_out,
        "comparison": several,
        "published": printed,
        "cost": cost,
        "speech": spoken,
        "latency": Path(latency).name if latency else "",
        "paired": paired,
        "labels": pictures,
        "label_table": label_table,
        "runs": [values for values, _ in sections],
        "formats": tables.FORMATS,
    }
    return _render(context, output)


def check_packages() -> None:
    """Raise `UserError` if a package that the report needs is not installed."""
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"the report needs {package}, which is not installed: pip install {package}")


def _read_runs(workdirs: Sequence[str | Path]) -> tuple[list[Run], list[str]]:
    """The runs, and a sentence for each workdir that holds none. Raises `UserError` if all of them hold none."""
    if not workdirs:
        raise UserError("no run given: name at least one workdir, as in runs/bytenet")
    runs, errors = [], []
    for workdir in workdirs:
        try:
            runs.append(read_run(Path(workdir)))
        except UserError as error:
            errors.append(error)
    if not runs:
        raise errors[0]
    return distinct(runs), [formats.text(error) for error in errors]


def templates() -> Any:
    """Return Jinja2's environment with the templates of the report, which escape all values."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,  # a key that an older results.json lacks is shown as a dash
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(formats, name) for name in ("percent", "number", "duration", "interval", "text")}
    return environment


def _render(context: dict, output: Path) -> Path:
    """Write the page and the pages of the tracks; return the path of the page."""
    environment = templates()
    for number, run in enumerate(context["runs"], 1):
        for place, track in enumerate(run["tracks"]):
            around = {"before": run["tracks"][place - 1] if place else None, "after": (run["tracks"][place + 1 :] or [None])[0]}
            values = {"title": track["name"], "track": track, "run": run, "back": _back(run, number), **around}
            write_text(output / run["prefix"] / track["file"], environment.get_template("track.html.j2").render(values))
    page = output / "index.html"
    write_text(page, environment.get_template("report.html.j2").render(context))
    return page


def _back(run: dict, number: int) -> str:
    """The link from the page of a track to its run."""
    return f"{'../../' if run['prefix'] else '../'}index.html#run-{number}"
