"""The cycles of dates as angles: times that are close in a cycle have close sines and cosines."""

import numpy as np

__all__ = ["CYCLES", "cycle"]

CYCLES = ("day of week", "day of year", "time of day")
DAY = 86_400.0
YEAR = 365.25  # days
YEARS = (-62_135_596_800.0, 253_402_300_799.0)  # 1 to 9999, in seconds since 1970
MONDAY = 3  # 1970-01-01 was a Thursday, the day 3 of its week


def cycle(name: str, seconds: np.ndarray) -> np.ndarray:
    """Return sine and cosine (n, 2) of the position of dates (n,), seconds since 1970, in a cycle.

    Both are 0 for a missing date.

    >>> cycle("time of day", np.array([0.0, 6 * 3600])).round(6).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    gone = ~np.isfinite(seconds)
    seconds = np.clip(np.where(gone, 0.0, seconds), *YEARS)
    days = np.floor(seconds / DAY)
    if name == "day of week":
        turn = (days + MONDAY) % 7 / 7
    elif name == "time of day":
        turn = (seconds - days * DAY) / DAY
    else:
        dates = days.astype(np.int64).astype("datetime64[D]")
        turn = (dates - dates.astype("datetime64[Y]")).astype(np.float64) / YEAR
    angle = 2 * np.pi * turn
    both = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    both[gone] = 0
    return both
