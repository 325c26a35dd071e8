"""Models to and from other formats: ONNX, with its training step, and PyTorch."""
