"""cuBLAS and cuBLASLt as their manuals describe them, on host memory: column-major."""

import ctypes
import functools
import itertools

import numpy as np

from xpnet.kernels.cuda.matmul import Algorithm, Heuristic

STORAGE = {0: "float32", 1: "float64", 2: "float16", 14: "uint16"}  # by cudaDataType_t
INVALID_VALUE, EXECUTION_FAILED, NOT_SUPPORTED = 7, 13, 15  # cublasStatus_t
# By compute type and type of factors, what is summed in: float for 16 and 32 bits, TF32 for 32.
WIDE = {(68, 0): "f4", (68, 2): "f4", (68, 14): "f4", (77, 0): "f4", (70, 1): "f8"}


def widened(x, dtype):
    """16 bits as the numbers they are; those of bfloat16 are the upper half of a float32."""
    if x.dtype == np.uint16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(dtype)


def rounded(x, dtype):
    """The nearest numbers that ``dtype`` stores, uint16 being the bits of bfloat16."""
    if dtype != np.uint16:
        return x.astype(dtype)
    # 1.5 times 2^52 units of bfloat16's last bit, added and taken away, round a float64 there.
    finite = np.where(np.isfinite(x), x, 0.0).astype(np.float64)
    magic = np.ldexp(1.5, np.maximum(np.frexp(finite)[1] - 8, -133) + 52)
    near = np.where(np.isfinite(x), (finite + magic) - magic, x).astype(np.float32)
    return (np.ascontiguousarray(near).view(np.uint32) >> 16).astype(np.uint16)


def vector(address, size, kind):
    """The numbers at an address."""
    dtype = np.dtype(STORAGE[kind])
    raw = (ctypes.c_char * (size * dtype.itemsize)).from_address(address)
    return np.frombuffer(raw, dtype)


def matrix(address, rows, columns, ld, kind):
    """A column-major matrix."""
    return vector(address, ld * columns, kind).reshape(columns, ld).T[:rows]


def scalars(wide, *addresses):
    """alpha and beta, of which xpnet has only some."""
    kind = {"f4": 0, "f8": 1}[wide]
    found = [vector(address, 1, kind)[0] for address in addresses]
    assert found in ([1.0, 0.0], [1.0, 1.0])
    return found


def fits(kind, kind_out):
    """Whether the output has the type of the factors, or that of the sums."""
    return kind_out in (kind, 1 if kind == 1 else 0)


class Cublas:
    """cuBLAS: a handle has a stream and a workspace, which it forgets with another stream."""

    def __init__(self):
        self.stream = self.workspace = self.computed_in = self.mode = None
        self.workspaces = {}  # by handle
        self.products = self.destroyed = 0

        def create(handle):
            handle._obj.value = 0xB1A5 + len(self.workspaces)
            self.workspaces[handle._obj.value] = None
            return 0

        def destroy(handle):
            self.destroyed += 1
            return 0

        def set_mode(handle, mode):
            self.mode = mode
            return 0

        def set_stream(handle, stream):
            self.stream, self.workspaces[handle.value] = stream, None
            return 0

        def set_workspace(handle, address, size):
            assert (address, size) not in self.workspaces.values()
            self.workspaces[handle.value] = (address, size)
            return 0

        def gemm(handle, ta, tb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type,
                 ldc, compute, algorithm):  # fmt: skip
            assert self.workspaces[handle.value] is not None
            assert algorithm == -1
            wide = WIDE[compute, a_type]
            assert a_type == b_type
            assert fits(a_type, c_type)
            rows_a, rows_b = (k if ta else m), (n if tb else k)
            if lda < rows_a or ldb < rows_b or ldc < m:
                return INVALID_VALUE
            A = widened(matrix(a, rows_a, m if ta else k, lda, a_type), wide)
            B = widened(matrix(b, rows_b, k if tb else n, ldb, b_type), wide)
            C = matrix(c, m, n, ldc, c_type)
            factors = scalars(wide, alpha, beta)
            with np.errstate(invalid="ignore", over="ignore"):
                product = (A.T if ta else A) @ (B.T if tb else B)
                # Where beta is 0 cuBLAS does not read C, which may be NaN.
                C[...] = rounded(product + C if factors[1] else product, C.dtype)
            self.products += 1
            self.computed_in = compute
            return 0

        self.cublasCreate_v2, self.cublasDestroy_v2 = create, destroy
        self.cublasSetMathMode, self.cublasSetStream_v2 = set_mode, set_stream
        self.cublasSetWorkspace_v2, self.cublasGemmEx = set_workspace, gemm


