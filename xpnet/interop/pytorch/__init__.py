"""PyTorch's modules and state dicts as models, and models under PyTorch's names."""
