"""Benchmarks, each run as `python -m genre_jax.bench NAME`: medians of repeated runs, as a table and as JSON."""

BENCHMARKS = {"frontends": "genre_jax.bench.frontends", "input": "genre_jax.bench.input"}
