"""What all pages share: escaping, values that are missing, no network."""

import re

import jinja2
import pytest

from xpnet.page import render, text_of


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A room with a page of its own."""
    folder = tmp_path / "some_room" / "page"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "note.html").write_text(
        '{% extends "base.html" %}'
        '{% block main %}<p title="{{ text }}">{{ text }}</p>{% endblock %}'
    )
    (folder / "note.css").write_text("p { color: red; }")
    monkeypatch.syspath_prepend(tmp_path)
    return "some_room"


def test_a_value_is_escaped_and_its_control_characters_are_shown(room):
    page = render(room, "note.html", title="T", text='<b>"\x1b[31m\u202e')
    assert "&lt;b&gt;&#34;\\x1b[31m\\u202e" in page
    assert "<b>" not in page


def test_a_value_that_is_missing_is_an_error(room):
    with pytest.raises(jinja2.UndefinedError, match="text"):
        render(room, "note.html", title="T")


def test_a_page_forbids_the_network_and_names_no_address(room):
    page = render(room, "note.html", title="T", text="")
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|src=\"(?!data:)|url\(", page)


def test_a_file_is_put_in_as_it_stands(room):
    assert str(text_of(room, "note.css")) == "p { color: red; }"
