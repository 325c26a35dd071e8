"""The bytes of a kernel's launch: those of each array once where it is read, once where written.

What a kernel takes as ``const`` it reads. It writes the rest, and does not read it but for what is
named here.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from xpnet.kernels.cuda.sources import Kernel, parameters

__all__ = ["Access", "accesses", "traffic"]

Given = Mapping[str, Any]

TOTALS = {"total_loss", "total_denominator", "total_correct", "total_count", "bad_step", "turns"}
# By kernel, what is read before it is written.
READ_FIRST: dict[str, set[str]] = {
    "bias_activation": {"x"},
    "activation_backward": {"da"},
    "batch_norm": {"running_mean", "running_var"},
    "batch_norm_backward": {"da"},
    "layer_norm_backward": {"da"},
    "softmax_backward": {"da"},
    "softmax_cross_entropy": TOTALS,
    "elementwise_loss": TOTALS,
    "clip_factor": {"turns"},
    "next_scale": {"scale", "skipped"},
    "exchanged": {"a", "b"},
    "differences": {"count"},
    "update": {"p"},
}
# Gradients that a micro-batch adds to.
ADDED = {"sums", "out", "dgamma", "dbeta"}
# What is not written after all, in which case.
NOT_WRITTEN: dict[tuple[str, str], Callable[[Given], bool]] = {
    ("bias_activation", "x"): lambda given: given["a"] is not None and given["bias"] is None,
    ("activation_backward", "da"): lambda given: given["kept"] is None,
    ("batch_norm_backward", "da"): lambda given: not given["has_dx"],
    ("layer_norm_backward", "da"): lambda given: not given["has_dx"],
}


class Access(NamedTuple):
    """What a launch does with one of its arrays."""

    array: Any
    read: bool
    written: bool


def accesses(kernel: Kernel, given: tuple[Any, ...]) -> dict[str, Access]:
    """Return what a launch with these arguments reads and writes, by the parameters' names."""
    known = parameters(kernel)
    named: Given = {p.name: x for p, x in zip(known, given, strict=False)}
    label = "update" if kernel.file == "update.cu" and "p" in named else kernel.label
    found = {}
    for parameter in known:
        name, x = parameter.name, named.get(parameter.name)
        if not parameter.pointer or x is None:
            continue
        read, written = parameter.constant, False
        if not parameter.constant:
            left = NOT_WRITTEN.get((label, name))
            read = name in READ_FIRST.get(label, ()) or name.startswith("slot_")
            read |= name in ADDED and bool(named.get("add"))
            written = left is None or not left(named)
        found[name] = Access(x, read, written)
    return found


def traffic(kernel: Kernel, given: tuple[Any, ...]) -> int:
    """Return the bytes that a launch with these arguments moves."""
    found = accesses(kernel, given)
    moved = sum((access.read + access.written) * access.array.nbytes for access in found.values())
    if kernel.label == "begin_step":  # which also reads the batch, from wherever it is
        numbers = found["c"].array.dtype.itemsize
        for name in ("x", "rows", "weights"):
            moved += found[name].array.size * numbers if name in found else 0
        moved += found["labels"].array.nbytes if "labels" in found else 0
    return moved
