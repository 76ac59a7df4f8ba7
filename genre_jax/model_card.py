"""The model card of a published network: what it is, how to load it, its data, protocol, scores and limits, in Markdown.

The card follows the format of the Hugging Face Hub: a YAML head, which its search reads, and a text. Everything in it comes
from the files of the run and of its data set. What they do not record, the card calls not recorded.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from genre_jax import __version__, checksum, metrics, models
from genre_jax import config as configs
from genre_jax.atomic import read_json
from genre_jax.console import UserError
from genre_jax.data import locate
from genre_jax.report import bounds, classes, formats, runs, scores, tables
from genre_jax.report.tables import Column, Table
from genre_jax.weights import musicnn, pretrained

MUSICNN = "ISC"  # SPDX id of `musicnn.LICENCE`
MARK = "library_name: genre_jax"
UNKNOWN = "not recorded"
CORPORA = {"MSD": "the Million Song Dataset", "MTT": "MagnaTagATune"}  # what the published weights were trained on
FEW = 10  # clips of a class; a score on fewer says little
# Common licences that the hub knows by their SPDX id in lower case. Others are "other" there, with their name beside it.
HUB_LICENCES = (
    *(
        "apache-2.0",
        "mit",
        "isc",
        "bsd-2-clause",
        "bsd-3-clause",
        "mpl-2.0",
        "cc0-1.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-nd-4.0",
    ),
    *("cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
)
HUB_METRICS = {"macro_f1": "f1", "macro_precision": "precision", "macro_recall": "recall"}  # our name → the hub's
UNRANKED = ("classes_without_positives", "top_k_accuracy")  # a count, and a score whose k is the number of labels of each clip


@dataclasses.dataclass(frozen=True)
class Subject:
    """The network that a card describes.

    Attributes:
      name: its name.
      trained: config, labels and weights.
      config: the config as JSON, with the paths of this machine.
      notes: source and licence of published weights; empty for a run.
      workdir: workdir of the run; None for published weights.
      run: what the workdir records; None for published weights.
    """

    name: str
    trained: pretrained.Trained
    config: dict[str, Any]
    notes: dict[str, str]
    workdir: Path | None
    run: runs.Run | None

    @property
    def starts(self) -> list[str]:
        """The weights that the run started from, then those that their run started from, and so on, as far as it is known."""
        found: list[str] = []
        source = self.config["init_from"]
        while source and source not in found:
            found.append(source)
            path = Path(source) / "config.json"
            source = read_json(path, dict).get("init_from", "") if path.is_file() else ""
        return found

    @property
    def of_musicnn(self) -> bool:
        """Whether the weights are those of musicnn, or were trained further from them."""
        return bool(self.notes) or any(source in musicnn.NAMES for source in self.starts)


def subject(source: str) -> Subject:
    """Return the network in a workdir, or the published weights of this name, with what is recorded about it.

    Raises `UserError` if the source is neither, if the run has not ended, or if it has no whole checkpoint.
    """
    if source in musicnn.NAMES:
        trained = pretrained.load_trained(source)
        return Subject(source, trained, configs.to_json(trained.config), dict(trained.notes), None, None)
    workdir = Path(source)
    if not (workdir / "config.json").is_file():
        names = ", ".join(musicnn.NAMES)
        raise UserError(f"--workdir={source} is neither the workdir of a run nor the name of published weights ({names})")
    if not (workdir / "results.json").is_file():
        raise UserError(f"the run in {source} has not ended, because it holds no results.json: run its training command again")
    trained = pretrained.load_trained(workdir)
    run = runs.read_run(workdir)
    if not run.results:
        raise UserError(f"the scores of the run in {source} cannot be read: {'; '.join(run.faults)}")
    return Subject(run.name, trained, configs.to_json(trained.config), {}, workdir, run)


def render(about: Subject, repo: str, licence: str, folder: Path, files: Mapping[str, str], missing: Mapping[str, str]) -> str:
    """Return the card, README.md.

    Args:
      about: the network.
      repo: the repository, "owner/name".
      licence: SPDX expression of the licence of the weights.
      folder: the folder that is published, with "model.safetensors".
      files: name in the folder → what it is.
      missing: name → why this file could not be made.
    """
    import jinja2
    from markupsafe import Markup

    def escaped(value: object) -> str:
        return value if isinstance(value, Markup) else tables.in_markdown(formats.text(value))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(tables.__file__).parent),
        undefined=jinja2.StrictUndefined,
        finalize=escaped,  # names of classes, data sets and files come from users
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    run = about.run
    listed = [(name, what, _size(folder / name)) for name, what in files.items() if name != "README.md"]
    baselines = _baselines(run) if run else None
    as_markdown = {
        "network": _pairs("Network", _network(about)),
        "files": Table("files", "Files", (Column("File"), Column("Content"), Column("Size", str)), listed),
        "data": _pairs("Data", _data(about)) if run else None,
        "splits": _splits(about),
        "protocol": _pairs("Protocol", _protocol(about)) if run else None,
        "scores": _scores(run) if run else None,
        "baselines": baselines,
        "classes": classes.class_table(classes.by_class(run)) if run and run.predictions else None,
        "versions": _pairs("Versions", _versions(about)),
    }
    template = environment.get_template("model_card.md.j2")
    return template.render(
        {
            "head": Markup(yaml.safe_dump(_head(about, repo, licence, [*files]), sort_keys=False, allow_unicode=True)),
            "repo": Markup(repo),
            "about": about,
            "corpus": CORPORA.get(musicnn.NAMES.get(about.name, "")[:3], UNKNOWN),
            "labels": Markup(", ".join(map(escaped, about.trained.labels))),
            "count": len(about.trained.labels),
            "licence": licence,
            "missing": missing,
            "limits": _limits(about, baselines),
            "has_onnx": (folder / "model.onnx").exists(),
            "conditioning": about.config["data"]["conditioning"],
            "faults": run.faults if run else (),
            "digest": checksum.of_file(folder / "model.safetensors"),
        }
        | {name: Markup(tables.markdown(table)) if table else "" for name, table in as_markdown.items()}
    )


def _head(about: Subject, repo: str, licence: str, files: list[str]) -> dict[str, Any]:
    """The YAML head, with the scores that the hub shows as the card's evaluation results; `files` are in the folder."""
    known = licence.lower() in HUB_LICENCES
    head: dict[str, Any] = {"license": licence.lower()} if known else {"license": "other", "license_name": licence.lower()}
    head |= {"library_name": "genre_jax", "pipeline_tag": "audio-classification"}
    head["tags"] = ["audio-classification", "audio", "jax", "safetensors", about.config["model"]["name"]]
    head["tags"] += ["music"] if about.notes else []  # a run may know other sounds than music
    head["tags"] += ["onnx"] if "model.onnx" in files else []
    if not about.run or not about.run.results:
        return head
    results = about.run.results
    found = []
    for title, _, (_, *rule), values in scores.levels(results):
        if rule in ([], ["max_probability"]):
            for key, value in values.items():
                if math.isfinite(runs.finite(value)) and key in scores.METRICS and key not in UNRANKED:
                    name = f"{scores.METRICS[key][0]} ({title[0].lower()}{title[1:]})"
                    found.append({"type": HUB_METRICS.get(key, key), "name": name, "value": round(float(value), 4)})
    name = formats.text(results.get("data_set", UNKNOWN))
    data_set = {"name": name, "type": name, "split": results.get("split", UNKNOWN)}
    task = {"type": "audio-classification", "name": "Audio Classification"}
    head["model-index"] = [
        {"name": repo.rpartition("/")[2], "results": [{"task": task, "dataset": data_set, "metrics": found}]}
    ]
    return head


