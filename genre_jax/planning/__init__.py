"""Predict what a training step costs before it runs: memory, FLOPs, and the fastest convolution backend."""
