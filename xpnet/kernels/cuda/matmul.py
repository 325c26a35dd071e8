"""A product as cuBLASLt describes it, and the algorithms that it has for that."""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

from xpnet.kernels.cuda.blas import TYPES, WORKSPACE_BYTES, Library, Numbers, Run, product
from xpnet.typing import Array

__all__ = ["SIGNATURES", "Algorithm", "Matmul", "Problem", "version"]

MOST = 12  # algorithms that are asked for

# cublasLt.h: attributes of a matmul's descriptor, and of what is asked of its algorithms
TRANSPOSE_A, TRANSPOSE_B, EPILOGUE, BIAS = 3, 4, 7, 8
MOST_WORKSPACE, REDUCTIONS, ALIGNMENT_A = 1, 3, 5
RELU, ADDS_BIAS = 2, 4  # bits of a cublasLtEpilogue_t
# cublasLtReductionScheme_t: parts of a sum are added up in the compute type, in a step of its own.
# In place they would be added up in any order, in the output's type to fewer digits.
IN_COMPUTE_TYPE = 2
ALIGNED = 256  # bytes; cuBLASLt asks for no more
NOT_SUPPORTED = 15  # cublasStatus_t
_P, _I, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
SIGNATURES: dict[str, list[Any]] = {
    "cublasLtCreate": [_P],
    "cublasLtDestroy": [_P],
    "cublasLtMatmulDescCreate": [_P, _I, _I],
    "cublasLtMatmulDescDestroy": [_P],
    "cublasLtMatmulDescSetAttribute": [_P, _I, _P, _SIZE],
    "cublasLtMatrixLayoutCreate": [_P, _I, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64],
    "cublasLtMatrixLayoutDestroy": [_P],
    "cublasLtMatmulPreferenceCreate": [_P],
    "cublasLtMatmulPreferenceDestroy": [_P],
    "cublasLtMatmulPreferenceSetAttribute": [_P, _I, _P, _SIZE],
    "cublasLtMatmulAlgoGetHeuristic": [_P, _P, _P, _P, _P, _P, _P, _I, _P, _P],
    "cublasLtMatmulAlgoCheck": [_P, _P, _P, _P, _P, _P, _P, _P],
    "cublasLtMatmul": [_P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _SIZE, _P],
}
Algorithm = ctypes.c_uint64 * 8  # cublasLtMatmulAlgo_t


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", Algorithm),
        ("workspace", _SIZE),
        ("status", _I),
        ("waves", ctypes.c_float),
        ("reserved", _I * 4),
    )


class Problem(NamedTuple):
    """All that the choice of an algorithm depends on, beside the GPU and the library."""

    compute: int
    types: tuple[int, int]  # of a and b, and of out
    transposed: tuple[int, int]
    shape: tuple[int, int, int]  # m, n, k
    leading: tuple[int, int, int]
    aligned: tuple[int, ...]  # bytes
    epilogue: int  # a cublasLtEpilogue_t, or 0

    def __str__(self) -> str:
        pairs = zip(self._fields, self, strict=True)
        return "; ".join(f"{name} {value}" for name, value in pairs)


def version(library: Any) -> int:
    """Return the version of cuBLASLt, such as 130100 for 13.1."""
    library.cublasLtGetVersion.restype = _SIZE
    return library.cublasLtGetVersion()


