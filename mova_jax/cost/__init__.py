"""FLOPs of the model and figures of the chips."""
