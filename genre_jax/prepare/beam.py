"""The parts of a data set rendered by Apache Beam, on whatever runner its options name; the shards are the same.

Every worker needs the source and the data directory under the same paths (this machine, or a file system that all mount).
"""

from collections.abc import Sequence

from genre_jax.console import UserError, say
from genre_jax.datasets.types import Source
from genre_jax.prepare import parts
from genre_jax.prepare.workers import Limits, renderer


def write(todo: list[parts.Part], source: Source, sample_rate: int, limits: Limits, options: Sequence[str]) -> None:
    """Write the parts in a pipeline with these `options`, such as ["--runner=FlinkRunner"].

    Raises `UserError` where Beam is not installed, or where a part did not come back.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(f"--beam_runner needs Apache Beam: install the extra [beam], as docs/data.md says ({error})") from error
    say(f"{len(todo)} shards go to Apache Beam ({' '.join(options)})")
    job = (source.render, source.labels, sample_rate, limits)
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _ = pipeline | beam.Create(todo) | beam.Reshuffle() | beam.Map(_write_part, *job)
    lost = [part for part in todo if part.told() is None]
    if lost:
        raise UserError(
            f"{len(lost)} of {len(todo)} shards are not in {lost[0].path.parent}: do Beam's workers see that folder?"
        )


def _write_part(part: parts.Part, render, labels: tuple[str, ...], sample_rate: int, limits: Limits) -> None:
    with renderer(render, sample_rate, 1, limits) as rendered:
        parts.write(part, labels, rendered(part.items))
