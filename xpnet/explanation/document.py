"""An explanation as plain data, for other programs."""

from typing import Any

import numpy as np

from xpnet.explanation.model import Explanation, Step, Tensor, Way

__all__ = ["MOST", "document"]

MOST = 10_000  # numbers of an array that is written out


def document(explanation: Explanation) -> dict[str, Any]:
    """Return title, setting, steps, ways and the lines of code: dicts, lists, texts and numbers.

    Of each step these are its formula, in the notation of :mod:`xpnet.explanation.notation`, the
    NumPy expression that evaluates to its result, the code that runs, and the arrays with a letter
    for each axis. An array has its norm, and its ``values``, or None where these are more than
    ``MOST``.

    >>> from xpnet.explanation import explain
    >>> step = next(s for s in document(explain())["steps"] if s["result"]["name"] == "J")
    >>> step["formula"], step["result"]["letters"], step["result"]["shape"]
    ('J_nks = a_nk (δ_ks - a_ns)', 'nks', [1, 3, 3])
    """
    e, two, example = explanation, explanation.two_ways, explanation.example
    return {
        "title": e.title,
        "setting": dict(e.setting),
        "example": None if example is None else {
            "text": example.text,
            "columns": dict(example.columns),
            "label": example.label,
            "answers": dict(example.answers),
        },
        "letters": [letter._asdict() for letter in e.legend],
        "steps": [_step(step) for step in e.steps],
        "opening": e.opening,
        "two_ways": e.one_way if two is None else {
            "jacobian": two.jacobian.tolist(),
            "fused": two.fused.tolist(),
            "difference": two.difference,
            "text": two.text,
        },
        "ways": [_way(way, e) for way in (*e.ways.ways, e.ways.wrong)],
        "why": [reason._asdict() for reason in e.derivation],
        "script": e.script,
    }  # fmt: skip


def _step(step: Step) -> dict[str, Any]:
    return {
        "place": step.place,
        "title": step.title,
        "direction": step.direction,
        "way": step.way,
        "trained": step.trained,
        "formula": step.formula,
        "matrix": step.matrix,
        "einsum": step.einsum,
        "code": [code._asdict() for code in step.code],
        "operands": [_tensor(tensor) for tensor in step.operands],
        "result": _tensor(step.result),
        "note": step.note,
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    values = np.asarray(tensor.values)
    return {
        "name": tensor.name,
        "letters": tensor.letters,
        "shape": list(values.shape),
        "norm": float(np.linalg.norm(values.astype(np.float64))),
        "values": values.tolist() if values.size <= MOST else None,
    }


def _way(way: Way, e: Explanation) -> dict[str, Any]:
    with np.errstate(all="ignore"):  # a probability of 0 gives inf or nan
        dz, dW = way.differences(*e.ways.trained)
    return {
        "name": way.name,
        "formula": way.formula,
        "function": way.function,
        "difference": {"dz": dz, "dW": dW},
    }
