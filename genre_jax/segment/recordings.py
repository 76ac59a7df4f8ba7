"""Make recordings whose segments are known, from the clips of a prepared data set: the protocol of document 003.

    python -m genre_jax.segment.recordings --data_set=musan --output=DIR [--data_dir=data] [--split=test] [--count=500]

Each recording is 20 to 120 s long and joins pieces of random classes with silences. About half of the joins are abrupt, and the
others go through silence. DIR gets NNNN.wav with NNNN.csv and NNNN.rttm (start, end, label), and index.json, which
`genre_jax.segment.score` reads. The same seed gives the same bytes. docs/segment.md lists our choices.
"""

import csv
import dataclasses
import hashlib
import io
import json
import math
from pathlib import Path

import numpy as np
from absl import flags

from genre_jax import config as configs
from genre_jax import console
from genre_jax.atomic import write_whole
from genre_jax.console import UserError, say
from genre_jax.data import locate, shards
from genre_jax.segment.slider import SILENCE
from genre_jax.segment.timeline import Segment, as_rttm

SECONDS = 20.0, 120.0
MEANS = {SILENCE: 0.5, "noise": 5.0, "speech": 10.0, "music": 12.0}  # seconds, from the document
OTHER_MEAN = 10.0  # seconds, of classes that the document does not have
ABRUPT = 0.5  # share of the joins without silence
LEAST = 0.25  # seconds of the shortest piece, or half the mean length if that is less
STEP = 0.01  # all lengths are multiples of this, in seconds
QUIET_DB = -60.0  # dB of full scale: blocks of 10 ms with at most this power are natural silence
QUIET_SECONDS, MOST_QUIET, MOST_CLIPS = 0.1, 60.0, 1_000  # shortest portion, enough silence, clips that are searched for it
NOISE_DB = -70.0  # of the noise that stands for silence in a data set without any


@dataclasses.dataclass(frozen=True)
class Material:
    """The pieces that recordings are made of.

    Attributes:
      clips: the split of the data set.
      rows: label → rows of the clips with this label alone.
      quiet: portions of natural silence, int16 each; empty if the data set has none.
      means: label → mean length in seconds.
    """

    clips: shards.Index
    rows: dict[str, np.ndarray]
    quiet: list[np.ndarray]
    means: dict[str, float]


def material(folder: Path, split: str, seed: int, means: dict[str, float]) -> Material:
    """Return the material in a split of a prepared data set; raises `UserError` if it is missing or of no use.

    Args:
      folder: the folder of the data set.
      split: its split.
      seed: of the order in which clips are searched for silence.
      means: label → mean length in seconds, over `MEANS` and `OTHER_MEAN`.
    """
    index = shards.load_index(folder, split)
    alone = index.labels.sum(1) == 1
    rows = {label: np.flatnonzero(alone & (index.labels[:, n] == 1)) for n, label in enumerate(index.classes)}
    rows = {label: found for label, found in rows.items() if len(found) and label != SILENCE}
    if not rows:
        raise UserError(f"split {split!r} of data set {index.data_set!r} has no clip with exactly one label")
    for label in means:
        if label not in rows and label != SILENCE:
            raise console.unknown("class of --means", label, [*rows, SILENCE])
    lengths = {label: MEANS.get(label, OTHER_MEAN) for label in (*rows, SILENCE)} | means
    return Material(index, rows, quiet_portions(index, np.random.default_rng([seed, 0])), lengths)


