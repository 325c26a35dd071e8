"""The matrix product of NumPy's own BLAS, called by its address from compiled code.

``np.matmul`` is the same routine behind a Python call. Here there is no such call, and the product
can add to its result, C = α A B + β C, which is an update of gradient descent.
"""

import ctypes
import functools
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["PLAIN", "TRANSPOSED", "call_gemm", "gemm_address"]

# Its names in NumPy's wheels, Accelerate and other builds of BLAS; NAMES take 64-bit integers.
NAMES = ("scipy_cblas_{}gemm64_", "cblas_{}gemm64_", "cblas_{}gemm$NEWLAPACK$ILP64")
NAMES_32 = ("scipy_cblas_{}gemm", "cblas_{}gemm")
ROWS, PLAIN, TRANSPOSED = 101, 111, 112  # cblas.h


@functools.cache
def gemm_address(dtype: str) -> int | None:
    """Return the address of ``cblas_?gemm`` for a dtype; None if it is missing or miscalculates."""
    letter = {"float32": "s", "float64": "d"}[dtype]
    # An int32 argument has a slot of 8 bytes, so an int64 can be passed for it; Apple packs them.
    packed = sys.platform == "darwin" and platform.machine() == "arm64"
    for library in _libraries():
        for name in NAMES if packed else (*NAMES, *NAMES_32):
            if (found := getattr(library, name.format(letter), None)) is not None:
                address = ctypes.cast(found, ctypes.c_void_p).value or 0
                return address if _multiplies(address, dtype) else None
    return None


def _libraries() -> list[ctypes.CDLL]:
    """NumPy's extension module, which also resolves its dependencies, and its wheel's BLAS."""
    package = Path(np.__file__).parent
    bundled = [*package.parent.glob("numpy.libs/*blas*"), *package.glob(".dylibs/*blas*")]
    extension = np._core._multiarray_umath.__file__  # type: ignore[attr-defined]
    return [ctypes.CDLL(str(path)) for path in [extension, *bundled]]


def _multiplies(address: int, dtype: str) -> bool:
    real: Any = {"float32": ctypes.c_float, "float64": ctypes.c_double}[dtype]
    enum, long, at = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    sizes, matrices = [enum, enum, enum, long, long, long], [at, long, at, long]
    arguments: list[Any] = [*sizes, real, *matrices, real, at, long]
    a, b = np.arange(6, dtype=dtype).reshape(2, 3), np.arange(12, dtype=dtype).reshape(3, 4)
    c = np.ones((2, 4), dtype)
    x, y, z = (v.ctypes.data for v in (a, b, c))
    gemm = ctypes.CFUNCTYPE(None, *arguments)(address)
    gemm(ROWS, PLAIN, PLAIN, 2, 4, 3, 2.0, x, 3, y, 4, 3.0, z, 4)
    return bool((c == 2.0 * (a @ b) + 3.0).all())


@intrinsic
def call_gemm(typingctx, address, ta, tb, M, N, K, alpha, A, lda, B, ldb, beta, C, ldc):
    """Call ``cblas_?gemm`` at ``address``; the type of alpha is that of the matrices."""
    enum, long, real = types.int32, types.int64, alpha
    c_types = [enum, enum, enum, long, long, long, real, long, long, long, long, real, long, long]
    signature = types.void(long, *c_types[1:])

    def generate(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        prototype = ir.FunctionType(ir.VoidType(), [context.get_value_type(t) for t in c_types])
        pointer = builder.inttoptr(values[0], prototype.as_pointer())
        builder.call(pointer, [ir.Constant(ir.IntType(32), ROWS), *values[1:]])
        return context.get_dummy_value()

    return signature, generate
