"""From audio files to shards: `python -m genre_jax.prepare`. Training never imports this package."""
