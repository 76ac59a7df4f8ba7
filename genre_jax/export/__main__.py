"""Export a trained network into a single file: `python -m genre_jax.export --output=FILE [--workdir=DIR|NAME] [--format=…]`.

The file holds the front end, the network and its labels: waveforms in, probabilities and embeddings out. Without --workdir it
holds the published taggers musicnn and musicnn-mtt. --format=web writes a folder with a page that tags songs in the browser.
docs/export.md describes the formats, docs/web.md the page.
"""

from pathlib import Path

from absl import flags

from genre_jax import console, export
from genre_jax.console import UserError, say
from genre_jax.export.description import WAVEFORMS, WEIGHTS
from genre_jax.recommend.index import Index
from genre_jax.web import folder

WEB = "web"


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("workdir", None, "Finished run, a file of it, or published weights; default: musicnn and musicnn-mtt.")
    flags.DEFINE_enum("format", None, [*export.FORMATS, WEB], "Format, or web for a page; default: by the name of the file.")
    flags.DEFINE_string("output", None, "File to write; with --format=web a folder.")
    flags.DEFINE_enum("waveform", "int16", WAVEFORMS, "Type of the input: 16-bit samples, or floats in [-1, 1).")
    flags.DEFINE_enum("weights", "float32", WEIGHTS, "float16 halves the file; probabilities change.")
    flags.DEFINE_string("index", None, "Web: an index of `genre-jax similar build`, for the nearest songs.")
    flags.DEFINE_string("runtime", None, "Web: folder with the npm packages onnxruntime-web and wavesurfer.js; default: npm.")
    flags.DEFINE_string("licence", "", "Licence of the weights, for the metadata; published weights have theirs.")


def main(argv: list[str]) -> None:
    """Write the file, and print what it is."""
    args = flags.FLAGS
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: the network is named by --workdir, the file by --output")
    if not args.output:
        raise UserError("--output is needed: the file to write, such as --output=model.onnx")
    by_ending = {ending: format for format, ending in export.FORMATS.items()}
    format = args.format or by_ending.get(Path(args.output).suffix, "onnx")
    if format != WEB and (args.index or args.runtime):
        raise UserError("--index and --runtime belong to --format=web")
    options = {"waveform": args.waveform, "weights": args.weights, "licence": args.licence}
    if format == WEB:
        _write_page(Path(args.output), options)
        return
    written = export.write(args.workdir, args.output, format, **options)
    about = written.description
    say(
        f"wrote {written.path}, {written.path.stat().st_size / 1e6:.1f} MB: windows of "
        f"{about.samples / about.sample_rate:g} s at {about.sample_rate} Hz, {len(about.labels)} labels"
    )
    if written.difference is None:
        say("not compared with JAX, because the runtime of this format is not installed: docs/export.md")
    else:
        say(f"largest difference of a probability between the file and JAX on three test signals: {written.difference:.1g}")


def _write_page(output: Path, options: dict[str, str]) -> None:
    args = flags.FLAGS
    index, runtime = (Path(value) if value else None for value in (args.index, args.runtime))
    folder.export(args.workdir or (Index.open(index).network.source if index else None), output, index, runtime, **options)
    say(f"wrote the page {output}: python -m genre_jax.serve --workdir={output} opens it")


if __name__ == "__main__":
    define_flags()
    console.run(main)
