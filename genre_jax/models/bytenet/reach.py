"""What a ByteNet sees of its input: receptive field, and blocks whose side taps see only padding."""

from typing import Any, NamedTuple

from genre_jax.models.bytenet.dilated import same_padding


class SetReach(NamedTuple):
    """A set of blocks on an input of one length.

    Attributes:
      name: of the set.
      length: steps of its sequence.
      dilations: of its blocks.
      dead_blocks: blocks whose side taps all see only padding.
    """

    name: str
    length: int
    dilations: tuple[int, ...]
    dead_blocks: int


class Reach(NamedTuple):
    """What a step of the output sees through the convolutions. The norms see the whole input.

    Attributes:
      receptive_field: samples, on an endless input.
      effective_field: samples, within the input; taps that see only padding add nothing.
      blocks: of all sets.
      dead_blocks: blocks whose side taps all see only padding.
      sets: the sets in their order.
    """

    receptive_field: int
    effective_field: int
    blocks: int
    dead_blocks: int
    sets: tuple[SetReach, ...]


def seen(dilation: int, kernel: int, length: int, causal: bool) -> tuple[int, int]:
    """Returns how far (before, after) the taps reach that see any of a sequence's `length` steps; (0, 0) for a dead block."""
    before, _ = same_padding(dilation, kernel, causal)
    offsets = [o for o in (j * dilation - int(before) for j in range(kernel)) if -length < o < length]
    return -min(offsets, default=0), max(offsets, default=0)


def capped(dilations: tuple[int, ...], kernel: int, length: int, causal: bool) -> tuple[int, ...]:
    """Returns the dilations, where the largest that sees data replaces those that see only padding."""
    largest = max((d for d in dilations if seen(d, kernel, length, causal) != (0, 0)), default=1)
    return tuple(min(d, largest) for d in dilations)


def reach_of(net: Any, samples: int) -> Reach:
    """Returns the reach of a `ByteNet` on inputs of `samples`."""
    lengths = net.lengths(samples)
    encoder = [(f"encoder{s}", False, stride, lengths[s]) for s, stride in enumerate(net.strides)]
    decoder = [(f"decoder{s}", True, 1, lengths[-1]) for s in range(net.decoder_sets)]
    field = effective = 1
    sets = []
    for name, causal, stride, length in reversed(encoder + decoder):
        dilations = net.dilations_on(length, causal)
        spans = [seen(d, net.kernel, length, causal) for d in dilations]
        field = field * stride + sum(dilations) * (net.kernel - 1)
        effective = min(min(effective * stride, length) + sum(map(sum, spans)), length)
        sets.append(SetReach(name, length, dilations, spans.count((0, 0))))
    field, effective = ((n - 1) * net.stem_stride + net.stem_kernel for n in (field, effective))
    blocks, dead = sum(len(s.dilations) for s in sets), sum(s.dead_blocks for s in sets)
    return Reach(field, effective, blocks, dead, tuple(reversed(sets)))
