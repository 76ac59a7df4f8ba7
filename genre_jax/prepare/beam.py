"""Write the parts of a data set with Apache Beam, on any runner. The shards have the same bytes as without Beam."""

from collections.abc import Sequence

from genre_jax import beam
from genre_jax.datasets.types import Source
from genre_jax.prepare import parts
from genre_jax.prepare.workers import Limits, renderer


def write(todo: list[parts.Part], source: Source, sample_rate: int, limits: Limits, options: Sequence[str]) -> None:
    """Write the parts in a Beam pipeline with these `options`, such as ["--runner=FlinkRunner"].

    Raises `UserError` if Beam is not installed, or if a part is missing after the pipeline has ended.
    """
    job = (source.render, source.labels, sample_rate, limits, source.conditioning)
    beam.run(todo, _write_part, *job, options=options, task=f"writes {len(todo)} shards")
    if missing := [part for part in todo if part.outcome() is None]:
        raise beam.lost(len(missing), len(todo), "shards", missing[0].path.parent)


def _write_part(
    part: parts.Part, render, labels: tuple[str, ...], sample_rate: int, limits: Limits, steps: tuple[str, ...]
) -> None:
    with renderer(render, sample_rate, 1, limits, steps) as rendered:
        parts.write(part, labels, rendered(part.items))
