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
    """Return sine and cosine (n, 2) of the position of dates (n, 1) in a cycle.

    A date is in seconds since 1970; both are 0 where it is missing. Years are those of the
    proleptic Gregorian calendar.

    >>> import numpy as np
    >>> cycle("time of day", np.array([[0.0], [6 * 3600]])).round(6).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    xp = array_namespace(seconds)
    known = xp.isfinite(seconds)
    seconds = xp.clip(xp.where(known, seconds, 0.0), *YEARS)
    days = xp.floor(seconds / DAY)
    if name == "day of week":
        turn = _modulo(days + MONDAY, 7) / 7
    elif name == "time of day":
        turn = (seconds - days * DAY) / DAY
    else:
        turn = _day_of_year(days + FIRST) / YEAR
    angle = 2 * math.pi * turn
    return xp.where(known, xp.concat([xp.sin(angle), xp.cos(angle)], axis=1), 0.0)


def _day_of_year(days: Array) -> Array:
    """Return 0 to 365 for days since 0001-01-01, which are whole numbers of a floating dtype.

    After H. Hinnant, "chrono-compatible low-level date algorithms" (days_from_civil), from the
    first of January of the year 1: there, too, the day that is more comes last of 4 and 400 years,
    and the day that is less last of 100. Without these days each year has 365.
    """
    floor = array_namespace(days).floor
    day = _modulo(days, 146_097)  # of 400 years
    year = floor((day - floor(day / 1_460) + floor(day / 36_524) - floor(day / 146_096)) / 365)
    return day - (365 * year + floor(year / 4) - floor(year / 100))


def _modulo(x: Array, n: int) -> Array:
    """Return x modulo n for whole numbers, in as few operations as there are."""
    return x - n * array_namespace(x).floor(x / n)
