"""A model and its training as plain tables: for ``print``, for notebooks and for ``xpnet show``."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from xpnet.escape import escape_html
from xpnet.nn.layer import Layer, Shape

__all__ = ["Row", "Table", "architecture"]

Row = tuple[str, ...]
UNKNOWN = "?"  # what depends on the input shape of a model that is not built


class Table(NamedTuple):
    """Groups of rows with a rule between them, and "<" or ">" for each column."""

    groups: Sequence[Sequence[Row]]
    align: str

    def text(self) -> str:
        """Return the table as lines.

        >>> print(Table([[("array", "size")], [("W", "12"), ("b", "3")]], "<>").text())
        array  size
        -----------
        W        12
        b         3
        """
        rows = [row for group in self.groups for row in group]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))

        def line(row: Row) -> str:
            cells = zip(row, self.align, widths, strict=True)
            return "  ".join(f"{cell:{side}{width}}" for cell, side, width in cells).rstrip()

        return f"\n{rule}\n".join("\n".join(map(line, group)) for group in self.groups)

    def html(self) -> str:
        """Return the table in HTML, every cell escaped.

        >>> Table([[("a < b",)]], "<").html()
        '<table><tbody><tr><td style="text-align:left">a &lt; b</td></tr></tbody></table>'
        """
        styles = [f"text-align:{'left' if side == '<' else 'right'}" for side in self.align]

        def line(row: Row) -> str:
            cells = zip(row, styles, strict=True)
            return "".join(f'<td style="{style}">{escape_html(cell)}</td>' for cell, style in cells)

        groups = ("".join(f"<tr>{line(row)}</tr>" for row in group) for group in self.groups)
        return f"<table>{''.join(f'<tbody>{rows}</tbody>' for rows in groups)}</table>"


def architecture(names: Sequence[str], layers: Sequence[Layer], input_shape: Shape | None) -> Table:
    """Return the table of the layers of a model: output shapes, arrays and parameters.

    Without an ``input_shape`` the sizes are "?". Raises ConfigError where a shape does not fit.
    """
    head = ("", "layer", "output shape", "arrays", "parameters")
    rows: list[Row] = []
    trained = tracked = 0
    shape = input_shape
    if shape is not None:
        rows.append(("", "input", _shape(shape), "", ""))
    for i, (name, layer) in enumerate(zip(names, layers, strict=True)):
        if shape is None:
            rows.append((str(i), name, *(UNKNOWN,) * 3))
            continue
        layer, shape = layer.build(shape)
        variables = layer.variables()
        count = sum(math.prod(v.shape) for v in variables.values() if v.trained)
        trained += count
        tracked += sum(math.prod(v.shape) for v in variables.values() if not v.trained)
        arrays = ", ".join(f"{key} {v.shape}" for key, v in variables.items())
        rows.append((str(i), name, _shape(shape), arrays, f"{count:,}"))
    foot: list[Row] = [("", "total", "", "", UNKNOWN if shape is None else f"{trained:,}")]
    if tracked:
        foot.append(("", "running statistics", "", "", f"{tracked:,}"))
    return Table([[head], rows, foot], "><<<>")


def _shape(shape: Shape) -> str:
    """The shape of a batch.

    >>> _shape((28, 28))
    '(N, 28, 28)'
    """
    return f"({', '.join(map(str, ('N', *shape)))})"
