"""Matplotlib's SVG, made small and fit for a page: its colours are the page's CSS variables.

A figure is drawn in colours that stand for variables, ``colour("ink")``; :func:`picture` puts
``var(--ink)`` in their place, so that a chart follows the light, the dark and the printed page.
What is not needed is left out: identifiers, metadata, styles for the whole document, most decimals.
The same figure gives the same bytes.
"""

import io
import logging
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from xpnet.escape import escape

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

__all__ = ["SERIES", "canvas", "colour", "key_of", "picture"]

SERIES = tuple(f"series-{n}" for n in range(1, 9))
VARIABLES = ("ink", "soft", "line", "card", "bar", "pick", "lit", "good", "bad", *SERIES)
STANDS_FOR = re.compile(r"#00f0([0-9a-f]{2})")

XLINK = "{http://www.w3.org/1999/xlink}href"
NUMBERS = ("d", "x", "y", "transform", "width", "height", "points")
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
FONT = re.compile(r"font:[^;]*?(?=[\d.]+px)|(?<=px)\s*'[^;]*|font-family:[^;]*(?:;|$)")
SPACE = re.compile(r"\s+")

# as charts.css has it, or any picture
USUAL = {
    "text": ("font-size:11px", "fill:var(--soft)"),
    "path": ("stroke-linejoin:miter", "stroke-linecap:square"),
}

SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "xpnet",
    "text.parse_math": False,  # a column may be called "$"
    "font.size": 11,
    "figure.dpi": 72,  # a unit of the picture is a pixel of the page
    "axes.linewidth": 1,
    "axes.unicode_minus": True,
    "lines.linewidth": 1.8,
    "lines.solid_joinstyle": "round",
}


def colour(name: str) -> str:
    """Return the colour that stands for the CSS variable ``--name`` until the page has it."""
    return f"#00f0{VARIABLES.index(name):02x}"


@contextmanager
def canvas(width: int, height: int) -> Iterator["Figure"]:
    """Yield an empty figure of so many pixels, whatever the user has set for Matplotlib.

    Nothing is printed: not that a font has no glyph for a name, which the browser's fonts have, nor
    that a cache of fonts is made.
    """
    log = logging.getLogger("matplotlib")
    before, log.disabled = log.level, False
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import matplotlib
            from matplotlib.backends.backend_svg import FigureCanvasSVG
            from matplotlib.figure import Figure

            with matplotlib.rc_context():
                matplotlib.rcdefaults()
                matplotlib.rcParams.update(SETTINGS)
                figure = Figure(figsize=(width / 72, height / 72), facecolor="none")
                FigureCanvasSVG(figure)
                yield figure
    finally:
        log.setLevel(before)


def picture(figure: "Figure", label: str) -> "Markup":
    """Return a figure as an ``<svg>`` element, which ``label`` describes to who cannot see it."""
    from markupsafe import Markup

    written = io.BytesIO()
    figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format")))
    root = ElementTree.fromstring(written.getvalue())
    box = root.get("viewBox", "")
    width = float(box.split()[2])
    used = {found for e in root.iter() for v in e.attrib.values() for found in _references(v)}
    key = key_of(written.getvalue().decode() + label)
    names = {old: f"k{key}{n}" for n, old in enumerate(sorted(used))}
    out = ElementTree.Element(
        "svg",
        {
            "role": "img",
            "aria-label": escape(label),
            "viewBox": _rounded(box),
            "style": f"max-width:{width:.0f}px",
            "stroke-linejoin": "round",
        },
    )
    _copy(root, out, names)
    return Markup(ElementTree.tostring(out, encoding="unicode"))


def key_of(text: str) -> str:
    """Return a short name that differs where the text does, and is the same in every process."""
    return f"{zlib.crc32(text.encode()):08x}"


def _references(value: str) -> list[str]:
    return re.findall(r"url\(#([^)]+)\)", value) + re.findall(r"^#([^#;\s]+)$", value)


def _copy(source: ElementTree.Element, to: ElementTree.Element, names: dict[str, str]) -> None:
    """Put what is to be seen of ``source`` into ``to``."""
    for child in source:
        if not isinstance(child.tag, str):  # a comment
            continue
        tag = child.tag.rpartition("}")[2]
        if tag in ("metadata", "style"):
            continue
        kept = _attributes(child, names)
        if tag == "g" and not kept:
            _copy(child, to, names)
            continue
        if tag == "path" and kept.get("style") == "fill:none":
            continue  # the paper of a figure
        made = ElementTree.SubElement(to, tag, kept)
        made.text = child.text if tag in ("text", "tspan") else None
        _copy(child, made, names)
        _share_style(made)
        if tag in ("g", "defs") and not len(made):
            to.remove(made)


def _share_style(group: ElementTree.Element) -> None:
    """Move the style that all points of a group have to the group, from which they inherit it."""
    styles = {point.get("style") for point in group}
    if group.tag != "g" or len(group) < 2 or len(styles) > 1 or "style" in group.attrib:
        return
    if any(point.tag != "use" for point in group) or None in styles:
        return
    group.set("style", group[0].attrib["style"])
    for point in group:
        del point.attrib["style"]


def _attributes(element: ElementTree.Element, names: dict[str, str]) -> dict[str, str]:
    """Return the attributes that matter, short."""
    kept, tag = {}, element.tag.rpartition("}")[2]
    for key, value in element.attrib.items():
        if key == "id":
            if value in names:
                kept["id"] = names[value]
            continue
        name = "href" if key == XLINK else key
        if name == "style":
            value = _style(value, USUAL.get(tag, ()))
        elif name in NUMBERS:
            value = SPACE.sub(" ", _rounded(value)).strip()
            value = re.sub(r" ?([MLQCz]) ?", r"\1", value) if name == "d" else value
            if name == "transform" and value.startswith(("rotate(-0 ", "rotate(0 ")):
                continue
        for old in _references(value):
            value = value.replace(f"#{old}", f"#{names[old]}")
        if value:
            kept[name] = value
    return kept


def _style(text: str, usual: tuple[str, ...]) -> str:
    text = STANDS_FOR.sub(lambda m: f"var(--{VARIABLES[int(m[1], 16)]})", FONT.sub("", text))
    parts = (part.strip() for part in text.split(";"))
    kept = [re.sub(r":\s+", ":", _rounded(part)) for part in parts if part]
    return ";".join(part for part in kept if part not in usual)


def _rounded(text: str) -> str:
    """Return a text with its numbers to a tenth of a pixel, small ones to a hundredth."""
    return NUMBER.sub(
        lambda m: f"{float(m[0]):.{1 if abs(float(m[0])) >= 5 else 2}f}".rstrip("0").rstrip("."),
        text,
    )
