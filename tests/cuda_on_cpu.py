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
from hashlib import sha256
from pathlib import Path

import numpy as np

from xpnet.kernels.cuda.blas import Blas
from xpnet.kernels.cuda.executor import CaptureError
from xpnet.kernels.cuda.sources import STORED, WRITTEN, arguments, contained, source

HERE = Path(__file__).parent
GUARD = 64  # elements on each side of a buffer
FAILED = ["", "block size", "a barrier is missed"]
POISON = {"int32": -0x5A5A5A5B, "uint64": 0xA5A5A5A5, "uint16": 0x7FC1}  # the last is a NaN, too

if shutil.which("g++") is None:
    WHY_NOT = "g++ is not installed, which compiles the CUDA kernels for the CPU"
else:
    WHY_NOT = ""


FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Werror"]
FLAGS += ["-Wno-unused-function", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]


def compiled(cpp, so, *flags):
    done = subprocess.run(
        ["g++", *FLAGS, *flags, "-o", str(so), str(cpp)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@cache
def emulator(folder):
    """Compile what runs the threads, which kernels find in the process, and their header."""
    so, header = folder / "emulator.so", folder / "cuda_on_cpu.h.gch"
    if not header.exists():  # which comes last
        compiled(HERE / "cuda_on_cpu.cpp", so)
        compiled(HERE / "cuda_on_cpu.h", header, "-x", "c++-header")
    return ctypes.CDLL(str(so), ctypes.RTLD_GLOBAL)


class Kernels:
    """The kernels of a dtype, each compiled once; ``planted`` = (old, new) puts a bug in."""

    def __init__(self, dtype, narrow, folder, planted):
        self.dtype, self.narrow, self.folder, self.planted = dtype, narrow, folder, planted
        self.emulator, self.functions, self.has_bug = emulator(folder), {}, False

    def prepare(self, kernels):
        missing = [kernel for kernel in kernels if kernel.name not in self.functions]
        if not missing:
            return
        code = source(missing, self.dtype, self.narrow)
        if self.planted is not None:
            assert code.count(self.planted[0]) <= 1
            self.has_bug |= self.planted[0] in code
            code = code.replace(*self.planted)
        names = [kernel.name for kernel in contained(missing)]
        callers = "\n".join(f"CALLER({name})" for name in names)
        cpp = self.folder / f"{sha256(code.encode()).hexdigest()[:16]}.cpp"
        so = cpp.with_suffix(".so")
        if not so.exists():
            cpp.write_text(f'#include "cuda_on_cpu.h"\n{code}\n{callers}\n')
            compiled(cpp, so, "-Winvalid-pch")
        library = ctypes.CDLL(str(so))
        for name in names:
            pair = getattr(library, f"call_{name}"), library.poison_shared_memory
            self.functions.setdefault(name, pair)

    def launch(self, kernel, *given):
        return self.emulator.launch(*self.functions[kernel.name], *given)


@cache
def compiled_kernels(dtype, narrow, folder, planted):
    return Kernels(dtype, narrow, folder, planted)


STORAGE = {0: "float32", 1: "float64", 2: "float16", 14: "uint16"}  # by cudaDataType_t


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


class Cublas:
    """cuBLAS as its manual describes it, on host memory: column-major, and with a workspace."""

    def __init__(self):
        self.stream = self.workspace = self.computed_in = self.mode = None
        self.products = self.destroyed = 0

        def create(handle):
            handle._obj.value = 0xB1A5
            return 0

        def destroy(handle):
            self.destroyed += 1
            return 0

        def set_mode(handle, mode):
            self.mode = mode
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
            # What its manual allows: sums in float for 16 and 32 bits, TF32 for 32 alone.
            wide = {(68, 0): "f4", (68, 2): "f4", (68, 14): "f4", (77, 0): "f4", (70, 1): "f8"}
            wide = np.dtype(wide[compute, a_type])
            assert a_type == b_type
            assert c_type in (a_type, 1 if wide.itemsize == 8 else 0)
            rows_a, rows_b = (k if ta else m), (n if tb else k)
            if lda < rows_a or ldb < rows_b or ldc < m:
                return 7  # CUBLAS_STATUS_INVALID_VALUE

            def matrix(address, rows, columns, ld, kind):
                dtype = np.dtype(STORAGE[kind])
                raw = (ctypes.c_char * (ld * columns * dtype.itemsize)).from_address(address)
                return np.frombuffer(raw, dtype).reshape(columns, ld).T[:rows]

            A = widened(matrix(a, rows_a, m if ta else k, lda, a_type), wide)
            B = widened(matrix(b, rows_b, k if tb else n, ldb, b_type), wide)
            C = matrix(c, m, n, ldc, c_type)
            factors = [
                np.frombuffer((ctypes.c_char * wide.itemsize).from_address(address), wide)[0]
                for address in (alpha, beta)
            ]
            assert factors in ([1.0, 0.0], [1.0, 1.0])
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


class CpuExecutor:
    """xpnet.kernels.cuda.executor.Executor on NumPy arrays."""

    def __init__(
        self, dtype, folder, *, order=0, can_capture=True, corrupt_replay=False, planted=None,
        narrow=None,
    ):  # fmt: skip
        self.dtype, self.stored = dtype, STORED[narrow] if narrow else dtype
        self.kernels, self.order = compiled_kernels(dtype, narrow, folder, planted), order
        self.can_capture, self.corrupt_replay = can_capture, corrupt_replay
        self.guarded, self.counts, self.launched = [], {}, set()
        self.recording = None
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
        whole = np.full(size + 2 * GUARD, POISON.get(str(dtype), np.nan), dtype)
        self.guarded.append(whole)
        return whole[GUARD : GUARD + size].reshape(shape)

    def check_guards(self):
        for whole in self.guarded:
            poison = np.full(GUARD, POISON.get(str(whole.dtype), np.nan), whole.dtype)
            np.testing.assert_array_equal(whole[:GUARD], poison, "written before a buffer")
            np.testing.assert_array_equal(whole[-GUARD:], poison, "written behind a buffer")

    def placed(self, host):
        """A copy of an array between guards, aligned as on a GPU."""
        x = self.empty(host.shape, host.dtype)
        x[...] = host
        return x

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

    def prepare(self, kernels):
        self.kernels.prepare(kernels)

    def launch(self, kernel, grid, block, *given):
        kernel = WRITTEN[kernel] if isinstance(kernel, str) else kernel
        self.prepare([kernel])
        self.launched.add(kernel.name)
        bound = arguments(kernel, given, self.dtype, self.stored)
        cells = [_cell(x) for x in bound]
        pointers = (ctypes.c_void_p * len(cells))(*(map(_address, cells)))
        whole_grid = (ctypes.c_uint * 2)(*grid)

        def run(kept=(bound, cells)):
            self.kernels.emulator.set_order(self.order)
            status = self.kernels.launch(kernel, whole_grid, ctypes.c_uint(block), pointers)
            assert status == 0, f"{kernel.name}: {FAILED[status]}"

        return self._call(kernel.label, run)

    def product(self, a, b, out, *, add=False):
        run = self.blas.product(a, b, out, add=add)
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
    """The argument as C stores it; an array with fields is a struct, passed by value."""
    if isinstance(x, np.ndarray):
        return x if x.dtype.fields else ctypes.c_void_p(x.ctypes.data)
    return {"f": {4: ctypes.c_float, 8: ctypes.c_double}, "i": {4: ctypes.c_int},
            "u": {8: ctypes.c_uint64}}[x.dtype.kind][x.dtype.itemsize](x.item())  # fmt: skip


def _address(cell):
    return cell.ctypes.data if isinstance(cell, np.ndarray) else ctypes.addressof(cell)