NONE, IN_PLACE, COMPUTE_TYPE, OUTPUT_TYPE = 0, 1, 2, 4  # cublasLtReductionScheme_t
BIAS, RELU_BIAS = 4, 6  # cublasLtEpilogue_t
MAGIC = 0xA160
SIZES = {  # of attributes, in bytes
    "MatmulDesc": {3: 4, 4: 4, 7: 4, 8: 8},
    "MatmulPreference": {1: 8, 3: 4, 5: 4, 6: 4, 7: 4, 8: 4},
}
DEFAULTS = {
    "MatmulDesc": {3: 0, 4: 0, 7: 1, 8: 0},
    "MatmulPreference": {1: 0, 3: 7, 5: 256, 6: 256, 7: 256, 8: 256},
}


class Kind:
    """An algorithm: how many parts of the sum it adds up, how, and what it needs."""

    def __init__(self, parts=1, reduction=NONE, aligned=1, keeps_nan=True, status=0):
        self.parts, self.reduction, self.aligned = parts, reduction, aligned
        self.keeps_nan, self.status = keeps_nan, status

    def workspace(self, m, n):
        return 8 * m * n * self.parts if self.parts > 1 else 0


# In the order of their expected times. Their sums differ in the last bits.
KINDS = (
    Kind(),
    Kind(2, COMPUTE_TYPE),
    Kind(2, IN_PLACE),
    Kind(3, COMPUTE_TYPE, keeps_nan=False),
    Kind(2, OUTPUT_TYPE),
    Kind(4, COMPUTE_TYPE, aligned=16),
    Kind(status=EXECUTION_FAILED),
    Kind(5, COMPUTE_TYPE),
)


