"""Text from files, as a terminal may be given it."""

import re

__all__ = ["escape"]

# What moves the cursor, changes a title or turns the direction of reading, and half characters
# that no encoding has: C0 and C1 controls, line separators, bidirectional overrides, surrogates.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    r"""Return ``text`` with each character that would act on a terminal written as its escape.

    >>> escape("\x1b[31mred") == r"\x1b[31mred"
    True
    """
    return UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
