"""Benchmarks, each run as `python -m genre_jax.bench NAME`: medians of repeated runs, as a table and as JSON."""

BENCHMARKS = {
    "dilation": "genre_jax.bench.dilation",
    "frontends": "genre_jax.bench.frontends",
    "input": "genre_jax.bench.input",
    "peers": "genre_jax.bench.peers",
    "plan": "genre_jax.bench.plan",
    "train_step": "genre_jax.bench.train_step",
}
