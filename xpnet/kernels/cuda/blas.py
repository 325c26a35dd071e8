"""Matrix products through our own cuBLAS handle.

CuPy refuses to use cuBLAS while a stream is being captured. cuBLAS itself allows it if it is given
a workspace beforehand; otherwise it would allocate one.
"""

import ctypes
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from xpnet.errors import BackendError, how_to_install
from xpnet.typing import Array

__all__ = ["Blas", "Product", "find_cublas", "product"]

WORKSPACE_BYTES = 32 << 20  # as cuBLAS's documentation advises for Hopper; older GPUs need less

# library_types.h: the cudaDataType_t of an array's dtype; bfloat16 is stored as its bits
TYPES = {"float32": 0, "float64": 1, "float16": 2, "uint16": 14}
# cublas_api.h: the cublasComputeType_t in which products are summed
COMPUTE = {"float32": 68, "float64": 70}
COMPUTE_32F_FAST_TF32 = 77
DEFAULT_ALGORITHM = -1
# cublasMath_t: the default, but partial sums of a 16-bit product are not rounded to 16 bits
WIDE_REDUCTIONS = 16
_SCALARS = {"float32": ctypes.c_float, "float64": ctypes.c_double}
_P, _I = ctypes.c_void_p, ctypes.c_int
_SIGNATURES = {
    "cublasCreate_v2": [_P],
    "cublasDestroy_v2": [_P],
    "cublasSetMathMode": [_P, _I],
    "cublasSetStream_v2": [_P, _P],
    "cublasSetWorkspace_v2": [_P, _P, ctypes.c_size_t],
    "cublasGemmEx": [_P, _I, _I, _I, _I, _I, _P, _P, _I, _I, _P, _I, _I, _P, _P, _I, _I, _I, _I],
}


class Product(NamedTuple):
    """The arguments of a column-major product with the same result in memory."""

    transpose_a: int
    transpose_b: int
    m: int
    n: int
    k: int
    lda: int
    ldb: int
    ldc: int


def product(a: Array, b: Array, out: Array) -> Product:
    """Express out (M, N) = a (M, K) b (K, N), row-major, as cuBLAS's outᵀ = bᵀ aᵀ: b comes first.

    Each of a and b may be the transpose of a contiguous matrix; out is contiguous.

    >>> import numpy as np
    >>> product(np.zeros((2, 3)).T, np.zeros((2, 5)), np.zeros((3, 5)))
    Product(transpose_a=0, transpose_b=1, m=5, n=3, k=2, lda=5, ldb=3, ldc=5)
    """
    (M, K), N = a.shape, b.shape[1]
    if b.shape[0] != K or out.shape != (M, N) or not out.flags.c_contiguous:
        msg = f"no product {a.shape} x {b.shape} into a contiguous {out.shape}"
        raise ValueError(msg)
    (ta, lda), (tb, ldb) = _operand(a), _operand(b)
    return Product(tb, ta, N, M, K, ldb, lda, N)


def _operand(x: Array) -> tuple[int, int]:
    """Whether a matrix is transposed, and its leading dimension.

    The latter is taken from the shape: the stride of an axis of length 1 is meaningless.
    """
    if x.flags.c_contiguous:
        return 0, x.shape[1]
    if x.flags.f_contiguous:
        return 1, x.shape[0]
    msg = "a product takes contiguous matrices or their transposes"
    raise ValueError(msg)


class Blas:
    """A cuBLAS handle with its workspace, for sums in one dtype; ``library`` is cuBLAS in ctypes.

    ``workspace`` is a device buffer of bytes; ``address`` gives the address of an array's data.
    """

    def __init__(
        self,
        library: Any,
        workspace: Array,
        address: Callable[[Array], int],
        dtype: str,
        *,
        tf32: bool = False,
    ) -> None:
        self._library, self._workspace, self._address = library, workspace, address
        for name, types in _SIGNATURES.items():
            getattr(library, name).argtypes = types
        self._compute, self._tf32 = COMPUTE[dtype], tf32 and dtype == "float32"
        self._one, self._zero = _SCALARS[dtype](1.0), _SCALARS[dtype](0.0)
        self._handle, self._stream = ctypes.c_void_p(), -1
        self._check("cublasCreate_v2", ctypes.byref(self._handle))
        destroyed = weakref.finalize(self, library.cublasDestroy_v2, self._handle)
        destroyed.atexit = False  # CUDA may be gone before Python is
        self._check("cublasSetMathMode", self._handle, WIDE_REDUCTIONS)

    def product(
        self, a: Array, b: Array, out: Array, *, add: bool = False
    ) -> Callable[[int], None]:
        """Return a function of a stream's pointer that computes out = a b on that stream.

        With ``add``, out += a b. a and b have the same dtype, and out that or a wider one.
        """
        p, address = product(a, b, out), self._address
        kind, kind_out = TYPES[str(a.dtype)], TYPES[str(out.dtype)]
        tf32 = self._tf32 and str(a.dtype) == "float32"
        kept = (a, b, out)  # alive: cuBLAS only has their addresses
        arguments = (
            self._handle, p.transpose_a, p.transpose_b, p.m, p.n, p.k,
            ctypes.addressof(self._one), address(b), kind, p.lda, address(a), kind, p.ldb,
            ctypes.addressof(self._one if add else self._zero), address(out), kind_out, p.ldc,
            COMPUTE_32F_FAST_TF32 if tf32 else self._compute, DEFAULT_ALGORITHM,
        )  # fmt: skip
        gemm = self._library.cublasGemmEx

        def run(stream: int, kept: Any = kept) -> None:
            self.use(stream)
            if status := gemm(*arguments):
                _fail("cublasGemmEx", status)

        return run

    def use(self, stream: int) -> None:
        """Switch to a stream; that makes cuBLAS forget the workspace, so set it again."""
        if stream != self._stream:
            self._check("cublasSetStream_v2", self._handle, stream)
            address, size = self._address(self._workspace), self._workspace.nbytes
            self._check("cublasSetWorkspace_v2", self._handle, address, size)
            self._stream = stream

    def _check(self, function: str, *given: Any) -> None:
        if status := getattr(self._library, function)(*given):
            _fail(function, status)


def _fail(function: str, status: int) -> None:
    msg = f"{function} returned status {status}; see cublasStatus_t in cuBLAS's manual"
    raise BackendError(msg)


def find_cublas() -> Any:
    """Load cuBLAS from where CuPy would load it; raises BackendError if it is not there."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib  # type: ignore[import-not-found]

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except Exception as error:  # no pathfinder, no library, or one that does not load
        msg = f"cuBLAS cannot be loaded by itself ({type(error).__name__}): "
        msg += how_to_install("cupy")
        raise BackendError(msg) from error
