"""The pages of reference, made from the program: commands, settings and public names."""

import re
from fnmatch import fnmatch
from typing import Any

import click
from docs_griffe import PUBLIC

from xpnet.cli.main import cli
from xpnet.run.config_sources import template_text

SOURCE = "\n    options:\n      show_source: true"


def filled(page: str) -> str:
    """Return a page in which each ``<!-- made: KIND WORDS -->`` is replaced by what it names."""
    return re.sub(
        r"<!-- made: (\w+) ?(.*?) -->", lambda m: MAKERS[m[1]](*m[2].split()), page, flags=re.DOTALL
    )


def commands() -> str:
    """Return a section for each command: its help and its options, as click has them."""
    ctx = click.Context(cli, info_name="xpnet")
    sections = [_command(cli, ctx, "xpnet")]
    for name in cli.list_commands(ctx):
        command = cli.get_command(ctx, name)
        assert command is not None
        made = click.Context(command, info_name=name, parent=ctx)
        sections.append(f"## {name}\n\n{_command(command, made, f'xpnet {name}')}")
    return "\n\n".join(sections)


def _command(command: click.Command, ctx: click.Context, name: str) -> str:
    usage = f"{name} {' '.join(command.collect_usage_pieces(ctx))}"
    records = [param.get_help_record(ctx) for param in command.get_params(ctx)]
    rows = [_row(record) for record in records if record and record[1]]
    table = ["| option | what it does |", "| --- | --- |", *rows]
    return "\n\n".join([f"```text\n{usage}\n```", *_help(command.help or ""), "\n".join(table)])


def _help(text: str) -> list[str]:
    """Return the paragraphs of a help; those that click leaves as they are are blocks."""
    paragraphs = re.split(r"\n\s*\n", re.sub(r"(?m)^ {4}", "", text).replace("\f", ""))
    out = []
    for paragraph in paragraphs:
        kept = paragraph.lstrip().startswith("\b\n")
        body = paragraph.strip().removeprefix("\b\n")
        if kept and body.startswith(("xpnet", "$")):
            lines = [f"$ {line}" if line.startswith("xpnet") else line for line in body.split("\n")]
            body = "\n".join(lines)
        out.append(f"```console\n{body}\n```" if kept else _plain(body))
    return [part for part in out if part]


def _row(record: tuple[str, str]) -> str:
    option, text = record
    return f"| <code>{_plain(option)}</code> | {_plain(' '.join(text.split()))} |"


def _plain(text: str) -> str:
    """Return text in which Markdown finds no signs of its own."""
    return re.sub(r"[*_<>\[\]|`]", lambda m: f"&#{ord(m[0])};", text)


def settings() -> str:
    """Return a table for each table of a config: every setting, its default and its comment."""
    sections: list[str] = []
    for text in re.split(r"(?m)^(?=\[\w)", template_text()):
        head = re.match(r"\[([\w.]+)\](?:\s+# (.*))?\n", text)
        title = (
            f"## {head[1]}\n\n" + (f"{_sentence(head[2])}\n\n" if head[2] else "") if head else ""
        )
        rows = ["| setting | default | what it does |", "| --- | --- | --- |"]
        prefix = f"{head[1]}." if head else ""
        rows += [_setting(prefix, *found) for found in _settings(text)]
        sections.append(title + "\n".join(rows))
    return "\n\n".join(sections)


def _settings(text: str) -> list[list[str]]:
    """Return (whether it is an example only, name, value, comment) of each setting of a text."""
    found: list[list[str]] = []
    for line in text.splitlines():
        setting = re.match(r"(# )?([a-z]\w*) = (.+?)(?:\s+# (.*))?$", line)
        if setting:
            found.append([part or "" for part in setting.groups()])
        elif found and re.match(r"#( {3}|[ ]\])", line):
            found[-1][2] += f" {line[1:].strip()}"
        elif found and (more := re.match(r"\s*# (.*)", line)):
            found[-1][3] += f" {more[1]}"
        elif not line.strip() and not found:
            found = []
    return found


def _setting(prefix: str, example: str, name: str, value: str, comment: str) -> str:
    shown = f"<code>{_plain(value)}</code>"
    default = f"not set; such as {shown}" if example else shown
    return f"| <code>{prefix}{name}</code> | {default} | {_plain(comment)} |"


def _sentence(text: str) -> str:
    return f"{_plain(text[0].upper() + text[1:])}."


def names(*modules: str) -> str:
    """Return the description of every public name from these modules; ``run*`` is a whole room."""
    found = [name for one in modules for name in PUBLIC if fnmatch(PUBLIC[name], one)]
    return "\n\n".join(f"::: xpnet.{name}" for name in found)


def classes(*of: str) -> str:
    """Return the same with the source, for those that are formulas."""
    return names(*of).replace("\n\n", f"{SOURCE}\n\n") + SOURCE


def overview(path: str) -> str:
    """Return what the docstring of a module says."""
    return f"::: {path}\n    options:\n      members: false\n      show_root_heading: false"


def modules(*paths: str) -> str:
    """Return the description of what modules export, without the public names."""
    parts = []
    for path in paths:
        public = [name for name in PUBLIC if f"xpnet.{PUBLIC[name]}" == path]
        filters = f'      filters: ["!^_", "!^({"|".join(public)})$"]'
        parts.append(f"::: {path}{SOURCE}\n{filters}")
    return "\n\n".join(parts)


MAKERS: dict[str, Any] = {
    "commands": commands,
    "settings": settings,
    "names": names,
    "classes": classes,
    "overview": overview,
    "modules": modules,
}
