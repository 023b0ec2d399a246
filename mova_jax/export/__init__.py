"""Trained weights out: PyTorch, transformers, ONNX, and checks that they agree."""