def _pairs(title: str, rows: Mapping[str, object]) -> Table:
    """A table of two columns; a value that is missing is shown as not recorded."""
    shown = [(name, UNKNOWN if value in (None, "", formats.DASH) else value) for name, value in rows.items()]
    return Table(title.lower(), title, (Column(title), Column("")), shown)


def _size(path: Path) -> str:
    """The size of a file, or of all files of a folder, in MB as `export` prints it, or in kB."""
    size = sum(part.stat().st_size for part in (path, *path.rglob("*")) if part.is_file())
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _component(config: Mapping[str, Any], kind: str) -> str:
    """The name of a component with the options that differ from their defaults, such as "snn (hidden [16])"."""
    section, default = config[kind], configs.base("")
    configs.choose(default, kind, section["name"])
    usual = configs.to_json(default)[kind]
    options = ", ".join(f"{key} {value}" for key, value in section.items() if value != usual.get(key))
    return f"{section['name']} ({options})" if options else str(section["name"])


def _network(about: Subject) -> dict[str, object]:
    config, data = about.config, about.config["data"]
    rate, samples = data["sample_rate"], data["samples"]
    hop = config["evaluate"]["hop"] or samples
    single = configs_task(about) == "single"
    starts = [source if source in musicnn.NAMES or "://" in source else Path(source).name for source in about.starts]
    return {
        "Network (options that differ from their defaults)": _component(config, "model"),
        "Parameters": formats.number(models.count(about.trained.variables["params"])),
        "Front end": _component(config, "frontend"),
        "Input": f"mono, {rate:,} Hz; files of other rates and with more channels are converted by genre_jax.load",
        "Window": f"{samples:,} samples ({samples / rate:.3g} s), a new one every {hop:,} samples ({hop / rate:.3g} s)",
        "Conditioning before the windows": ", ".join(data["conditioning"]) or "none",
        "Task": "one label a window (softmax)" if single else "several labels a window (sigmoid)",
        "Labels": len(about.trained.labels),
        "Type of numbers": config["dtype"],
        "Weights": about.notes.get("source")
        or (
            f"trained, from the weights of {', which started from '.join(starts)}" if starts else "trained from random weights"
        ),
        "Teacher (distillation)": Path(config["distill"]["teacher"]).name or "none",
    }


