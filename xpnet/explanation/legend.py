"""What each letter of the formulas is, with its shape in letters and numbers."""

from collections.abc import Iterable, Iterator, Sequence

from xpnet.explanation.model import Letter, Step, Tensor
from xpnet.explanation.output import Output
from xpnet.explanation.wording import shape

__all__ = ["legend"]

OF_OUTPUTS = ("z", "a", "l", "y", "v", "e", "da", "dl", "dz")

FUNCTIONS = {
    "softmax": "the probabilities, the softmax of $z$",
    "sigmoid": "the probabilities, the sigmoid of each $z$",
    "identity": "what an activation gives",
}
ARRAYS = {
    "x": "the inputs, a row for each example",
    "s": "the factors of the features",
    "E": "the table of an embedding",
    "h": "which row of the table a code reads, as a row with a single 1",
    "m": "the mask of dropout",
    "x̂": "the inputs with mean 0 and variance 1, before γ and β",
    "γ": "the scale of a normalisation",
    "β": "the shift of a normalisation",
    "α": "the slope of a parametric activation",
    "W": "the weights",
    "b": "the bias",
    "z": "the logits, $x W + b$",
    "g": "the slope of an activation, $∂a/∂z$ of each element",
    "a": "",
    "l": "the logarithm of the probabilities",
    "y": "the label, or the target",
    "v": "the target as a row, with a 1 at the label",
    "p": "the weight of the positive class",
    "ℓ": "the loss of each example",
    "e": "the loss of each element",
    "D": "the divisor of the loss",
    "C": "the loss of the batch, one number, of which all gradients are",
    "da": "$∂C/∂a$, the gradient of the loss with respect to $a$",
    "dl": "$∂C/∂l$, the gradient of the loss with respect to $l$",
    "J": "the Jacobian, $∂a_nk/∂z_ns$: how output $k$ moves with logit $s$",
    "δ": "1 where $k = s$, else 0",
    "dz": "$∂C/∂z$, the gradient with respect to the logits, $da J$",
    "dW": "$∂C/∂W$, with respect to the weights",
    "db": "$∂C/∂b$, with respect to the bias",
    "dx": "$∂C/∂x$, which the layer before receives",
    "dy": "$∂C/∂y$, the gradient with respect to a layer's output",
}


def legend(steps: Sequence[Step], out: Output) -> tuple[Letter, ...]:
    """Return the letters that occur in ``steps``: sizes, indices, arrays."""
    arrays = _arrays(steps)
    N, K = out.a.shape
    inputs = arrays["W"].shape[0]
    classes = out.name == "softmax"
    rows = [*_sizes(N, inputs, K, classes), *_indices(N, inputs, K, classes)]
    meanings = ARRAYS | {"a": FUNCTIONS[out.name]}
    if out.name == "identity":
        meanings |= {"z": "the outputs, $x W + b$", "dz": "$∂C/∂z$"}
    others = {k: f"$∂C/∂{k[1:]}$" for k in arrays if k[0] == "d" and k not in meanings}
    for name, meaning in (meanings | others).items():
        if (t := arrays.get(name)) is not None:
            if name in OF_OUTPUTS:  # J is K there
                t = t._replace(letters=t.letters.replace("j", "k").replace("s", "k"))
            symbol = f"{name}_{t.letters}" if t.letters else name
            rows.append(Letter("array", symbol, meaning, shape(t)))
    return tuple(rows)


def _arrays(steps: Iterable[Step]) -> dict[str, Tensor]:
    """Return an array of each name: that of the layer that is nearest to the loss."""
    found: dict[str, Tensor] = {}
    backward: dict[str, Tensor] = {}
    for step in steps:
        for t in (*step.operands, step.result):
            if step.direction == "forward":
                found[t.name] = t
            else:
                backward.setdefault(t.name, t)
    return backward | found


def _sizes(N: int, inputs: int, K: int, classes: bool) -> Iterator[Letter]:
    yield Letter("size", "N", "examples (rows) in the batch", str(N))
    yield Letter("size", "I", "inputs of the last layer", str(inputs))
    yield Letter("size", "J", "its outputs, which are K", str(K))
    yield Letter("size", "K", "classes" if classes else "outputs of the network", str(K))


def _indices(N: int, inputs: int, K: int, classes: bool) -> Iterator[Letter]:
    what = "a class" if classes else "an output of the network"
    for symbol, meaning, count in (
        ("n", "an example", N), ("i", "an input", inputs), ("j", "an output of a layer", K),
        ("k", what, K), ("s", f"{what}, too: of the logit that moves", K),
    ):  # fmt: skip
        yield Letter("index", symbol, meaning, f"0 to {count - 1}" if count > 1 else "0")
