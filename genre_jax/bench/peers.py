"""ByteNet's training step against PyTorch's: `python -m genre_jax.bench peers`, `train_step` with other defaults."""

from absl import flags

from genre_jax.bench.train_step import NETWORKS, main

flags.set_default(NETWORKS, ["bytenet"])

__all__ = ["main"]