def configs_task(about: Subject) -> str:
    """The task of the network, "single" or "multi"."""
    from genre_jax import evaluate

    return evaluate.task(about.trained.config)


def _passport(about: Subject) -> dict[str, Any]:
    """The passport of the run's data set; empty if the data set is no longer there, or its passport is damaged."""
    folder = about.run.folder if about.run else None
    if not folder:
        return {}
    try:
        return locate.read_passport(folder)
    except UserError:
        return {}


def _data(about: Subject) -> dict[str, object]:
    passport, results = _passport(about), (about.run and about.run.results) or {}
    totals = passport.get("totals", {})
    hours = totals["seconds"] / 3600 if "seconds" in totals else None
    counted = {name: totals.get(key) for name, key in (("Quarantined files", "quarantined"), ("Missing files", "missing"))}
    return {
        "Data set": results.get("data_set"),
        "Collection": passport.get("dataset"),
        "Split protocol": passport.get("protocol"),
        "Sample rate": f"{passport['sample_rate']:,} Hz" if "sample_rate" in passport else None,
        "Conditioning": ", ".join(passport["conditioning"]) or "none" if "conditioning" in passport else None,
        "Clips": formats.number(totals.get("clips")),
        "Hours": formats.number(hours, 2),
        **{name: formats.number(value) for name, value in counted.items()},
        "Clips scaled because they exceeded full scale": formats.number(totals.get("scaled")),
        "Warnings of the preparation": "; ".join(_notes(passport)) or ("none" if "notes" in passport else None),
        "Decoded with": _versions_of(passport.get("created_with")),
        "SHA-256 of the passport, when this card was written": passport and checksum.of_json(passport),
        "SHA-256 of the clips of the run": (about.run.environment.get("clips_sha256") if about.run else None),
    }


def _notes(passport: Mapping[str, Any]) -> list[str]:
    """The notes of a passport, without the names of files."""
    return [str(note).partition("; the first is ")[0] for note in passport.get("notes", ())]


def _versions_of(versions: object) -> str | None:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else None


def _splits(about: Subject) -> Table | None:
    """The table of clips by split and class."""
    splits = _passport(about).get("splits", {})
    counted = {name: split for name, split in splits.items() if "clips" in split}
    if not counted:
        return None
    rows: list[tuple[object, ...]] = [("all clips", *(split["clips"] for split in counted.values()))]
    rows += [(label, *(split.get("classes", {}).get(label) for split in counted.values())) for label in about.trained.labels]
    columns = (Column("Clips"), *(Column(name, formats.number) for name in counted))
    return Table("splits", "Clips of each split", columns, rows)


def _protocol(about: Subject) -> dict[str, object]:
    config, run = pretrained.without_places(about.config), about.run
    results, environment = (run.results or {}, run.environment) if run else ({}, {})
    data, train, evaluate = config["data"], config["train"], config["evaluate"]
    made_by = config["made_by"]
    command = " ".join([f"--config={made_by['config']}", *(f"--config.{text}" for text in made_by["overrides"])])
    windows = {"consecutive": "consecutive windows"}.get(evaluate["windows"], evaluate["windows"])
    votes = (
        "sum of probabilities, sum of logits, majority of windows" if run and run.task == "single" else "mean of probabilities"
    )
    return {
        "Config": command if made_by["config"] else None,
        "Trained on split": data["train"],
        "Chosen on split": data["validation"],
        "Evaluated on split": results.get("split"),
        "Evaluated": " and ".join(
            [", ".join(f"{formats.number(results.get(key))} {key}" for key in ("windows", "clips")),
             f"{formats.number(results.get('tracks'))} tracks"]
        ),
        "Windows": f"{windows}, {evaluate['hop'] or data['samples']:,} samples apart",
        "Votes for a clip or track": votes,
        "Seed": config["seed"],
        "Training": f"{train['duration']}, batches of {train['batch_size']} clips, "
        f"{config['optimizer']['name']}, loss {config['loss']['name']}",
        "Weights": f"{evaluate['weights']} checkpoint, step {formats.number(results.get('step'))}",
        "Time of training": formats.duration(results.get("train_seconds")),
        "Devices": environment.get("devices"),
    }  # fmt: skip


