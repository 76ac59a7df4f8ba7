"""What a network hears: auralised filters, occlusion, integrated gradients, and responses to chords (document 003).

`python -m genre_jax.explain` is the command; `docs/explain.md` describes it.
"""
