"""Hear what a network hears: `python -m genre_jax.explain --workdir=DIR|NAME [--layer=…] [--filter=…] FILE [--output=DIR]`.

Writes a page with the parts of a song that single filters of a network keep, as pictures and sounds; what speaks for a class;
and how the filters respond to chords. --workdir takes a trained run, a file of `genre_jax.save_pretrained`, or a published
tagger such as musicnn-vgg. '--layer=?', in quotes for the shell, lists the layers.
"""

import functools
from pathlib import Path

from absl import flags

from genre_jax import console, tag_inputs
from genre_jax.console import UserError, say

REST = "the page has occlusion and integrated gradients only"


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of this command in `values`."""
    text, numbers, switch = (
        functools.partial(define, flag_values=values)
        for define in (flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_bool)
    )
    text("workdir", "musicnn-vgg", "Workdir of a trained run, a file of it, or published weights.")
    flags.DEFINE_list(
        "layer", [], "Layers; default: five over the depth of the network. '--layer=?' lists them.", flag_values=values
    )
    flags.DEFINE_list("filter", [], "Numbers of filters, from 0; default: the most active of each layer.", flag_values=values)
    numbers("filters", 3, "How many filters of each layer are shown without --filter.", lower_bound=1)
    text("rule", "deconvnet", "What activations pass back: deconvnet, guided or gradient.")
    flags.DEFINE_float(
        "start", None, "Start of the window in seconds; default: the window of the most activity.", 0, flag_values=values
    )
    text("class", "", "Label whose score is explained; default: the most probable label.")
    numbers("patches", 12, "Rows and columns of the grid of the occlusion.", lower_bound=1, upper_bound=64)
    numbers("steps", 256, "Largest number of steps of the integrated gradients.", lower_bound=1)
    switch("chords", True, "Compute how the layers respond to synthesised chords.")
    text("output", None, "Folder of the page; default: explain/NAME-OF-THE-FILE.")


def main(argv: list[str]) -> int:
    """Explain a file."""
    from genre_jax.explain import page, reverse, source
    from genre_jax.explain.network import Explained

    args = flags.FLAGS
    listing = args.layer == ["?"]
    if len(argv) != 2 and not (listing and len(argv) == 1):
        raise UserError(f"one audio file is needed, as in: genre-jax explain --workdir={args.workdir} SONG.mp3")
    console.pick("rule", args.rule, reverse.RULES)
    network = Explained(args.workdir)
    if listing:
        say(f"{reason}; {REST}" if (reason := network.why_unheard()) else as_text(network))
        return 0
    label = str(args["class"].value)
    if label and label not in network.labels:
        raise console.unknown("class", label, network.labels)
    layers = chosen_layers(network, args.layer)
    wishes = page.Wishes(
        layers, chosen_filters(args.filter, network.layers, layers), args.filters, args.rule,
        label, args.patches, args.steps, args.chords,
    )  # fmt: skip
    with console.silent_libraries():
        song = source.read(argv[1], network.config, args.start)
        if song.lasting < network.config.data.samples:
            length, window = song.seconds, network.config.data.samples / network.config.data.sample_rate
            console.note(f"{song.name} gives {length:.3g} s, and the network reads {window:.3g} s: silence follows")
        output = Path(args.output or Path("explain") / Path(argv[1]).stem)
        target = page.write(network, song, output, wishes, Path(args.workdir).name)
    say(f"{target}: open it in a browser")
    return 0


def chosen_layers(network, names: list[str]) -> tuple[str, ...]:
    """Return the layers whose filters are played: none, and a note, if that is impossible. It is an error with --layer."""
    if not (reason := network.why_unheard()):
        return tuple(network.chosen(names))
    if names:
        raise UserError(f"{reason}; leave out --layer={','.join(names)}, then {REST}")
    console.note(f"{reason}; {REST}")
    return ()


def chosen_filters(numbers: list[str], shapes: dict[str, tuple[int, ...]], layers: tuple[str, ...]) -> tuple[int, ...]:
    """Return the filters of --filter. Raise `UserError` unless each layer has them."""
    least = min((shapes[layer][-1], layer) for layer in layers) if layers else (0, "")
    if numbers and not layers:
        raise UserError(f"--filter={','.join(numbers)} needs a layer whose filters can be played, and there is none")
    for number in numbers:
        if not number.isdecimal() or int(number) >= least[0]:
            raise UserError(f"--filter={number} must be a number from 0 to {least[0] - 1}, the filters of layer {least[1]}")
    return tuple(dict.fromkeys(map(int, numbers)))


def as_text(network) -> str:
    """List the layers of a network with the shapes of their maps."""
    width = max(map(len, network.layers))
    return "\n".join(f"{name:<{width}}  {network.sizes(name)}" for name in network.layers)


if __name__ == "__main__":
    define_flags()
    console.run(main, tag_inputs.parse_flags)
