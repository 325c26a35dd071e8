"""Keys and values for ``--set KEY=VALUE``, from the JSON Schema of a config.

To make the schema takes the third of a second that importing the layers and rules does, so it is
kept in a file, whose name says of what it was made.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from click.shell_completion import CompletionItem

from xpnet import __file__ as package
from xpnet import __version__
from xpnet.cache import cache_folder
from xpnet.cli.completion.columns import column_names
from xpnet.cli.completion.places import paths

__all__ = ["Settings"]

ROOMS = ("", "nn", "optim", "run", "data", "data/tables", "step", "training", "backends")
OF_FILES = ("data.source", "data.test", "data.data_dir", "start.source")
OF_COLUMNS = ("data.label", "data.columns")

Node = Mapping[str, Any]


class Settings:
    """What may be set: ``chosen`` are the ``KEY=VALUE`` that the line has already."""

    def __init__(self, chosen: Iterable[str] = (), table: str | None = None) -> None:
        self.chosen = dict(text.partition("=")[::2] for text in chosen)
        self.table = table

    @cached_property
    def schema(self) -> Node:
        """The schema of a config, kept from one TAB to the next."""
        path = cache_folder() / f"settings-{_stamp()}.json"
        with contextlib.suppress(OSError, ValueError):
            return json.loads(path.read_text("utf-8"))
        from xpnet.run.schema import config_schema

        schema = config_schema()
        with contextlib.suppress(OSError):  # a home that cannot be written to
            path.parent.mkdir(parents=True, exist_ok=True)
            for old in path.parent.glob("settings-*.json"):
                old.unlink(missing_ok=True)
            aside = path.with_suffix(f".{os.getpid()}")
            aside.write_text(json.dumps(schema), "utf-8")
            aside.replace(path)
        return schema

    def complete(self, typed: str) -> Iterator[CompletionItem]:
        """Yield keys, a part at a time, or behind ``=`` the values of that key."""
        key, equals, value = typed.partition("=")
        if not equals:
            yield from self.keys(key)
            return
        for item in self.values(key, value):
            if item.value.startswith(value):
                yield CompletionItem(f"{key}={item.value}", help=item.help)

    def keys(self, typed: str) -> Iterator[CompletionItem]:
        """Yield ``optimizer.`` for a table, and ``epochs=`` for what takes a value."""
        section, dot, _ = typed.rpartition(".")
        found: dict[str, CompletionItem] = {}
        for table in self.tables(section):
            for name, node in table.get("properties", {}).items():
                key = f"{section}{dot}{name}"
                if not key.startswith(typed) or key == "recipe":
                    continue
                kinds = [*self.alternatives(node)]
                ends = {"." if _is_table(kind) else "=" for kind in kinds}
                for end in sorted(ends, reverse=True):
                    found.setdefault(key + end, CompletionItem(key + end, help=_said(node)))
        yield from found.values()

    def values(self, key: str, typed: str = "") -> Iterator[CompletionItem]:
        """Yield what a key may be set to, where there is a list of it."""
        if key in OF_FILES:
            yield from paths(typed)
        if key.startswith(OF_COLUMNS) and self.table and not key.endswith("one_hot"):
            yield from map(CompletionItem, column_names(self.table))
        section, _, name = key.rpartition(".")
        seen = set()
        for table in self.tables(section, every=name == "name"):
            for kind in self.alternatives(table.get("properties", {}).get(name, {})):
                for value in _listed(kind):
                    if value not in seen:
                        seen.add(value)
                        about = self.about(table if "const" in kind else None, key, value)
                        yield CompletionItem(value, help=about)

    def named_data(self) -> Iterator[CompletionItem]:
        """Yield the data sets that have a name, which is that of their recipe, too."""
        source = self.schema["properties"]["data"]["properties"]["source"]
        yield from map(CompletionItem, source["examples"])

    def about(self, table: Node | None, key: str, value: str) -> str | None:
        """What is said of the class that ``value`` names, if it names one."""
        for kind in [table] if table else self.tables(key, every=True):
            if kind.get("title") == value:
                return kind.get("description")
        return None

    def tables(self, path: str, *, every: bool = False) -> list[Node]:
        """The tables that may stand at a dotted path, of the class that is chosen there."""
        found, here = [self.schema], ""
        for part in filter(None, path.split(".")):
            here = f"{here}.{part}".strip(".")
            inner = [table.get("properties", {}).get(part, {}) for table in found]
            found = [kind for node in inner for kind in self.alternatives(node) if _is_table(kind)]
            name = self.chosen.get(f"{here}.name") or self.chosen.get(here)
            named = [kind for kind in found if kind.get("title") == name]
            nameless = [kind for kind in found if "name" not in kind.get("required", ())]
            if not (every and here == path):
                found = named or nameless or found
        return found

    def alternatives(self, node: Node) -> Iterator[Node]:
        """Yield the schemas of which a value needs to be one."""
        if "$ref" in node:
            target = self.schema["$defs"][node["$ref"].rpartition("/")[2]]
            yield {**target, "required": [*target.get("required", ()), *node.get("required", ())]}
            return
        for one in node.get("anyOf", ()):
            yield from self.alternatives(one)
        if "anyOf" not in node:
            yield node


def _is_table(node: Node) -> bool:
    return node.get("type") == "object"


def _listed(node: Node) -> Iterator[str]:
    if node.get("type") == "boolean":
        yield from ("true", "false")
    for value in (*node.get("enum", ()), *node.get("examples", ())):
        yield str(value)
    if "const" in node:
        yield str(node["const"])


def _said(node: Node) -> str | None:
    default = node.get("default")
    said = [node.get("description"), None if default is None else f"default {json.dumps(default)}"]
    return "; ".join(filter(None, said)) or None


def _stamp() -> str:
    """What the settings are made of: this xpnet, its files and what is installed beside it."""
    import zlib

    root = Path(package).parent
    files = [entry for room in ROOMS for entry in os.scandir(root / room) if entry.is_file()]
    times = [max(entry.stat().st_mtime_ns for entry in files)]
    for folder in (path for path in sys.path if path.endswith("-packages")):  # where pip installs
        with contextlib.suppress(OSError):
            times.append(os.stat(folder).st_mtime_ns)
    return f"{zlib.crc32(repr((__version__, str(root), len(files), times)).encode()):08x}"
