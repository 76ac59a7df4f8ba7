"""The flags of `segment` and `segment.score` that say how frames are decided."""

from absl import flags

from genre_jax import console
from genre_jax.segment import networks
from genre_jax.segment.slider import LOOKAHEAD, Options


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("workdir", None, "Workdir of a trained run, a file of save_pretrained, or hf://….")
    flags.DEFINE_float("hop", 0.1, "Seconds between windows, for networks that give no output for each frame.")
    flags.DEFINE_float(
        "lookahead", None, f"Seconds after a frame at which the network is read; default {LOOKAHEAD:g}, or half a window."
    )
    flags.DEFINE_integer("median", 200, "Frames of the median filter on the probabilities; 0: none.")
    flags.DEFINE_float("silence_db", -60.0, "Frames with at most this power are silent, in dB relative to full scale.")
    flags.DEFINE_float("min_silence", 0.1, "Silences shorter than this many seconds are not marked.")


def options() -> Options:
    """Return what the flags say about decisions."""
    args = flags.FLAGS
    return Options(args.lookahead, args.median, args.silence_db, args.min_silence)


def load(live: bool = False) -> networks.Network:
    """Return the network of the flags, and say which conditioning of its data is left out."""
    args = flags.FLAGS
    network = networks.load(args.workdir, live, args.hop, args.lookahead)
    if "log_mmse" in network.config.data.conditioning:
        console.note("note: the data of this run were conditioned by log_mmse, which needs a whole file: it is left out here")
    return network
