"""What somebody measures first on a machine with an accelerator: `python -m genre_jax.bench card`."""
