"""Benchmarks, run as `python -m genre_jax.bench NAME`. They print and write medians of repeated runs."""

BENCHMARKS = {
    "augment": "genre_jax.bench.augment",
    "audit": "genre_jax.bench.audit",
    "backends": "genre_jax.bench.backends",
    "card": "genre_jax.bench.card.command",
    "chaos": "genre_jax.bench.chaos.command",
    "dilation": "genre_jax.bench.dilation",
    "export": "genre_jax.bench.export",
    "frontends": "genre_jax.bench.frontends",
    "input": "genre_jax.bench.input",
    "latency": "genre_jax.bench.latency",
    "metrics": "genre_jax.bench.metrics",
    "plan": "genre_jax.bench.plan",
    "prepare": "genre_jax.bench.prepare",
    "scaling": "genre_jax.bench.scaling.command",
    "similar": "genre_jax.bench.similar",
    "start": "genre_jax.bench.start",
    "train_step": "genre_jax.bench.train_step",
}
