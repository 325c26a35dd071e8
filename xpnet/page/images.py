"""Arrays as pictures that are part of the page."""

import base64
import io

import numpy as np

__all__ = ["png"]


def png(pixels: np.ndarray) -> str:
    """Return (H, W) or (H, W, 3) uint8 as the address of a PNG, ``data:image/png;base64,...``."""
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(written, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
