"""genre_jax: musical genre recognition on raw audio in JAX.

tagger = genre_jax.load("runs/demo")  # without an argument: published taggers
tagger.predict("song.mp3")            # {label: probability}
"""

__version__ = "0.1.0"


def load(*sources):
    """Load trained networks for prediction.

    The settings of the process (JAX's configuration, logging) stay as they are, also for a float64 run.

    Args:
      sources: usually one: the workdir of a run, the name of published weights (`weights.musicnn.NAMES`), a file of
        `genre_jax.export`, or a file that `save_pretrained` wrote. The file is a path or
        `hf://owner/name[@revision][/file]`, and may end in `#sha256=…`, which is then verified. Without a source: the
        published taggers "musicnn" and "musicnn-mtt" together. Several networks must read the same windows; each adds
        the labels that those before it lack.

    Returns a `genre_jax.tagger.Tagger`. Its method `predict(path_or_waveform, sample_rate=None)` resamples the signal to the
    sample rate of the run. Raises `console.UserError` if a source cannot be loaded.
    """
    from genre_jax.tagger import Tagger  # imported here because decoding workers import this package, and need no network

    return Tagger(*sources)


def save_pretrained(workdir, path):
    """Write the trained network of `workdir` into one .safetensors file for `load` and `config.init_from`.

    Returns `path`. Raises `console.UserError` if the run has no whole checkpoint, if its weights hold NaN or infinity, or if
    `path` does not end in .safetensors.
    """
    from genre_jax.weights import pretrained

    return pretrained.save_pretrained(workdir, path)
