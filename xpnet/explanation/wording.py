"""The texts and number formats shared by the renderers."""

import math

import numpy as np

from xpnet.explanation.model import Explanation, Step, Tensor, Way

__all__ = [
    "ANSWER",
    "BESIDE",
    "BRIDGE",
    "COMPARED",
    "DERIVATION",
    "LEGEND",
    "MOST",
    "MOST_COLUMNS",
    "MOST_IN_A_ROW",
    "NUDGE",
    "QUESTION",
    "SCRIPT",
    "TWO_WAYS",
    "WAYS",
    "bridge_text",
    "fits",
    "matrices",
    "norm",
    "nudge_rows",
    "nudge_text",
    "number",
    "numbers",
    "place",
    "row_text",
    "shape",
    "size",
    "two_ways_text",
    "way_rows",
    "ways_note",
]

QUESTION = (
    "The derivative of softmax is a Jacobian, a matrix. The gradient of the loss is a vector. "
    "How do the shapes fit, and how does that become code?"
)
ANSWER = (
    "The vector multiplies the matrix. For each example $n$, the gradient $da_n$, a vector of $K$ "
    "entries, multiplies the $K$ by $K$ Jacobian $J_n$, and the sum over $k$ is a vector again: "
    "$dz_ns = Σ_k da_nk J_nks$. Since $J_nks = a_nk (δ_ks - a_ns)$, that sum equals "
    "$a_ns (da_ns - Σ_k da_nk a_nk)$: one line of code, which never forms the matrix. With "
    "cross-entropy's $da_nk = -y_nk / (N a_nk)$, it simplifies to $(a_ns - y_ns) / N$."
)
BESIDE = (
    "Both losses on the same logits and label. The sigmoid is element-wise: its Jacobian is "
    "diagonal, and multiplying $da$ by the diagonal is the whole product. Softmax divides by a sum "
    "over all logits: its Jacobian is full, and the diagonal alone is not enough."
)
# The titles of the sections.
TWO_WAYS = "dz both ways: through the Jacobian, and fused"
DERIVATION = "Where J comes from: the quotient rule"
NUDGE = "Nudge one logit"
WAYS = "dC/dz and dC/dW of the output layer, five ways"
COMPARED = "Sigmoid + MSE compared with softmax + cross-entropy"
BRIDGE = "The bridge: a sample as a column, a batch as rows"
LEGEND = "The letters"
SCRIPT = "The same numbers with NumPy alone"
MOST = 6  # rows and columns of a matrix that is still readable
MOST_IN_A_ROW = 12
MOST_COLUMNS = 16  # of a table


def fits(values: np.ndarray) -> bool:
    """Return whether an array is small enough to print."""
    shape = (1, 1, *values.shape)[-2:]
    if shape[0] == 1 and values.ndim < 3:
        return shape[1] <= MOST_IN_A_ROW
    if shape[1] == 1 and values.ndim < 3:
        return shape[0] <= MOST_IN_A_ROW
    return max(shape) <= MOST


def matrices(values: np.ndarray) -> np.ndarray:
    """Return the matrix that is printed of an array: the first one of a stack."""
    while values.ndim > 2:
        values = values[0]
    return np.atleast_2d(values)


def numbers(values: np.ndarray) -> list[list[str]]:
    """Return the cells of a matrix, all in the same format, but for those that it would show as 0.

    >>> numbers(np.array([[0.5, -2.0]]))
    [['0.5000', '-2.0000']]
    >>> numbers(np.array([[1.0, 6e-6, 0.0]]))
    [['1.0000', '6.000e-06', '0']]
    """
    matrix = matrices(np.asarray(values))
    whole = bool((matrix == np.round(matrix)).all()) and np.abs(matrix).max(initial=0) < 1e6
    if whole:
        return [[str(int(x)) for x in row] for row in matrix]
    sizes = np.abs(matrix[np.isfinite(matrix) & (matrix != 0)])
    small = sizes.size and (sizes.max() < 1e-2 or sizes.max() >= 1e5)
    return [[_cell(float(x), ".3e" if small else ".4f") for x in row] for row in matrix]


def _cell(x: float, form: str) -> str:
    if not x:
        return "0"
    text = f"{x:{form}}"
    hidden = math.isfinite(x) and not any(c in "123456789" for c in text.partition("e")[0])
    return f"{x:.3e}" if hidden else text


def number(x: float) -> str:
    """Return a number as text.

    >>> number(0.25), number(-6e-6), number(1000.0), number(math.inf)
    ('0.25', '-6.0e-06', '1000', 'inf')
    """
    if math.isnan(x):
        return "nan"
    return "0" if x == 0 else f"{x:.1e}" if abs(x) < 1e-3 else f"{x:.4g}"


