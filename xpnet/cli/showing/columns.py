"""``xpnet show FILE``: what the columns of a table are taken for."""

from typing import Any, cast

from xpnet.cli.output import print_json, say
from xpnet.data import Dataset
from xpnet.run.config_sources import load_config
from xpnet.run.description import column_table
from xpnet.run.splits import read_data

__all__ = ["show_columns"]


def show_columns(path: str, settings: list[str], *, as_json: bool) -> None:
    """Print a line for each column of the table in a file, and what was decided."""
    config = load_config(path, ["data.stream=no", "data.missing_labels=drop", *settings])
    whole = cast(Dataset, read_data(config).whole)
    columns = whole.columns
    if as_json:
        print_json(_document(path, whole))
    elif columns is None or not columns.described:
        say(f"{path}: {len(whole):,} rows of {'x'.join(map(str, whole.feature_shape))} features")
    else:
        say(f"{path}: {len(whole):,} rows, {columns.width} columns")
        say(*column_table(columns), *columns.lines(whole.classes))


def _document(path: str, whole: Dataset) -> dict[str, Any]:
    columns = whole.columns
    return {
        "kind": "table",
        "path": path,
        "rows": len(whole),
        "feature_shape": whole.feature_shape,
        "classes": whole.classes,
        "columns": [] if columns is None else columns.described,
        "lines": [] if columns is None else columns.lines(whole.classes),
    }
