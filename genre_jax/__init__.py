"""genre_jax: musical genre recognition on raw audio in JAX.

tagger = genre_jax.load("runs/demo")
tagger.predict("song.mp3")            # {label: probability}
"""

__version__ = "0.1.0"


def load(source):
    """A trained run as a `genre_jax.tag.Tagger`, with `predict(path_or_waveform, sample_rate=None)`.

    `source` is a workdir, or a file that `save_pretrained` wrote: a path or `hf://owner/name[@revision][/file]`, which may
    end in `#sha256=…`. Signals of another sample rate than the run's are resampled. Raises `console.UserError`.
    """
    from genre_jax.tag import Tagger  # not at import: workers that only decode import this package too

    return Tagger(source)


def save_pretrained(workdir, path):
    """Write the trained network of a workdir into one .safetensors file for `load` and `config.init_from`; returns `path`."""
    from genre_jax.weights import pretrained

    return pretrained.save_pretrained(workdir, path)
