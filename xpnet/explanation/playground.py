"""The logits to play with: those of the first row, and what moves when one of them is nudged."""

import math
from typing import Literal

import numpy as np

from xpnet.backends import Backend
from xpnet.escape import escape
from xpnet.explanation.model import Nudge, Playground
from xpnet.explanation.output import Head, jacobian
from xpnet.explanation.subject import LABEL, B, Subject, W, X
from xpnet.nn import Activation, Sigmoid, Softmax
from xpnet.nn.losses import BinaryCrossEntropy, CrossEntropy, SoftmaxCrossEntropy
from xpnet.ops.softmax import softmax, softmax_jacobian

__all__ = ["nudges", "playground"]

MOST_CLASSES = 12  # more are not readable
RANGE = 10.0  # of the sliders, at least
BEYOND = 2.0  # the outermost logits
BY = 0.01  # of a nudge


def playground(subject: Subject, head: Head, backend: Backend) -> Playground:
    """Return the first row's logits and label, or the tiny example's if there are no classes.

    Of many classes the likeliest are shown with the label, and all others as one.
    """
    logits, label, classes, note = _row(subject, backend.to_host(head.z)[0])
    z = backend.asarray(logits[None, :])
    y = backend.asarray(np.array([label], dtype=np.int32))
    loss, dz = SoftmaxCrossEntropy()(z, y)
    a = softmax(z)
    da = CrossEntropy()(a, y)[1]
    host = backend.to_host
    J = host(softmax_jacobian(a))[0]
    wrong = host(da)[0] * np.diag(J)
    finite = logits[np.isfinite(logits)]
    low = min(-RANGE, math.floor(finite.min(initial=0.0) - BEYOND))
    high = max(RANGE, math.ceil(finite.max(initial=0.0) + BEYOND))
    return Playground(
        logits, label, tuple(map(escape, classes)), float(host(loss)), host(a)[0], J, host(dz)[0],
        wrong, float(low), float(high), note,
    )  # fmt: skip


def _row(subject: Subject, z: np.ndarray) -> tuple[np.ndarray, int, tuple[str, ...], str]:
    """Return logits, label, class names and a note."""
    K, y, of_classes = len(z), subject.y[0], subject.loss.predicts == "class"
    if isinstance(subject.loss, BinaryCrossEntropy) and K == 1 and float(y[0]) in (0.0, 1.0):
        note = "The sigmoid of $z$ is the softmax of 0 and $z$: here are the two logits."
        return np.array([0.0, z[0]]), int(y[0]), subject.classes or ("0", "1"), note
    if not of_classes or K < 2:
        note = "The loss is for values and not for one class of several, so these are the logits "
        note += "of the built-in example."
        logits = np.asarray(X[0]) @ np.asarray(W) + np.asarray(B)
        return logits, LABEL, tuple(map(str, range(len(logits)))), note
    classes = subject.classes or tuple(map(str, range(K)))
    label, note = int(np.argmax(y)) if np.ndim(y) else int(y), ""
    if np.ndim(y) and np.count_nonzero(y) > 1:
        note = "The target has several classes; the label here is the largest."
    if not 0 <= label < K:
        label, note = 0, f"The label {label} is ignored by the loss; here it is class 0."
    return (z, label, classes, note) if K <= MOST_CLASSES else _likeliest(z, label, classes, note)


def _likeliest(
    z: np.ndarray, label: int, classes: tuple[str, ...], note: str
) -> tuple[np.ndarray, int, tuple[str, ...], str]:
    """Return the likeliest classes with the label, and all others as one logit."""
    order = np.argsort(-z, kind="stable")
    kept = order[: MOST_CLASSES - 1]
    if label not in kept:
        kept[-1] = label
    kept = np.sort(kept)
    others = np.delete(z, kept)
    most = others.max()
    rest = most + np.log(np.exp(others - most).sum())
    note += f" The likeliest of {len(z)} classes with the label; the last is the other "
    note += f"{len(others)} together, with the logarithm of the sum of their $exp z_ns$ for a "
    note += "logit. So every probability is that of the whole softmax."
    names = (*(classes[k] for k in kept), f"the other {len(others)}")
    return np.append(z[kept], rest), int(np.flatnonzero(kept == label)[0]), names, note.strip()


def nudges(play: Playground, backend: Backend) -> tuple[Nudge, Nudge]:
    """Return what moves when the label's logit rises, of softmax and of the sigmoid."""
    return _nudge("softmax", Softmax(), play, backend), _nudge("sigmoid", Sigmoid(), play, backend)


def _nudge(
    function: Literal["softmax", "sigmoid"], layer: Activation, play: Playground, backend: Backend
) -> Nudge:
    host, s = backend.to_host, play.label
    moved = play.logits.copy()
    moved[s] += BY
    z, z_moved = (backend.asarray(logits[None, :]) for logits in (play.logits, moved))
    a, kept = layer.forward({}, z)
    J = host(jacobian(layer, kept, a))[0]
    after = host(layer.forward({}, z_moved)[0])[0]
    return Nudge(function, s, BY, host(a)[0], J, J[:, s] * BY, after - host(a)[0])
