"""Text made safe to show, on a terminal, in Markdown and HTML."""

import html
import re

__all__ = ["escape", "escape_html", "escape_markdown"]

# Characters that move the cursor, change a title or reverse the reading direction, and those that
# cannot be encoded: C0 and C1 controls, line separators, bidirectional marks and overrides,
# surrogates.
CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
MARKDOWN = re.compile(r"([\\`*<>&$~|]|\](?=[(\[:]))")  # a bracket where it would make a link


def escape(text: str) -> str:
    r"""Return ``text`` with each character that acts on a terminal replaced by its escape sequence.

    >>> escape("\x1b[31mred") == r"\x1b[31mred"
    True
    """
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def escape_markdown(text: str) -> str:
    r"""Return ``text`` in one line of Markdown that shows it as it stands, in a table too.

    >>> escape_markdown("<b>a|b.csv")
    '\\<b\\>a\\|b.csv'
    >>> escape_markdown("[0, 0] [a](b)")
    '[0, 0] [a\\](b)'
    """
    return MARKDOWN.sub(r"\\\1", escape(text))


def escape_html(text: str) -> str:
    """Return ``text`` in HTML that shows it as it stands, in an attribute too; lines remain lines.

    >>> escape_html("<b>")
    '&lt;b&gt;'
    """
    return "\n".join(html.escape(escape(line), quote=True) for line in text.split("\n"))
