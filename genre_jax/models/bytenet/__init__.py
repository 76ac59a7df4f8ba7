"""The dilated ByteNet of document 000. A batch passes network, block_set, block, dilated, in this order."""

from genre_jax.models.bytenet.network import ByteNet

__all__ = ["ByteNet"]
