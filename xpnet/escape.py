"""Text from files and names, made safe to print on a terminal."""

import re

__all__ = ["escape"]

# Characters that move the cursor, change a title or reverse the reading direction, and those that
# cannot be encoded: C0 and C1 controls, line separators, bidirectional overrides, surrogates.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    r"""Return ``text`` with each character that acts on a terminal replaced by its escape sequence.

    >>> escape("\x1b[31mred") == r"\x1b[31mred"
    True
    """
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
