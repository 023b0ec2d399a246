"""Encoders, mask networks and the model that joins them (Flax NNX)."""
