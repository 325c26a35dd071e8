"""What all pages of xpnet share: one look, in one file that needs no network.

A page is a Jinja2 template in the folder ``page`` of its room. It extends ``base.html``, which has
the colours, the type, the light and dark theme and a policy that forbids the network::

    {% extends "base.html" %}
    {% block main %}<h1>{{ title }}</h1>{% endblock %}

    render("xpnet.report", "report.html", title="A run")

Values are escaped, their control characters too; what is HTML already is a ``Markup``.
"""

import functools
from importlib import resources
from typing import TYPE_CHECKING, Any

from xpnet.escape import escape

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = ["render", "text_of"]


def render(room: str, template: str, **values: Any) -> str:
    """Return a page: ``template`` of the folder ``page`` of ``room``, with ``values``.

    Raises jinja2.UndefinedError for a value that the template names and is not given.
    """
    return _environment(room).get_template(template).render(**values)


def text_of(room: str, name: str) -> "Markup":
    """Return a file of the folder ``page`` of ``room``, such as a style sheet, as it stands."""
    from markupsafe import Markup

    return Markup((resources.files(room) / "page" / name).read_text("utf-8"))


@functools.cache
def _environment(room: str) -> "Environment":
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    shared = PackageLoader("xpnet.page", "templates")
    found = Environment(
        loader=ChoiceLoader([PackageLoader(room, "page"), shared]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: escape(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"allow_nan": False}  # of the filter `tojson`
    found.globals["file"] = functools.partial(text_of, room)
    return found