def quiet_portions(index: shards.Index, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the runs of quiet blocks, int16 each, of clips in random order, until there are `MOST_QUIET` seconds."""
    block = round(STEP * index.sample_rate)
    least, portions, total = round(QUIET_SECONDS / STEP), [], 0
    for row in rng.permutation(len(index))[:MOST_CLIPS]:
        clip = index.cut(row, 0, int(index.length[row]))
        blocks = clip[: len(clip) // block * block].reshape(-1, block).astype(np.float64) / 32768
        quiet = np.square(blocks).mean(1) <= 10 ** (QUIET_DB / 10)
        for start, end in np.flatnonzero(np.diff(quiet.astype(np.int8), prepend=0, append=0)).reshape(-1, 2):
            if end - start >= least:
                portions.append(clip[start * block : end * block])
                total += len(portions[-1])
        if total >= MOST_QUIET * index.sample_rate:
            break
    return portions


def make(parts: Material, rng: np.random.Generator) -> tuple[np.ndarray, list[Segment]]:
    """Return the samples int16 (samples,) of a recording, and its segments."""
    rate, labels = parts.clips.sample_rate, [*parts.rows]
    seconds = _rounded(rng.uniform(*SECONDS))
    pieces: list[np.ndarray] = []
    segments: list[Segment] = []
    at, label = 0.0, ""
    while at < seconds:
        if label and label != SILENCE and rng.random() >= ABRUPT:
            following = SILENCE
        else:
            before = next((part.label for part in reversed(segments) if part.label != SILENCE), "")
            following = str(rng.choice([name for name in labels if name != before] or labels))
        label = following
        least = min(LEAST, parts.means[label] / 2)
        length = _rounded(least + rng.exponential(parts.means[label] - least))
        length = min(max(length, STEP), _rounded(seconds - at))
        pieces.append(_piece(parts, label, round(length * rate), rng))
        end = _rounded(at + length)
        segments.append(Segment(at, end, label, None))
        at = end
    return np.concatenate(pieces), segments


def _rounded(seconds: float) -> float:
    return round(round(seconds / STEP) * STEP, 2)


def _piece(parts: Material, label: str, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return a piece of a class, int16 (samples,): a random cut of a random clip, continued with more clips if it is short."""
    if label == SILENCE and not parts.quiet:
        return np.rint(rng.normal(0, 32768 * 10 ** (NOISE_DB / 20), samples)).astype(np.int16)
    pieces, left = [np.zeros(0, np.int16)], samples
    while left:
        if label == SILENCE:
            clip = parts.quiet[rng.integers(len(parts.quiet))]
            start = int(rng.integers(max(1, len(clip) - left + 1)))
            pieces.append(clip[start : start + left])
        else:
            row = int(rng.choice(parts.rows[label]))
            length = int(parts.clips.length[row])
            start = int(rng.integers(max(1, length - left + 1)))
            pieces.append(parts.clips.cut(row, start, min(left, length - start)))
        left -= len(pieces[-1])
    return np.concatenate(pieces)


def write(parts: Material, output: Path, count: int, seed: int) -> dict:
    """Write `count` recordings and index.json into a new folder; return what index.json holds."""
    import soundfile

    files = []
    for number in range(count):
        samples, segments = make(parts, np.random.default_rng([seed, 1, number]))
        name = f"{number:04d}"
        content = io.BytesIO()
        soundfile.write(content, samples, parts.clips.sample_rate, subtype="PCM_16", format="WAV")
        with write_whole(output / f"{name}.wav") as file:
            file.write(content.getvalue())
        with write_whole(output / f"{name}.csv", "w") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("start", "end", "label"))
            rows.writerows((f"{part.start:.2f}", f"{part.end:.2f}", part.label) for part in segments)
        with write_whole(output / f"{name}.rttm", "w") as file:
            file.write(as_rttm(name, 0.0, segments) + "\n")
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        files.append({"file": f"{name}.wav", "seconds": segments[-1].end, "segments": len(segments), "sha256": digest})
    facts = {
        "data_set": parts.clips.data_set, "split": parts.clips.split, "clips": shards.digest([parts.clips]), "seed": seed,
        "sample_rate": parts.clips.sample_rate, "labels": [*parts.rows], "mean_seconds": parts.means, "abrupt": ABRUPT,
        "silence": f"{len(parts.quiet)} portions of the data set" if parts.quiet else f"noise at {NOISE_DB:g} dB of full scale",
        "files": files,
    }  # fmt: skip
    with write_whole(output / "index.json", "w") as file:
        file.write(json.dumps(facts, indent=1) + "\n")
    return facts


