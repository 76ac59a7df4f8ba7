"""Write the parts of a data set with Apache Beam, on any runner. The shards have the same bytes as without Beam.

Every Beam worker must see the source and the data directory under the same paths: on one machine, or on a file system
that all workers mount.
"""

from collections.abc import Sequence

from genre_jax.console import UserError, say
from genre_jax.datasets.types import Source
from genre_jax.prepare import parts
from genre_jax.prepare.workers import Limits, renderer


def write(todo: list[parts.Part], source: Source, sample_rate: int, limits: Limits, options: Sequence[str]) -> None:
    """Write the parts in a Beam pipeline with these `options`, such as ["--runner=FlinkRunner"].

    Raises `UserError` if Beam is not installed, or if a part is missing after the pipeline has ended.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            f"--beam_runner needs Apache Beam: install the extra [beam], see docs/data.md (the import failed with {error})"
        ) from error
    say(f"Apache Beam writes {len(todo)} shards ({' '.join(options)})")
    job = (source.render, source.labels, sample_rate, limits, source.conditioning)
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _ = pipeline | beam.Create(todo) | beam.Reshuffle() | beam.Map(_write_part, *job)
    lost = [part for part in todo if part.outcome() is None]
    if lost:
        raise UserError(
            f"Apache Beam did not write {len(lost)} of {len(todo)} shards into {lost[0].path.parent}: "
            "every Beam worker must see this folder under the same path"
        )


def _write_part(
    part: parts.Part, render, labels: tuple[str, ...], sample_rate: int, limits: Limits, steps: tuple[str, ...]
) -> None:
    with renderer(render, sample_rate, 1, limits, steps) as rendered:
        parts.write(part, labels, rendered(part.items))
