"""The dilated ByteNet of document 000, in the order in which a batch passes: network, block_set, block, dilated."""

from genre_jax.models.bytenet.network import ByteNet

__all__ = ["ByteNet"]