class CublasLt:
    """cuBLASLt. ``ran`` has the index of each algorithm that ran, and its epilogue."""

    def __init__(self, version=130100, kinds=KINDS):
        self.version, self.kinds, self.capturing = version, kinds, False
        self.objects, self.ran, self.asked, self.computed_in = {}, [], 0, None
        for kind in ("MatmulDesc", "MatmulPreference", "MatrixLayout"):
            self._offer(f"{kind}Create", functools.partial(self._create, kind))
            self._offer(f"{kind}Destroy", functools.partial(self._destroy, kind))
            self._offer(f"{kind}SetAttribute", functools.partial(self._set, kind))
        self._offer("Create", functools.partial(self._create, "Handle"))
        self._offer("Destroy", functools.partial(self._destroy, "Handle"))
        self._offer("MatmulAlgoGetHeuristic", self._heuristic)
        self._offer("MatmulAlgoCheck", self._check)
        self._offer("Matmul", self._matmul)
        self._offer("GetVersion", lambda: self.version)

    def _offer(self, name, function):
        """A function as ctypes has it: it may be told its types, and then takes as many."""

        def called(*given):
            assert name == "GetVersion" or len(given) == len(called.argtypes), name
            return function(*(getattr(x, "value", x) for x in given))

        setattr(self, f"cublasLt{name}", called)

    def _create(self, kind, to, *given):
        made = 0x100 + 16 * len(self.objects)
        self.objects[made] = [kind, given, dict(DEFAULTS.get(kind, {}))]
        to._obj.value = made
        return 0

    def _destroy(self, kind, made):
        assert self.objects[made][0] == kind
        self.objects[made] = ["destroyed", None, None]
        return 0

    def _of(self, kind, made):
        found, given, attributes = self.objects[made]
        assert found == kind, f"a {kind} is {found}"
        return given, attributes

    def alive(self, kind):
        return sum(found == kind for found, *_ in self.objects.values())

    def _set(self, kind, made, attribute, address, size):
        _, attributes = self._of(kind, made)
        if SIZES[kind].get(attribute) != size:
            return INVALID_VALUE
        number = {4: ctypes.c_uint32, 8: ctypes.c_uint64}[size].from_address(address)
        attributes[attribute] = number.value
        return 0

    def _problem(self, handle, descriptor, *layouts):
        """What is to be computed, or a status."""
        self._of("Handle", handle)
        (compute, scale), attributes = self._of("MatmulDesc", descriptor)
        (a, b, c, d) = (self._of("MatrixLayout", layout)[0] for layout in layouts)
        ta, tb, epilogue, bias = (attributes[i] for i in (3, 4, 7, 8))
        assert c == d
        if (compute, a[0]) not in WIDE or a[0] != b[0] or not fits(a[0], d[0]):
            return NOT_SUPPORTED
        if scale != (1 if compute == 70 else 0):
            return NOT_SUPPORTED
        if epilogue not in (1, BIAS, RELU_BIAS) or (epilogue != 1 and compute == 70):
            return NOT_SUPPORTED  # as for float64, which has no epilogues
        m, k = a[1:3] if not ta else a[2:0:-1]
        other, n = b[1:3] if not tb else b[2:0:-1]
        if other != k or d[1:3] != (m, n) or any(x[3] < x[1] for x in (a, b, d)):
            return INVALID_VALUE
        if epilogue != 1 and not bias:
            return INVALID_VALUE
        return (compute, a, b, d, ta, tb, epilogue, bias, m, n, k)

    def _heuristic(self, handle, descriptor, a, b, c, d, preference, wanted, found, count):
        assert not self.capturing, "cuBLASLt is asked for algorithms during a capture"
        problem = self._problem(handle, descriptor, a, b, c, d)
        if isinstance(problem, int):
            return problem
        if wanted <= 0:
            return INVALID_VALUE
        self.asked += 1
        _, attributes = self._of("MatmulPreference", preference)
        m, n = problem[8:10]
        least = min(attributes[i] for i in range(5, 9))
        results = (Heuristic * wanted).from_address(found)
        rank = 0
        for i, kind in enumerate(self.kinds):
            suits = kind.aligned <= least and kind.workspace(m, n) <= attributes[1]
            if rank < wanted and suits and (not kind.reduction or kind.reduction & attributes[3]):
                results[rank].algorithm = Algorithm(MAGIC, self.version, i, problem[0])
                results[rank].workspace, results[rank].status = kind.workspace(m, n), 0
                rank += 1
        if rank < wanted:  # one whose status says that it cannot be used
            results[rank].algorithm, results[rank].status = Algorithm(), NOT_SUPPORTED
            rank += 1
        ctypes.c_int.from_address(count).value = rank
        return 0

    def _kind(self, algorithm, problem):
        """The algorithm at an address, or a status."""
        magic, version, index, compute, *_ = Algorithm.from_address(algorithm)
        if (magic, version, compute) != (MAGIC, self.version, problem[0]):
            return INVALID_VALUE
        return NOT_SUPPORTED if index >= len(self.kinds) else self.kinds[index]

    def _check(self, handle, descriptor, a, b, c, d, algorithm, result):
        assert not self.capturing
        problem = self._problem(handle, descriptor, a, b, c, d)
        kind = problem if isinstance(problem, int) else self._kind(algorithm, problem)
        if isinstance(kind, int):
            return kind
        Heuristic.from_address(result).workspace = kind.workspace(*problem[8:10])
        return 0

    def _matmul(self, handle, descriptor, alpha, a, layout_a, b, layout_b, beta, c, layout_c, d,
                layout_d, algorithm, workspace, size, stream):  # fmt: skip
        layouts = layout_a, layout_b, layout_c, layout_d
        problem = self._problem(handle, descriptor, *layouts)
        kind = problem if isinstance(problem, int) else self._kind(algorithm, problem)
        if isinstance(kind, int):
            return kind
        compute, A, B, D, ta, tb, epilogue, bias, m, n, k = problem
        needed = kind.workspace(m, n)
        if needed > size or workspace % 16:
            return INVALID_VALUE
        if kind.status:
            return kind.status
        assert not any(address % kind.aligned for address in (a, b, c, d))
        wide = WIDE[compute, A[0]]
        factors = scalars(wide, alpha, beta)
        left, right = (
            widened(matrix(at, *layout[1:], layout[0]), wide) for at, layout in ((a, A), (b, B))
        )
        left, right = (left.T if ta else left), (right.T if tb else right)
        with np.errstate(invalid="ignore", over="ignore"):
            cuts = np.linspace(0, k, kind.parts + 1).astype(int)
            parts = [left[:, i:j] @ right[i:j] for i, j in itertools.pairwise(cuts)]
            result = functools.reduce(np.add, parts)
            if factors[1]:
                result = result + widened(matrix(c, m, n, D[3], D[0]), wide)
            if epilogue != 1:  # the bias has the type of D
                result = result + widened(vector(bias, m, D[0]), wide)[:, None]
            if epilogue == RELU_BIAS:
                result = np.maximum(result, 0) if kind.keeps_nan else np.fmax(result, 0)
            out = matrix(d, m, n, D[3], D[0])
            out[...] = rounded(result, out.dtype)
        ctypes.memset(workspace, 0xFF, needed)
        self.ran.append((self.kinds.index(kind), epilogue))
        self.computed_in, self.stream = compute, stream
        return 0
