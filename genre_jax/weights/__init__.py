"""Weights that were trained before: our own files, the layouts of other libraries, downloads."""