def _scores(run: runs.Run) -> Table:
    """All scores of the run with their intervals; of the votes besides the sum of probabilities, the accuracy alone."""
    rows = []
    for title, count, path, values in scores.levels(run.results or {}):
        for key, (name, show) in scores.METRICS.items():
            if key not in values or (key != "accuracy" and path[1:] not in ((), ("max_probability",))):
                continue
            limits = bounds.interval(run, (*path, key)) if key != "classes_without_positives" else None  # a count
            between = " – ".join(map(show, limits)) if limits else formats.DASH
            rows.append((title, name, show(values[key]), between, count))
    right = str  # already formatted, and at the right
    columns = (Column("Per"), Column("Score"), Column("Value", right), Column("95 % interval", right))
    return Table("scores", "Scores", (*columns, Column("Examples", formats.number)), rows)


def _baselines(run: runs.Run) -> Table | None:
    """The accuracies of tracks that other methods reach on the same split, as far as they were computed."""
    table, kinds, _ = scores.accuracy_table(run)
    rows = [row for row, kind in zip(table.rows, kinds, strict=True) if kind == "baseline"] if table else []
    return dataclasses.replace(table, rows=rows) if table and rows else None


def _versions(about: Subject) -> dict[str, object]:
    named = ("python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "librosa", "tensorflow-cpu")
    environment = about.run.environment if about.run else {}
    trained = {name: environment.get(name) for name in ("commit", "time", *named) if name in environment}
    renamed = {"commit": "commit of genre_jax", "time": "start of the training"}
    return {"genre_jax that wrote this card": __version__} | {renamed.get(name, name): value for name, value in trained.items()}


def _limits(about: Subject, baselines: Table | None) -> list[str]:
    """Sentences about what the scores do not say."""
    run = about.run
    if not run or not run.results:
        return [
            "The weights were not trained with genre_jax, which has no scores of them: see the paper of their authors.",
            "The package musicnn rounds its spectrograms to float16, genre_jax does not: the outputs differ a little.",
        ]
    results, data = run.results, about.config["data"]
    sentences = [
        f"This is one run, with seed {about.config['seed']}. How much the scores vary with the seed is not recorded; the "
        "intervals above count only the choice of the tracks.",
        f"It was evaluated on split {results.get('split', UNKNOWN)} of {results.get('data_set', UNKNOWN)} alone. No scores on "
        "other collections, codecs, recording conditions or live signals are recorded.",
        *_better(run, baselines),
        _chance(run, about.trained.labels),
    ]
    if run.task == "single":
        sentences.append("The probabilities of a window sum to 1: audio outside these labels gets one of them as well.")
    if run.predictions:
        support = classes.by_class(run)
        rare = [name for name, count in zip(support.classes, support.support, strict=True) if count < FEW]
        if rare:
            sentences.append(
                f"{len(rare)} of {len(support.classes)} labels have fewer than {FEW} evaluated clips: {', '.join(rare)}."
            )
    else:
        sentences.append(
            "The predictions of the windows are not recorded: some intervals and the scores of the labels are missing."
        )
    if data["validation"] == results.get("split"):
        sentences.append("The checkpoint was chosen on the split that was evaluated: the scores are too good.")
    if str(_passport(about).get("dataset", "")).startswith("synthetic"):
        sentences.append(
            "The data are procedural sounds, and no recordings: the scores say only that these classes can be learned."
        )
    return sentences


def _better(run: runs.Run, baselines: Table | None) -> list[str]:
    """A sentence for each baseline that is at least as good as the network."""
    share = runs.finite(scores.headline(run, "track"))
    return [
        f'The baseline "{name}" is at least as good on the same split: it has an accuracy per track of '
        f"{formats.percent(value)}, and the network {formats.percent(share)}."
        for name, value, *_ in (baselines.rows if baselines else ())
        if runs.finite(value) >= share
    ]


def _chance(run: runs.Run, labels: tuple[str, ...]) -> str:
    """A sentence about the score of guessing."""
    if run.task == "single":
        share = formats.percent(1 / len(labels))
        return f"With {len(labels)} labels, guessing is right in {share} of the cases if all are equally frequent."
    if not run.predictions:
        return "The score of guessing is not recorded."
    share = formats.decimal(np.mean(metrics.group_labels(run.predictions["labels"], run.predictions["clip"])))
    return f"Guessing has a mean average precision per clip of about {share}, the mean share of a label, and a ROC area of 0.5."
