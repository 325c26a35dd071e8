"""The cycles of dates as angles: times that are close in a cycle have close sines and cosines."""

import math

from array_api_compat import array_namespace

from xpnet.typing import Array

__all__ = ["CYCLES", "cycle"]

CYCLES = ("day of week", "day of year", "time of day")
DAY = 86_400.0
YEAR = 365.25  # days
YEARS = (-62_135_596_800.0, 253_402_300_799.0)  # 1 to 9999, in seconds since 1970
MONDAY = 3  # 1970-01-01 was a Thursday, the day 3 of its week
FIRST = 719_162  # days from 0001-01-01 to 1970-01-01


def cycle(name: str, seconds: Array) -> Array:
    """Return sine and cosine (n, 2) of the position of dates (n,), seconds since 1970, in a cycle.

    Both are 0 for a missing date. Years are those of the proleptic Gregorian calendar.

    >>> import numpy as np
    >>> cycle("time of day", np.array([0.0, 6 * 3600])).round(6).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    xp = array_namespace(seconds)
    known = xp.isfinite(seconds)
    seconds = xp.clip(xp.where(known, seconds, 0.0), *YEARS)
    days = xp.floor(seconds / DAY)
    if name == "day of week":
        turn = (days + MONDAY) % 7 / 7
    elif name == "time of day":
        turn = (seconds - days * DAY) / DAY
    else:
        turn = _day_of_year(days + FIRST) / YEAR
    angle = 2 * math.pi * turn
    both = [xp.where(known, f(angle), 0.0) for f in (xp.sin, xp.cos)]
    return xp.stack(both, axis=1)


def _day_of_year(days: Array) -> Array:
    """Return 0 to 365 for days since 0001-01-01, which are whole numbers of a floating dtype."""
    xp = array_namespace(days)
    year = xp.floor(days / 365.2425) + 1  # at most one off
    year = xp.where(_first_day(year) > days, year - 1, year)
    year = xp.where(_first_day(year + 1) <= days, year + 1, year)
    return days - _first_day(year)


def _first_day(year: Array) -> Array:
    """Return the days from 0001-01-01 to the first of January of a year."""
    xp = array_namespace(year)
    past = year - 1
    return 365 * past + xp.floor(past / 4) - xp.floor(past / 100) + xp.floor(past / 400)
