"""Publish a trained network: `python -m genre_jax.publish --workdir=DIR|NAME --repo=OWNER/NAME --licence=ID [--dry_run]`.

Writes a folder with a model card, the weights, the exported network and its page, and pushes it to the Hugging Face Hub if a
token is set. `genre_jax.load("hf://OWNER/NAME")` loads it back. --workdir takes a finished run, or the name of published
weights, such as musicnn, which keep their licence.
"""

import functools
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from absl import flags

from genre_jax import console, model_card, shipped
from genre_jax.atomic import read_json, write_json, write_text
from genre_jax.console import UserError, say

NOTICE = "LICENSE-musicnn.txt"
FILES = {  # what a published folder may hold
    "README.md": "this card",
    "model.safetensors": "the weights, with config and labels, which genre_jax.load reads",
    "model.onnx": "the network with its front end, for onnxruntime; needs no JAX",
    "web": "a page that tags songs in the browser; any web server can serve the folder",
    "config.json": "the config of the run",
    "labels.json": "the labels, in the order of the outputs",
    "results.json": "the scores of the run",
    NOTICE: "the licence of the weights of musicnn, which this network holds or started from",
}
LICENCES = ("CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC0-1.0", "Apache-2.0", "MIT")


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of this command in `values`."""
    text, switch = (functools.partial(define, flag_values=values) for define in (flags.DEFINE_string, flags.DEFINE_bool))
    text("workdir", None, "Workdir of a finished run, or the name of published weights.")
    text("repo", None, "Repository on the Hugging Face Hub, OWNER/NAME.")
    text("licence", "", f"SPDX id of the licence of a run's weights, such as {', '.join(LICENCES)}.")
    text("output", None, "Folder that is written; default: publish/NAME.")
    switch("private", False, "Push to a private repository.")
    switch("dry_run", False, "Only write the folder, and push nothing.")


def main(argv: list[str]) -> None:
    """Write the folder, and push it."""
    args = flags.FLAGS
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}: give the run as --workdir=DIR, and --help lists the flags")
    if not args.workdir:
        raise UserError("--workdir is needed: the finished run, or the name of published weights, such as --workdir=musicnn")
    if not args.repo:
        raise UserError("--repo is needed: the repository on the Hugging Face Hub, which the card names, as --repo=OWNER/NAME")
    folder = Path(args.output or Path("publish") / args.repo.rpartition("/")[2])
    missing = write(args.workdir, args.repo, folder, args.licence)
    for name, reason in missing.items():
        console.note(f"{name} is left out: {reason}")
    say(f"{folder}: {', '.join(name for name in FILES if (folder / name).exists())}")
    if args.dry_run:
        say(f"nothing was pushed (--dry_run); without it, the folder goes to {args.repo}")
    else:
        say(f'{push(folder, args.repo, args.private)}: genre_jax.load("hf://{args.repo}") loads it')


def write(source: str, repo: str, folder: Path, licence: str = "") -> dict[str, str]:
    """Write the folder that is published, and replace one that an earlier call wrote.

    Args:
      source: the workdir of a finished run, or the name of published weights.
      repo: the repository, "owner/name", which the card names.
      folder: the folder, which must not exist, be empty, or hold what this function wrote.
      licence: SPDX id of the licence; "" for published weights, which have theirs.

    Returns name → reason of the files that cannot be made from this network.

    Raises `UserError` if the run has not ended or has no whole checkpoint, if the licence is missing or unknown, if `repo` is
    malformed, or if the folder holds other files.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"--repo must be OWNER/NAME with letters, digits and _ . -, and is {repo!r}")
    subject = model_card.subject(source)
    legal = licence_of(subject, licence)
    _check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        whole = Path(scratch) / folder.name
        whole.mkdir()
        missing = _fill(whole, subject, repo, legal)
        if folder.exists():
            shutil.rmtree(folder)
        whole.rename(folder)
    return missing


