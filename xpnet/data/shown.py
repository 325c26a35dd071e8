"""A row as people know it: an image, or the values of a table as they are written."""

import math

import numpy as np

from xpnet.data.dataset import Dataset
from xpnet.data.written import SMALLEST, described, value_text

__all__ = ["picture", "written"]

WHITES = (1, 16, 255, 65535)  # of pixels; digits have 16
LIKE = 1000  # rows that say how bright white is


def picture(dataset: Dataset, row: int) -> np.ndarray | None:
    """Return a row as an image, (H, W) or (H, W, 3) float64 from 0, black, to 1; or None.

    Images are rows of shape (H, W), (H, W, C) or (C, H, W); and flat rows of as many pixels as a
    square has, where they are the data set "digits", or columns whose names begin with "pix".

    >>> picture(Dataset(np.full((1, 8, 8), 255, np.uint8), None, None, "a"), 0)[0, 0].item()
    1.0
    >>> picture(Dataset(np.zeros((1, 64)), None, None, "a"), 0)
    """
    image = _image(np.asarray(dataset.x[row]), dataset)
    if image is None or not np.isfinite(image).all():
        return None
    like = np.asarray(dataset.x[:LIKE])
    low, high = float(min(like.min(), image.min())), float(max(like.max(), image.max()))
    if low >= 0:
        whole = image.ndim > 1 and dataset.x.dtype == np.uint8 and dataset.x.ndim > 2
        white = 255 if whole else next((w for w in WHITES if w >= high), high)
        low, high = 0.0, float(white)
    return (image.astype(np.float64) - low) / ((high - low) or 1.0)


def _image(x: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    if x.ndim == 1:
        side, names = math.isqrt(x.size), dataset.feature_names or ()
        pixels = all(name.lower().startswith("pix") for name in names)
        known = bool(names) if pixels and names else dataset.name == "digits" and not names
        return x.reshape(side, side) if known and side >= SMALLEST and side**2 == x.size else None
    if x.ndim == 3 and x.shape[-1] not in (1, 3, 4) and x.shape[0] in (1, 3):
        x = np.moveaxis(x, 0, -1)
    if x.ndim == 3 and x.shape[-1] in (1, 3, 4):
        x = x[..., 0] if x.shape[-1] == 1 else x[..., :3]
    elif x.ndim != 2:
        return None
    pixels = x.dtype in (np.uint8, np.uint16) or min(x.shape[:2]) >= SMALLEST
    return x if pixels else None


def written(dataset: Dataset, row: int) -> tuple[tuple[str, str], ...]:
    """Return the name and the value of each feature of a row, as a file would have them.

    Of rows that are no columns, () is returned. A value that is missing is "", and one that the
    levels of a category lack is "?".

    >>> from xpnet.data.columns import Columns
    >>> columns = Columns((0, 1), names=("a", "b"), kinds=("number", "category"),
    ...                   levels=((), ("x", "y")))
    >>> written(Dataset(np.array([[0.5, 1.0]]), None, None, "t", columns), 0)
    (('a', '0.5'), ('b', 'y'))
    """
    columns, x = dataset.columns, dataset.x[row]
    if x.ndim != 1 or columns is None or not columns.features:
        return ()
    places = zip(columns.features, x.tolist(), described(columns, len(x)), strict=True)
    return tuple((columns.shown(j), value_text(v, *of)) for j, v, of in places)
