"""genre_jax: musical genre recognition on raw audio in JAX.

tagger = genre_jax.load("runs/demo")
tagger.predict("song.mp3")            # {label: probability}
"""

__version__ = "0.1.0"


def load(workdir):
    """The trained run of a workdir as a `genre_jax.tag.Tagger`, with `predict(path_or_waveform, sample_rate=None)`."""
    from genre_jax.tag import Tagger  # not at import: workers that only decode import this package too

    return Tagger(workdir)
