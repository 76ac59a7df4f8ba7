"""An index of songs on disk: similar songs by the embeddings of a network, and recordings by their fingerprints."""
