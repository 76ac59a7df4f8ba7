"""Apache Beam pipelines whose workers write files (`prepare`, `tag`), on any runner.

Every Beam worker must see the input and the output under the same paths: on one machine, or on a file system that all
workers mount.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from genre_jax.console import UserError, say


def define_flags(work: str) -> None:
    """Define --beam_runner and --beam_option, among the flags of the caller. `work` is a verb: what the workers do."""
    flags.disclaim_key_flags()
    flags.DEFINE_string(
        "beam_runner", None, f"{work} on Apache Beam with DirectRunner, DataflowRunner, FlinkRunner or SparkRunner."
    )
    flags.DEFINE_multi_string("beam_option", [], "One option of the Beam pipeline, such as --project=P. Can be repeated.")


def options(args: Any) -> list[str] | None:
    """Return the options of the pipeline that the flags ask for, or None without --beam_runner."""
    return None if args.beam_runner is None else [f"--runner={args.beam_runner}", *args.beam_option]


def run(todo: Sequence[Any], function: Callable[..., None], *arguments: Any, options: Sequence[str], task: str) -> None:
    """Call function(element, *arguments) for each element of `todo` in a Beam pipeline, and wait for its end.

    Args:
      todo: the elements. They and the arguments are sent to the workers with pickle.
      function: a top-level function of a module, because the workers import it.
      arguments: further arguments of the function.
      options: options of the pipeline, such as ["--runner=FlinkRunner"].
      task: what Beam does, such as "writes 7 shards", for the line that is printed before the start.

    Raises `UserError` if Beam is not installed.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            f"--beam_runner needs Apache Beam: install the extra [beam], see docs/data.md (the import failed with {error})"
        ) from error
    say(f"Apache Beam {task} ({' '.join(options)})")
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _ = pipeline | beam.Create(todo) | beam.Reshuffle() | beam.Map(function, *arguments)


def lost(missing: int, todo: int, files: str, folder: Path) -> UserError:
    """Return the error for files (of the kind `files`, such as "shards") that are missing in `folder` after a pipeline."""
    return UserError(
        f"Apache Beam did not write {missing} of {todo} {files} into {folder}: "
        "every Beam worker must see this folder under the same path"
    )
