"""What this card does at best, measured in this run: copies, and large products.

python -m gpu.rates FILE
"""

import sys
from functools import partial
from typing import Any

import numpy as np

from gpu.card import card, clocks, clocks_line
from gpu.keeping import Kept
from gpu.subject import SHRINK, possible
from xpnet.bench import Setting
from xpnet.bench.launches import averaged

COPIED = (1 << 30) // SHRINK**2  # bytes
WIDTH = 8192 // SHRINK
PRECISIONS = ("bfloat16", "float16", "tf32", "float32")


def executor_in(precision: str) -> Any:
    """Return the executor of a precision; a rehearsal has no TF32."""
    return Setting("cuda", possible(precision)).executor()


def copies() -> float:
    """Return GB/s of a copy on the device: bytes read and written."""
    executor = executor_in("float32")
    with executor.active():
        host = np.ones(COPIED // 4, np.float32)
        a, b = executor.place(host), executor.place(host)
        spent = averaged(lambda: executor.copy(b, a), card().synchronize)
    return 2 * COPIED / spent / 1e3


def products(precision: str) -> float:
    """Return TFLOP/s of a square product, of normally distributed numbers."""
    executor = executor_in(precision)
    with executor.active():
        drawn = np.random.default_rng(0).standard_normal(1 << 20, np.float32)
        host = np.resize(drawn, (WIDTH, WIDTH))
        if executor.stored == "uint16":  # bfloat16's bits
            host = (host.view(np.uint32) >> 16).astype(np.uint16)
        elif executor.stored != "float32":
            host = host.astype(executor.stored)
        a, b = executor.place(host), executor.place(host)
        out = executor.empty((WIDTH, WIDTH), executor.stored)
        spent = averaged(executor.product(a, b, out), card().synchronize)
    return 2 * WIDTH**3 / spent / 1e6


def main(file: str) -> int:
    """Measure all."""
    kept, before = Kept(file), clocks()
    for what, rate, unit in (
        ("a copy on the device", copies, "GB/s"),
        *((f"{WIDTH}³ in {p}", partial(products, p), "TFLOP/s") for p in PRECISIONS),
    ):
        try:
            found = rate()
        except Exception as error:  # continue with the next one
            kept.miss(f"{what}: {type(error).__name__}: {error}")
            continue
        kept.put(**{what: found})
        print(f"{what}: {found:,.1f} {unit}", flush=True)
    print(clocks_line(before, clocks()))
    return kept.code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
