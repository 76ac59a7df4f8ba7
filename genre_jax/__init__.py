"""genre_jax: musical genre recognition on raw audio in JAX."""
