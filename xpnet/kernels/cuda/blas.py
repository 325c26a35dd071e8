"""Matrix products through our own cuBLAS handle.

CuPy refuses to use cuBLAS while a stream is being captured. cuBLAS itself allows it if it is given
a workspace beforehand; otherwise it would allocate one.
"""

import ctypes
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from xpnet.errors import BackendError, how_to_install
from xpnet.kernels.cuda.lanes import Call
from xpnet.typing import Array

__all__ = [
    "TYPES",
    "WORKSPACE_BYTES",
    "Blas",
    "Library",
    "Numbers",
    "Product",
    "Products",
    "Rest",
    "Run",
    "find_library",
    "product",
]

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
_SIGNATURES: dict[str, list[Any]] = {
    "cublasCreate_v2": [_P],
    "cublasDestroy_v2": [_P],
    "cublasSetMathMode": [_P, _I],
    "cublasSetStream_v2": [_P, _P],
    "cublasSetWorkspace_v2": [_P, _P, ctypes.c_size_t],
    "cublasGemmEx": [_P, _I, _I, _I, _I, _I, _P, _P, _I, _I, _P, _I, _I, _P, _P, _I, _I, _I, _I],
}

Run = Callable[[int], None]  # of a stream's pointer


class Rest:
    """What is left to do behind a product, unless ``is_done`` says that the product does it."""

    def __init__(self, apart: Call, is_done: Callable[[], bool] = bool) -> None:
        self._apart, self.is_done = apart, is_done

    def __call__(self) -> None:
        if not self.is_done():
            self._apart()


class Products(Protocol):
    """What computes products, one after another: on two streams at a time there are two of these.

    ``note`` says what it is, in a few words.
    """

    @property
    def note(self) -> str: ...

    def product(self, a: Array, b: Array, out: Array, *, add: bool = False) -> Run:
        """Return a function of a stream's pointer that computes out = a b on that stream.

        With ``add``, out += a b. a and b have the same dtype, and out that or a wider one.
        """
        ...

    def affine(
        self, a: Array, b: Array, bias: Array, out: Array, *, relu: bool, apart: Call
    ) -> tuple[Run, Rest]:
        """Return two functions that compute out = a b + bias, and then ReLU if ``relu``.

        ``apart`` does all but the product, in place. The second function calls it, unless the first
        one does all of it because that is faster.
        """
        ...

    def use(self, stream: int) -> None:
        """Prepare for a stream: to be called before that is captured."""
        ...


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


class Library:
    """A library in ctypes, whose functions return a cublasStatus_t; raises BackendError for it."""

    def __init__(self, library: Any, signatures: Mapping[str, list]) -> None:
        self.raw = library
        for name, types in signatures.items():
            getattr(library, name).argtypes = types

    def call(self, function: str, *given: Any) -> None:
        if status := getattr(self.raw, function)(*given):
            self.fail(function, status)

    @staticmethod
    def fail(function: str, status: int) -> None:
        msg = f"{function} returned status {status}; see cublasStatus_t in cuBLAS's manual"
        raise BackendError(msg)

    def made(self, owner: object, create: str, destroy: str, *given: Any) -> ctypes.c_void_p:
        """Make an object of the library, which is destroyed with its owner."""
        handle = ctypes.c_void_p()
        self.call(create, ctypes.byref(handle), *given)
        destroyed = weakref.finalize(owner, getattr(self.raw, destroy), handle)
        destroyed.atexit = False  # CUDA may be gone before Python is
        return handle


class Numbers:
    """The compute type and the scalars of products that are summed in ``dtype``."""

    def __init__(self, dtype: str, *, tf32: bool = False) -> None:
        self.dtype, self.kind, self._tf32 = dtype, TYPES[dtype], tf32 and dtype == "float32"
        self._kept = [_SCALARS[dtype](x) for x in (0.0, 1.0)]
        self.zero, self.one = map(ctypes.addressof, self._kept)

    def compute(self, dtype: str) -> int:
        """The cublasComputeType_t for factors of a dtype: TF32 is for float32 alone."""
        tf32 = self._tf32 and dtype == "float32"
        return COMPUTE_32F_FAST_TF32 if tf32 else COMPUTE[self.dtype]


class Blas:
    """:class:`Products` by a cuBLAS handle with its workspace; cuBLAS chooses the algorithms.

    ``library`` is cuBLAS in ctypes; ``workspace`` is a device buffer
    of bytes; ``address`` gives the address of an array's data.
    """

    note = "products by cuBLAS"

    def __init__(
        self,
        library: Any,
        workspace: Array,
        address: Callable[[Array], int],
        numbers: Numbers,
    ) -> None:
        self._library, self._workspace = Library(library, _SIGNATURES), workspace
        self._address, self._numbers, self._stream = address, numbers, -1
        self._handle = self._library.made(self, "cublasCreate_v2", "cublasDestroy_v2")
        self._library.call("cublasSetMathMode", self._handle, WIDE_REDUCTIONS)

    def product(self, a: Array, b: Array, out: Array, *, add: bool = False) -> Run:
        p, address, numbers = product(a, b, out), self._address, self._numbers
        kind, kind_out = TYPES[str(a.dtype)], TYPES[str(out.dtype)]
        arguments = (
            self._handle, p.transpose_a, p.transpose_b, p.m, p.n, p.k,
            numbers.one, address(b), kind, p.lda, address(a), kind, p.ldb,
            numbers.one if add else numbers.zero, address(out), kind_out, p.ldc,
            numbers.compute(str(a.dtype)), DEFAULT_ALGORITHM,
        )  # fmt: skip
        gemm, fail = self._library.raw.cublasGemmEx, self._library.fail

        def run(stream: int, kept: Any = (a, b, out)) -> None:  # cuBLAS only has their addresses
            self.use(stream)
            if status := gemm(*arguments):
                fail("cublasGemmEx", status)

        return run

    def affine(
        self, a: Array, b: Array, bias: Array, out: Array, *, relu: bool, apart: Call
    ) -> tuple[Run, Rest]:
        return self.product(a, b, out), Rest(apart)

    def use(self, stream: int) -> None:
        """Switch to a stream; that makes cuBLAS forget the workspace, so set it again."""
        if stream != self._stream:
            self._library.call("cublasSetStream_v2", self._handle, stream)
            address, size = self._address(self._workspace), self._workspace.nbytes
            self._library.call("cublasSetWorkspace_v2", self._handle, address, size)
            self._stream = stream


def find_library(name: str) -> Any:
    """Load "cublas" or "cublasLt" from where CuPy would; raises BackendError if it is not there."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib(name).abs_path)
    except Exception as error:  # no pathfinder, no library, or one that does not load
        msg = f"{name} cannot be loaded by itself ({type(error).__name__}): "
        msg += how_to_install("cupy")
        raise BackendError(msg) from error
