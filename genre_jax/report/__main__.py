"""Write the report of one or several runs: `python -m genre_jax.report --output=DIR RUN…`; RUN is a workdir."""

from absl import flags

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.report.page import write_report

OUTPUT = flags.DEFINE_string("output", None, "Folder for the page, its figures, its tables and its audio files.")
PUBLISHED = flags.DEFINE_bool("published", False, "Show the printed scores also if no run repeats one of them.")

LATENCY = flags.DEFINE_string("latency", None, 'File of `bench latency --json`, for the table "Speech, music, noise".')


def main(argv: list[str]) -> None:
    """Write one page for all runs."""
    if OUTPUT.value is None:
        raise UserError("--output is missing: name the directory for the page, as in --output=report")
    console.say(f"report: {write_report(argv[1:], OUTPUT.value, PUBLISHED.value, LATENCY.value)}")


if __name__ == "__main__":
    console.run(main)
