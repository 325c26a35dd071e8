"""An executor that runs xpnet's CUDA kernels on the CPU, compiled by g++; see cuda_on_cpu.h.

Its buffers lie between guards that `check_guards` reads, and begin as NaN, so that a kernel that
writes outside or reads what nobody wrote is found. A captured graph replays what was recorded, with
the arguments of that time; while it is recorded nothing may be allocated, copied or read.
"""

import ctypes
import shutil
import subprocess
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np

from xpnet.kernels.cuda.blas import Blas
from xpnet.kernels.cuda.executor import CaptureError
from xpnet.kernels.cuda.sources import arguments, signatures, source

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
GUARD = 64  # elements on each side of a buffer
POISON = {"f": np.nan, "i": -0x5A5A5A5B, "u": 0xA5A5A5A5}

if shutil.which("g++") is None:
    WHY_NOT = "g++ is not installed, which compiles the CUDA kernels for the CPU"
else:
    WHY_NOT = ""


@cache
def library(dtype, folder, planted=None):
    """Compile the kernels, once per folder and dtype; ``planted`` = (old, new) puts a bug in."""
    code = source(dtype)
    if planted is not None:
        assert code.count(planted[0]) == 1
        code = code.replace(*planted)
    cpp = folder / f"{dtype}_{abs(hash(planted))}.cpp"
    so = cpp.with_suffix(".so")
    launchers = "\n".join(f"LAUNCHER({name})" for name in signatures())
    cpp.write_text(f'#include "{HEADER}"\n{code}\n{launchers}\n')
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Werror"]
    done = subprocess.run(
        ["g++", *flags, "-Wno-unused-function", "-o", str(so), str(cpp)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(so))


class Cublas:
    """cuBLAS as its manual describes it, on host memory: column-major, and with a workspace."""

    def __init__(self):
        self.stream = self.workspace = None
        self.products = 0

        def create(handle):
            handle._obj.value = 0xB1A5
            return 0

        def set_stream(handle, stream):
            self.stream, self.workspace = stream, None
            return 0

        def set_workspace(handle, address, size):
            self.workspace = (address, size)
            return 0

        def gemm(handle, ta, tb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type,
                 ldc, compute, algorithm):  # fmt: skip
            assert handle.value == 0xB1A5
            assert self.workspace is not None
            assert algorithm == -1
            ctype = {(0, 68): ctypes.c_float, (0, 77): ctypes.c_float, (1, 70): ctypes.c_double}
            ctype = ctype[a_type, compute]
            assert a_type == b_type == c_type
            rows_a, rows_b = (k if ta else m), (n if tb else k)
            if lda < rows_a or ldb < rows_b or ldc < m:
                return 7  # CUBLAS_STATUS_INVALID_VALUE

            def matrix(address, rows, columns, ld):
                flat = np.ctypeslib.as_array((ctype * (ld * columns)).from_address(address))
                return flat.reshape(columns, ld).T[:rows]

            A = matrix(a, rows_a, m if ta else k, lda)
            B = matrix(b, rows_b, k if tb else n, ldb)
            C = matrix(c, m, n, ldc)
            assert ctype.from_address(alpha).value == 1.0
            assert ctype.from_address(beta).value == 0.0
            C[...] = (A.T if ta else A) @ (B.T if tb else B)
            self.products += 1
            return 0

        self.cublasCreate_v2, self.cublasSetStream_v2 = create, set_stream
        self.cublasSetWorkspace_v2, self.cublasGemmEx = set_workspace, gemm


class CpuExecutor:
    """xpnet.kernels.cuda.executor.Executor on NumPy arrays."""

    def __init__(
        self, dtype, folder, *, order=0, can_capture=True, corrupt_replay=False, planted=None
    ):
        self.dtype, self.library, self.order = dtype, library(dtype, folder, planted), order
        self.can_capture, self.corrupt_replay = can_capture, corrupt_replay
        self.guarded, self.counts, self.recording = [], {}, None
        self.cublas = Cublas()
        self.blas = Blas(self.cublas, np.empty(1024, np.uint8), self.address, dtype)

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def _refused_in_capture(self, what):
        if self.recording is not None:
            msg = f"{what} while a graph is recorded"
            raise CaptureError(msg)
        self.count(what)

    def active(self):
        return nullcontext()

    def owns(self, x):
        return isinstance(x, np.ndarray) and x.flags.c_contiguous

    def empty(self, shape, dtype):
        self._refused_in_capture("allocation")
        size = int(np.prod(shape))
        whole = np.full(size + 2 * GUARD, POISON[np.dtype(dtype).kind], dtype)
        self.guarded.append(whole)
        return whole[GUARD : GUARD + size].reshape(shape)

    def check_guards(self):
        for whole in self.guarded:
            poison = np.full(GUARD, POISON[whole.dtype.kind], whole.dtype)
            np.testing.assert_array_equal(whole[:GUARD], poison, "written before a buffer")
            np.testing.assert_array_equal(whole[-GUARD:], poison, "written behind a buffer")

    def place(self, host):
        self._refused_in_capture("copy from the host")
        return np.array(host)

    def to_host(self, x):
        self._refused_in_capture("read by the host")
        return np.array(x)

    def address(self, x):
        return x.ctypes.data

    def copy(self, target, x):
        self._refused_in_capture("copy")
        target[...] = x

    def launch(self, kernel, grid, block, *given):
        bound = arguments(kernel, given, self.dtype)
        cells = [_cell(x) for x in bound]
        pointers = (ctypes.c_void_p * len(cells))(*(ctypes.addressof(c) for c in cells))
        function = getattr(self.library, f"launch_{kernel}")
        whole_grid = (ctypes.c_uint * 2)(*grid)

        def run(kept=(bound, cells)):
            self.library.set_order(self.order)
            status = function(whole_grid, ctypes.c_uint(block), pointers)
            assert status == 0, f"{kernel}: " + ["", "block size", "a barrier is missed"][status]

        return self._call(kernel, run)

    def product(self, a, b, out):
        run = self.blas.product(a, b, out)
        return self._call("product", lambda: run(7))

    def _call(self, what, run):
        def call():
            if self.recording is not None:
                self.recording.append((what, run))
            else:
                self.count(what)
                run()

        return call

    def capture(self, work):
        if not self.can_capture:
            msg = "this executor was told not to"
            raise CaptureError(msg)
        self.recording = recorded = []
        try:
            work()
        finally:
            self.recording = None
        self.count("capture")

        def replay():
            self.count("replay")
            for _, run in recorded[: -1 if self.corrupt_replay else None]:
                run()

        return replay


def _cell(x):
    """The argument as C stores it."""
    if isinstance(x, np.ndarray):
        return ctypes.c_void_p(x.ctypes.data)
    return {"f": {4: ctypes.c_float, 8: ctypes.c_double}, "i": {4: ctypes.c_int},
            "u": {8: ctypes.c_uint64}}[x.dtype.kind][x.dtype.itemsize](x.item())  # fmt: skip