def size(letters: str) -> str:
    """Return the names of the sizes of index letters: (N, K) for "ns".

    >>> size("ns"), size("j"), size("")
    ('(N, K)', '(J,)', '()')
    """
    names = ["K" if i in "ks" else i.upper() for i in letters]
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def shape(tensor: Tensor) -> str:
    """Return the shape in letters and numbers."""
    return f"{size(tensor.letters)} = {tuple(tensor.shape)}" if tensor.letters else "a number"


def norm(values: np.ndarray) -> str:
    """Return the Frobenius norm as text, for arrays too large to print."""
    return f"norm {number(float(np.sqrt(np.sum(np.square(values.astype(float))))))}"


def way_rows(explanation: Explanation) -> list[tuple[Way, str, str]]:
    """Return each way, the wrong one last, with its differences from the gradients of training."""
    w = explanation.ways
    rows = []
    with np.errstate(all="ignore"):
        differences = {way.name: way.differences(*w.trained) for way in (*w.ways, w.wrong)}
    for way in (*w.ways, w.wrong):
        dz, dW = differences[way.name]
        rows.append((way, number(dz), number(dW)))
    return rows


def ways_note(explanation: Explanation) -> str:
    """Return notes on the table of ways: entries not computed, and values that are not finite."""
    notes = []
    visited, total = explanation.ways.entries
    if visited != total:
        notes.append(f"Loops and differences computed at least {visited:,} of {total:,} entries.")
    if not math.isfinite(explanation.ways.spread):
        notes.append(
            "Where the difference is nan, a probability has rounded to 0 or 1 and its gradient is "
            "infinite; the fused form never divides by it."
        )
    return " ".join(notes)


def place(step: Step) -> str:
    """Return where a step is: its layer, its way, and that training does not run it."""
    way = {"": "", "jacobian": ", through J", "fused": ", fused"}[step.way]
    return f"{step.place}{way}{'' if step.trained else ', not run'}"


def row_text(explanation: Explanation) -> str:
    """Return the first row of a table as it was written; "" of rows without columns."""
    columns = explanation.example.columns if explanation.example else ()
    row = ", ".join(f"{name} {value or 'missing'}" for name, value in columns[:MOST_COLUMNS])
    more = len(columns) - MOST_COLUMNS
    return row and f"The row: {row}{f' and {more} more' if more > 0 else ''}."


def two_ways_text(explanation: Explanation) -> str:
    """Return what is between the two ways, and the loss on both; "" where there is one way."""
    both = explanation.two_ways
    if both is None:
        return explanation.one_way
    which = "The first example. " if len(both.fused) > 1 else ""
    through, fused = map(number, both.losses)
    loss = f"{fused} on both" if through == fused else f"{through} through $a$, {fused} from $z$"
    trained = "fused form" if both.trained == "fused" else "way through the Jacobian"
    return f"{which}{both.text} The loss $C$ is {loss}. Training takes the {trained}."


def bridge_text(explanation: Explanation) -> str:
    """Return what the two conventions have in common, and how far they are apart."""
    column = explanation.steps[0].column()
    swapped = f"; in index notation each pair of letters is swapped, ${column.formula}$"
    swapped = swapped if column.formula != explanation.steps[0].formula else ""
    most = number(explanation.bridge.difference)
    return f"$(x W)ᵀ = Wᵀ xᵀ${swapped}. Computed both ways, $z$ and $dW$ differ by at most {most}."


def nudge_rows(explanation: Explanation) -> list[tuple[str, ...]]:
    """Return a heading and a row for each class: a, what J predicts and what moves, by function."""
    play, nudges = explanation.playground, explanation.nudges
    columns = [("class", *play.classes)]
    for nudge in nudges:
        for name, values in (
            (f"{nudge.function} $a$", nudge.a),
            ("predicted by $J$", nudge.predicted),
            ("measured", nudge.actual),
        ):
            columns.append((name, *(row[0] for row in numbers(values[:, None]))))
    return list(zip(*columns, strict=True))


def nudge_text(explanation: Explanation) -> str:
    """Return what is nudged, and what to see."""
    nudge = explanation.nudges[0]
    name = explanation.playground.classes[nudge.s]
    # A dollar sign would begin a formula; the table has the name.
    called = "" if name == str(nudge.s) or "$" in name else f" ({name})"
    return (
        f"Raise $z_s$ of one class, $s = {nudge.s}${called}, by {nudge.by:g}: $J_nks$ times "
        f"{nudge.by:g} says by how much each $a_nk$ moves. Of the softmax all move, by changes "
        "that sum to 0; of the sigmoid, on the same logits, only its own."
    )