class Matmul:
    """out = a b, or with a ``bias`` for each column out = a b + bias; then ReLU if ``relu``.

    The matrices are those of :func:`~xpnet.kernels.cuda.blas.product`; the bias has out's dtype.
    """

    def __init__(
        self,
        library: Library,
        address: Callable[[Array], int],
        numbers: Numbers,
        a: Array,
        b: Array,
        out: Array,
        bias: Array | None = None,
        *,
        relu: bool = False,
    ) -> None:
        self._library, self._address, self._numbers = library, address, numbers
        self.arrays = (a, b, out, bias)  # alive: cuBLASLt only has their addresses
        p, kind, kind_out = product(a, b, out), TYPES[str(a.dtype)], TYPES[str(out.dtype)]
        at = [address(x) for x in (b, a, out)]
        epilogue = 0 if bias is None else ADDS_BIAS | (RELU if relu else 0)
        self.problem = Problem(
            numbers.compute(str(a.dtype)), (kind, kind_out), (p.transpose_a, p.transpose_b),
            (p.m, p.n, p.k), (p.lda, p.ldb, p.ldc),
            tuple(map(_alignment, at if bias is None else [*at, address(bias)])), epilogue,
        )  # fmt: skip
        self.descriptor = self._made(self, "MatmulDesc", self.problem.compute, numbers.kind)
        for attribute, transposed in ((TRANSPOSE_A, p.transpose_a), (TRANSPOSE_B, p.transpose_b)):
            self._set("MatmulDesc", self.descriptor, attribute, ctypes.c_int32(transposed))
        if bias is not None:
            self._set("MatmulDesc", self.descriptor, EPILOGUE, ctypes.c_uint32(epilogue))
            self._set("MatmulDesc", self.descriptor, BIAS, ctypes.c_void_p(address(bias)))
        sizes = [
            (kind, *((p.k, p.m) if p.transpose_a else (p.m, p.k)), p.lda),
            (kind, *((p.n, p.k) if p.transpose_b else (p.k, p.n)), p.ldb),
            (kind_out, p.m, p.n, p.ldc),
        ]
        self.layouts = [self._made(self, "MatrixLayout", *size) for size in sizes]

    def _made(self, owner: object, kind: str, *given: int) -> ctypes.c_void_p:
        names = f"cublasLt{kind}Create", f"cublasLt{kind}Destroy"
        return self._library.made(owner, *names, *given)

    def _set(self, kind: str, made: ctypes.c_void_p, attribute: int, value: Any) -> None:
        given = made, attribute, ctypes.addressof(value), ctypes.sizeof(value)
        self._library.call(f"cublasLt{kind}SetAttribute", *given)

    def algorithms(self, handle: ctypes.c_void_p) -> list[bytes]:
        """Return the algorithms in the order of their expected times; none may be there."""
        wanted = self._made(owner := _Owner(), "MatmulPreference")
        self._set("MatmulPreference", wanted, MOST_WORKSPACE, ctypes.c_uint64(WORKSPACE_BYTES))
        self._set("MatmulPreference", wanted, REDUCTIONS, ctypes.c_uint32(IN_COMPUTE_TYPE))
        a, b, out = self.problem.aligned[:3]
        for i, least in enumerate((a, b, out, out)):
            self._set("MatmulPreference", wanted, ALIGNMENT_A + i, ctypes.c_uint32(least))
        found, count = (Heuristic * MOST)(), ctypes.c_int()
        status = self._library.raw.cublasLtMatmulAlgoGetHeuristic(
            handle, self.descriptor, *self._four_layouts, wanted, MOST, ctypes.addressof(found),
            ctypes.addressof(count),
        )  # fmt: skip
        del owner
        if status not in (0, NOT_SUPPORTED):
            self._library.fail("cublasLtMatmulAlgoGetHeuristic", status)
        return [bytes(h.algorithm) for h in found[: count.value] if h.status == 0]

    def takes(self, handle: ctypes.c_void_p, algorithm: bytes) -> bool:
        """Return whether cuBLASLt would run an algorithm, in our workspace."""
        found, copy = Heuristic(), Algorithm.from_buffer_copy(algorithm)
        status = self._library.raw.cublasLtMatmulAlgoCheck(
            handle, self.descriptor, *self._four_layouts, ctypes.addressof(copy),
            ctypes.addressof(found),
        )  # fmt: skip
        return not status and found.workspace <= WORKSPACE_BYTES

    @property
    def _four_layouts(self) -> list[ctypes.c_void_p]:
        """Those of A, B, C and D: C, which is added to, is like D."""
        return [*self.layouts, self.layouts[2]]

    def run(
        self,
        handle: ctypes.c_void_p,
        algorithm: Any,
        workspace: Array,
        *,
        add: bool = False,
        to: Array | None = None,
    ) -> Run:
        """Return a function of a stream's pointer; the ``algorithm`` may still be replaced.

        With ``add`` the product is added to out. ``to`` takes the result, or else out does.
        """
        a, b, out, _ = self.arrays
        A, B, C = self.layouts
        numbers, address, call = self._numbers, self._address, self._library.raw.cublasLtMatmul
        given = (
            handle, self.descriptor, numbers.one, address(b), A, address(a), B,
            numbers.one if add else numbers.zero, address(out), C,
            address(out if to is None else to), C, ctypes.addressof(algorithm), address(workspace),
            workspace.nbytes,
        )  # fmt: skip
        fail = self._library.fail

        def run(stream: int, kept: Any = (self, algorithm, workspace, to)) -> None:
            if status := call(*given, stream):
                fail("cublasLtMatmul", status)

        return run


class _Owner:
    """Something that an object of the library is destroyed with."""


def _alignment(address: int) -> int:
    return min(address & -address, ALIGNED)
