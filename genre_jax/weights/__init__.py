"""Pretrained weights: files of genre_jax, files in the layouts of other libraries, and downloads."""
