"""Segmentation in time: which class is heard in each frame of a recording or of a live stream (docs/segment.md)."""