def read(folder: Path) -> tuple[list[str], list[tuple[Path, list[Segment]]]]:
    """Return the labels of recordings, and (WAV file, segments) of each. Raises `UserError` if a file is missing or damaged."""
    try:
        facts = json.loads((folder / "index.json").read_text())
        files, labels = [folder / entry["file"] for entry in facts["files"]], list(facts["labels"])
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no index.json: make recordings with python -m genre_jax.segment.recordings") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'index.json'} is damaged: make the recordings again in a new folder") from error
    return labels, [(file, _annotation(file.with_suffix(".csv"))) for file in files]


def _annotation(path: Path) -> list[Segment]:
    try:
        with path.open(newline="") as file:
            parts = [Segment(float(row["start"]), float(row["end"]), row["label"], None) for row in csv.DictReader(file)]
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: make the recordings again in a new folder") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: make the recordings again in a new folder") from error
    if not parts or any(not part.label or not part.start < part.end for part in parts):
        raise UserError(f"{path} needs rows with a label and a start before the end")
    return parts


def parse_means(text: str) -> dict[str, float]:
    """Return label → seconds of "music=12,noise=5". Raises `UserError` if it has another form."""
    means = {}
    for part in filter(None, text.split(",")):
        label, _, number = part.partition("=")
        try:
            means[label] = float(number)
        except ValueError:
            means[label] = math.nan
        if not 0 < means[label] < math.inf:
            raise UserError(f"--means must be classes with positive seconds, as in music=12,noise=5, and was given {part!r}")
    return means


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("data_set", None, "Name of a prepared or embedded data set with one label per clip.")
    flags.DEFINE_string("data_dir", "data", "Folder of the data sets.")
    flags.DEFINE_integer("sample_rate", None, "Sample rate of the data set in Hz; default: the one that is there, or 16000.")
    flags.DEFINE_string("split", "test", "Split of the data set.")
    flags.DEFINE_string("output", None, "New folder for the recordings.")
    flags.DEFINE_integer("count", 500, "Number of recordings.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of all draws.", lower_bound=0)
    flags.DEFINE_string("means", "", "Mean lengths in seconds that differ from the default, as in music=12,noise=5.")


def main(argv: list[str]) -> None:
    """Write the recordings."""
    args = flags.FLAGS
    if argv[1:]:
        raise UserError(f"unknown argument {argv[1]!r}: the data set is named by --data_set")
    if not args.data_set or not args.output:
        raise UserError("--data_set=NAME and --output=DIR are needed")
    means, output = parse_means(args.means), Path(args.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output={args.output} exists and is not an empty folder: name a new one")
    rates = locate.prepared(args.data_dir).get(args.data_set, [])
    rate = args.sample_rate or (rates[0] if len(rates) == 1 else 16_000)
    folder = locate.directory(args.data_dir, args.data_set, rate)
    if not (folder / "passport.json").exists():
        locate.check_name(args.data_set, args.data_dir)
        config = configs.base("recordings")
        config.data.update(name=args.data_set, data_dir=args.data_dir, sample_rate=rate)
        folder = Path(str(locate.find(config)))  # makes an embedded data set, or says how to prepare another
    parts = material(folder, args.split, args.seed, means)
    output.mkdir(parents=True, exist_ok=True)
    facts = write(parts, output, args.count, args.seed)
    hours = sum(file["seconds"] for file in facts["files"]) / 3600
    say(f"{args.count} recordings, {hours:.2f} h, in {output}; silence: {facts['silence']}")
    say(f"next: python -m genre_jax.segment.score --workdir=DIR --recordings={output}")


if __name__ == "__main__":
    define_flags()
    console.run(main)
