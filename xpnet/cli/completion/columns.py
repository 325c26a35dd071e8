"""The names of a table's columns, from its first bytes."""

import csv
import json
import os
import re

__all__ = ["column_names"]

BYTES = 2**18  # of a text file: as much of a header as is worth waiting for
PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}
ARROW = {".parquet": "parquet", ".pq": "parquet", ".feather": "feather", ".arrow": "feather"}
MARKS = ",;\t|"


def column_names(path: str) -> list[str]:
    """Return the names in the header of a table; [] where there is none."""
    path = os.path.expanduser(path)
    if path.endswith(".toml"):
        path = _source(path)
    stem, suffix = os.path.splitext(path)
    if kind := ARROW.get(suffix.lower()):
        return _of_arrow(path, kind)
    text = _beginning(path, PACKED.get(suffix.lower()))
    inner = os.path.splitext(stem)[1] if suffix.lower() in PACKED else suffix
    if inner.lower() in (".jsonl", ".ndjson", ".json"):
        return [*json.loads(text.partition("\n")[0])]
    if inner.lower() == ".arff":
        found = re.findall(r"(?mi)^@attribute\s+(?:'([^']*)'|\"([^\"]*)\"|(\S+))", text)
        return ["".join(names) for names in found]
    lines = [line for line in text.splitlines() if line.strip() and line[0] not in "#%"]
    if not lines:
        return []
    mark = max(MARKS, key=lines[0].count)
    return [name.strip() for name in next(csv.reader(lines[:1], delimiter=mark)) if name.strip()]


def _source(config: str) -> str:
    import tomllib

    with open(config, "rb") as file:
        source = tomllib.load(file)["data"]["source"]
    return os.path.join(os.path.dirname(config), source)


def _beginning(path: str, packed: str | None) -> str:
    import importlib

    opened = importlib.import_module(packed).open if packed else open
    if not os.path.isfile(path):  # a pipe would wait
        return ""
    with opened(path, "rb") as file:
        block = file.read(BYTES)
    encoding = "utf-16" if block[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return block.decode(encoding, errors="replace")


def _of_arrow(path: str, kind: str) -> list[str]:
    if not os.path.isfile(path):
        return []
    if kind == "parquet":
        from pyarrow.parquet import read_schema

        return read_schema(path).names
    import pyarrow.ipc

    with pyarrow.OSFile(path) as file:
        return pyarrow.ipc.open_file(file).schema.names
