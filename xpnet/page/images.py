"""Arrays as pictures that are part of the page."""

import base64
import io

import numpy as np

__all__ = ["png"]


def png(pixels: np.ndarray, most: int = 0) -> str:
    """Return (H, W) or (H, W, 3) uint8 as the address of a PNG, ``data:image/png;base64,...``.

    A picture larger than ``most`` pixels to a side is made smaller.
    """
    from PIL import Image

    image, written = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    if most and max(image.size) > most:
        image.thumbnail((most, most))
    image.save(written, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