def _fill(folder: Path, subject: model_card.Subject, repo: str, licence: str) -> dict[str, str]:
    from genre_jax.weights import pretrained

    pretrained.write(subject.trained, folder / "model.safetensors", **({} if subject.notes else {"licence": licence}))
    write_json(folder / "config.json", pretrained.without_places(subject.config))
    write_json(folder / "labels.json", subject.trained.labels)
    if subject.workdir:
        results = read_json(subject.workdir / "results.json", dict)
        write_json(folder / "results.json", {key: value for key, value in results.items() if key != "directory"})
    if subject.of_musicnn:
        shutil.copyfile(shipped.THIRD_PARTY / "musicnn_license.txt", folder / NOTICE)
    missing: dict[str, str] = {}
    files = FILES | ({} if subject.workdir else {"config.json": "the config of the network"})
    for name, export in EXPORTS.items():
        try:
            files[name] += export(subject, "" if subject.notes else licence, folder)
        except UserError as error:
            missing[name] = str(error)
    files = {name: what for name, what in files.items() if (folder / name).exists() or name == "README.md"}
    write_text(folder / "README.md", model_card.render(subject, repo, licence, folder, files, missing))
    return missing


def _onnx(subject: model_card.Subject, licence: str, folder: Path) -> str:
    """Write the exported network; return how far it is from JAX, for the card."""
    from genre_jax import export

    written = export.write(str(subject.workdir or subject.name), folder / "model.onnx", licence=licence)
    if written.difference is None:
        return ""
    return f"; its probabilities differ by at most {written.difference:.1g} from those of JAX on three test signals"


def _web(subject: model_card.Subject, licence: str, folder: Path) -> str:
    """Write the page of the exported network."""
    if not (folder / "model.onnx").exists():
        raise UserError("it needs model.onnx")
    from genre_jax.web import folder as pages

    pages.write(folder / "model.onnx", folder / "web")
    return ""


EXPORTS: dict[str, Callable[[model_card.Subject, str, Path], str]] = {"model.onnx": _onnx, "web": _web}


def licence_of(subject: model_card.Subject, given: str) -> str:
    """Return the SPDX expression of the licence.

    Raises `UserError` if it is missing or unknown, or if the weights have another one.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    advice = f"give an SPDX id, such as {', '.join(LICENCES)}, or LicenseRef-NAME for a licence without an id"
    if not given and not subject.notes:
        raise UserError(
            "--licence is missing, and genre_jax does not choose it, because the data that a run learned from decide it: "
            f"{advice}"
        )
    try:
        legal = canonicalize_license_expression(given) if given else model_card.MUSICNN
    except InvalidLicenseExpression as error:
        raise UserError(f"--licence={given} is not a licence that SPDX knows: {advice}") from error
    if subject.notes and legal != model_card.MUSICNN:
        raise UserError(
            f"the weights {subject.name} have the licence {model_card.MUSICNN}, and --licence={given}: leave it out"
        )
    return legal


def _check_folder(folder: Path) -> None:
    """Raise `UserError` if the folder holds anything that `write` did not write."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output={folder} is a file, and a folder is needed: choose another one")
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    card = folder / "README.md"
    if names and not (card.is_file() and model_card.MARK in card.read_text(encoding="utf-8", errors="replace")):
        raise UserError(f"{folder} holds {names[0]}, and no model card of genre_jax: choose another --output")
    if others := [name for name in names if name not in FILES]:
        raise UserError(f"{folder} holds {others[0]}, which publish did not write: take it away, or choose another --output")


def push(folder: Path, repo: str, private: bool = False) -> str:
    """Push a folder to the Hugging Face Hub in one commit, and return the address of the commit.

    The repository is created if it does not exist. Files of an earlier version that the folder lacks are deleted there.

    Raises `UserError`, and leaves the folder, if huggingface_hub or the token is missing, if the hub refuses, or if `private`
    is asked for and the repository is public.
    """
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise UserError(
            f"{folder} is ready, and pushing it to {repo} needs huggingface_hub: pip install huggingface_hub"
        ) from error
    if not hub.get_token():
        raise UserError(
            f"{folder} is ready, and pushing it to {repo} needs a token of the Hugging Face Hub: set the environment variable "
            "HF_TOKEN or run `hf auth login`; with --dry_run nothing is pushed"
        )
    try:
        api = hub.HfApi()
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo).private:  # create_repo leaves an existing repository as it is
            raise UserError(
                f"{repo} exists and is public, and --private is set: make it private on its page, or leave out the flag"
            )
        gone = [pattern for name in FILES for pattern in (name, f"{name}/*") if name != "README.md"]
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Publish with genre_jax", delete_patterns=gone
        )
    except UserError:
        raise
    except Exception as error:  # from huggingface_hub, its HTTP library or the disk
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder} is ready, and could not be pushed to {repo}: {reason}") from error
    return str(commit.commit_url)


if __name__ == "__main__":
    define_flags()
    console.run(main)
