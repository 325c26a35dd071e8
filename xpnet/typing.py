"""The one alias that every signature uses."""

from typing import Any

__all__ = ["Array"]

# An array of any library that follows the Array API standard. The standard names no common base
# class, and a Protocol with all its members tells a reader less than the shapes in the docstrings.
Array = Any
