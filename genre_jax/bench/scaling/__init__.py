"""Weak and strong scaling over devices and hosts, measured and predicted: `python -m genre_jax.bench scaling`."""
