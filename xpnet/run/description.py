"""What a run says of its data before it trains: rows, columns, and what was decided."""

from xpnet.data import Columns
from xpnet.nn.summary import Table
from xpnet.run.preprocessing import Splits

__all__ = ["column_table", "describe"]

SHOWN = 40  # columns of a table before a training


def describe(splits: Splits) -> list[str]:
    """Return lines about the parts, the columns, the label, and all that was guessed."""
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    rows = ", ".join(f"{len(p):,} {name}" for name, p in parts.items() if p is not None)
    preprocessing = splits.preprocessing
    classes, columns = preprocessing.classes, preprocessing.columns
    kind = f"{len(classes)} classes" if classes else preprocessing.task
    shape = "x".join(map(str, splits.train.feature_shape))
    said = [f"data {splits.train.name}: {rows}; {shape} features, {kind}"]
    if columns:
        said += [*column_table(columns, SHOWN), *columns.lines(classes)]
    said += splits.notes
    for part in (splits.validation, splits.test):
        if part and part.columns and part.columns is not splits.train.columns:
            said += [f"{part.name}: {note}" for note in part.columns.notes]
    return said


def column_table(columns: Columns, most: int | None = None) -> list[str]:
    """Return the lines of a table of the columns, with what each was taken for."""
    rows = [tuple(map(str, row)) for row in columns.described[:most]]
    if not rows:
        return []
    header = ("column", "kind", "missing", "distinct", "values", "used as")
    lines = Table([[header], rows], "<<>><<").text().splitlines()
    if (rest := len(columns.described) - len(rows)) > 0:
        lines.append(f"... and {rest:,} more: xpnet show FILE prints all")
    return lines
