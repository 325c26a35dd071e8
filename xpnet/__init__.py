"""Dense neural networks written once against the Array API standard."""

__version__ = "0.1.0"
