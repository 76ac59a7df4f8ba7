"""Faults made on purpose: `python -m genre_jax.bench chaos`. Every part is seeded, and compares with an undisturbed run."""
