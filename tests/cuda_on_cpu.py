"""An executor that runs xpnet's CUDA kernels on the CPU, compiled by g++; see cuda_on_cpu.h.

Its buffers lie between guards that `check_guards` reads, and begin as NaN, so that a kernel that
writes outside or reads what nobody wrote is found. A captured graph replays what was recorded, with
the arguments of that time; while it is recorded nothing may be allocated, copied or read.
"""

import ctypes
import os
import shutil
import subprocess
import threading
from contextlib import nullcontext
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from cublas_on_cpu import Cublas, CublasLt

from xpnet.errors import BackendError
from xpnet.kernels.cuda import blas_lt
from xpnet.kernels.cuda.blas import WORKSPACE_BYTES, Blas, Numbers, Rest
from xpnet.kernels.cuda.choices import Choices
from xpnet.kernels.cuda.executor import CaptureError
from xpnet.kernels.cuda.lanes import LANES, waits
from xpnet.kernels.cuda.sources import STORED, WRITTEN, arguments, contained, source

HERE = Path(__file__).parent
ONE = threading.RLock()  # compiles or launches at a time: the threads of a block are global
GUARD = 64  # elements on each side of a buffer
ALIGNED = 256  # bytes, as CUDA aligns what it allocates
FAILED = ["", "block size", "a barrier is missed"]
POISON = {
    "int32": -0x5A5A5A5B,
    "uint32": 0xA5A5A5A5,
    "uint64": 0xA5A5A5A5,
    "uint16": 0x7FC1,
}  # the last is a NaN, too

if shutil.which("g++") is None:
    WHY_NOT = "g++ is not installed, which compiles the CUDA kernels for the CPU"
else:
    WHY_NOT = ""


def poison(dtype):
    """What a buffer holds before anybody writes there."""
    return POISON.get(str(dtype), np.nan if np.dtype(dtype).kind == "f" else 1)


FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Werror"]
FLAGS += ["-Wno-unused-function", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]


def compiled(cpp, so, *flags):
    """Compile, unless another process has; none sees a file that is not whole."""
    if so.exists():
        return
    aside = so.with_name(f"{os.getpid()}-{so.name}")
    done = subprocess.run(
        ["g++", *FLAGS, *flags, "-o", str(aside), str(cpp)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    aside.replace(so)


@cache
def emulator(folder):
    """Compile what runs the threads, which kernels find in the process, and their header."""
    so, header = folder / "emulator.so", folder / "cuda_on_cpu.h.gch"
    compiled(HERE / "cuda_on_cpu.cpp", so)
    compiled(HERE / "cuda_on_cpu.h", header, "-x", "c++-header")
    return ctypes.CDLL(str(so), ctypes.RTLD_GLOBAL)


class Kernels:
    """The kernels of a dtype, each compiled once; ``planted`` = (old, new) puts a bug in."""

    def __init__(self, dtype, narrow, folder, planted):
        self.dtype, self.narrow, self.folder, self.planted = dtype, narrow, folder, planted
        self.emulator, self.functions, self.has_bug = emulator(folder), {}, False

    def prepare(self, kernels):
        with ONE:
            self._prepare(kernels)

    def _prepare(self, kernels):
        missing = [kernel for kernel in kernels if kernel.name not in self.functions]
        if not missing:
            return
        code = source(missing, self.dtype, self.narrow)
        if self.planted is not None:
            if code.count(self.planted[0]) > 1:
                msg = f"not a single place: {self.planted[0]!r}"
                raise ValueError(msg)
            self.has_bug |= self.planted[0] in code
            code = code.replace(*self.planted)
        names = [kernel.name for kernel in contained(missing)]
        callers = "\n".join(f"CALLER({name})" for name in names)
        so = self.folder / f"{sha256((code + callers).encode()).hexdigest()[:16]}.so"
        if not so.exists():
            cpp = self.folder / f"{os.getpid()}-{so.stem}.cpp"
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


class CpuExecutor:
    """xpnet.kernels.cuda.executor.Executor on NumPy arrays.

    Its products are those of an emulated cuBLASLt, timed where there are ``choices``: ``times``
    gives the seconds of so many functions.
    """

    def __init__(
        self, dtype, folder, *, order=0, can_capture=True, corrupt_replay=False, planted=None,
        narrow=None, pack=None, choices=None, times=lambda count: [1.0] * count,
    ):  # fmt: skip
        self.pack = pack or (8 if narrow else 1)
        self.dtype, self.stored = dtype, STORED[narrow] if narrow else dtype
        with ONE:
            self.kernels, self.order = compiled_kernels(dtype, narrow, folder, planted), order
        self.can_capture, self.corrupt_replay = can_capture, corrupt_replay
        self.guarded, self.counts, self.launched = [], {}, set()
        self.free_bytes = 2**30
        self.recording = None
        self.cublas, self.cublas_lt, self.times = Cublas(), CublasLt(), times
        numbers = Numbers(dtype)
        timed, choices = choices is not None, choices or Choices(folder, "a CPU", 0)
        self.lt = blas_lt.CublasLt(self.cublas_lt, self, numbers, choices, timed=timed)
        self.blas = []
        for _ in range(LANES):
            workspace = np.empty(WORKSPACE_BYTES, np.uint8)
            others = partial(Blas, self.cublas, workspace, self.address, numbers)
            self.blas.append(blas_lt.BlasLt(self.lt, workspace, others))

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
        return self._guarded(shape, dtype)

    def _guarded(self, shape, dtype):
        size = int(np.prod(shape))
        space = np.full(size + 2 * GUARD + ALIGNED, poison(dtype), dtype)
        skipped = -self.address(space[GUARD:]) % ALIGNED // space.itemsize
        self.guarded.append(whole := space[skipped : skipped + size + 2 * GUARD])
        return whole[GUARD : GUARD + size].reshape(shape)

    def check_guards(self):
        for whole in self.guarded:
            guard = np.full(GUARD, poison(whole.dtype), whole.dtype)
            np.testing.assert_array_equal(whole[:GUARD], guard, "written before a buffer")
            np.testing.assert_array_equal(whole[-GUARD:], guard, "written behind a buffer")

    def place(self, host):
        self._refused_in_capture("copy from the host")
        x = self._guarded(host.shape, host.dtype)
        x[...] = host
        return x

    placed = place

    def to_host(self, x):
        self._refused_in_capture("read by the host")
        return np.array(x)

    def address(self, x):
        return x.ctypes.data

    def copy(self, target, x):
        self._refused_in_capture("copy")
        target[...] = x

    def free(self):
        return self.free_bytes

    def pinned(self, shape, dtype):
        self._refused_in_capture("allocation")
        return np.full(shape, np.nan, dtype)

    def summed(self, comm, x, staged):
        def run():
            if staged is not None:
                staged[...] = x
            comm.allreduce(x if staged is None else staged)
            if staged is not None:
                x[...] = staged

        if comm.on_stream:
            return self._call("sum", run)

        def by_host():
            self._refused_in_capture("sum")
            run()

        return by_host

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
            with ONE:
                self.kernels.emulator.set_order(self.order)
                status = self.kernels.launch(kernel, whole_grid, ctypes.c_uint(block), pointers)
            assert status == 0, f"{kernel.name}: {FAILED[status]}"

        return self._call(kernel.label, run)

    @property
    def note(self):
        return self.blas[0].note

    @property
    def algorithms(self):
        return self.lt.algorithms

    def prefer(self, algorithms):
        return self.lt.prefer(algorithms)

    def product(self, a, b, out, *, add=False, lane=0):
        run = self.blas[lane].product(a, b, out, add=add)
        return self._call("product", lambda: run(7 + lane))

    def affine(self, a, b, bias, out, *, relu, apart):
        run, rest = self.blas[0].affine(a, b, bias, out, relu=relu, apart=apart)
        return self._call("product", lambda: run(7)), rest

    def can_measure(self):
        return self.recording is None

    def measured(self, runs):
        """The seconds that ``times`` says, of those that do not fail."""
        assert self.recording is None
        seconds = self.times(len(runs))
        for i, run in enumerate(runs):
            try:
                run(7)
            except BackendError:
                seconds[i] = np.inf
        return seconds

    def _call(self, what, run):
        def call():
            if self.recording is not None:
                self.recording.append(run)
            else:
                self.count(what)
                run()

        return call

    def capture(self, calls):
        if not self.can_capture:
            msg = "this executor was told not to"
            raise CaptureError(msg)
        self.recording = recorded = []
        try:
            for i, call in enumerate(calls):
                call.run()
                if len(recorded) == i:  # a product does its work
                    assert isinstance(call.run, Rest)
                    recorded.append(lambda: None)
        finally:
            self.recording = None
        self.count("capture")
        assert len(recorded) == len(calls)
        lanes = [[i for i, call in enumerate(calls) if call.lane == lane] for lane in range(LANES)]
        after = waits(calls)
        assert not calls[0].lane
        assert after[-1] is not None or not lanes[1] or lanes[1][-1] in after

        def replay():
            self.count("replay")
            order = in_lanes(lanes, after, self.counts["replay"] % 2)
            for i in order:
                if not self.corrupt_replay or i < len(calls) - 1:
                    recorded[i]()

        return replay


def in_lanes(lanes, after, first):
    """The calls in the order in which they run if a GPU prefers the lane ``first``.

    Each lane keeps its order, and a call waits for the one of the other lane that it comes after.
    """
    left, done = [list(lane) for lane in lanes], set()
    while any(left):
        ready = [
            lane for lane in left if lane and (after[lane[0]] is None or after[lane[0]] in done)
        ]
        assert ready, "two lanes wait for each other"
        lane = left[first] if any(lane is left[first] for lane in ready) else ready[0]
        done.add(lane[0])
        yield lane.pop(0)


def _cell(x):
    """The argument as C stores it; an array with fields is a struct, passed by value."""
    if isinstance(x, np.ndarray):
        return x if x.dtype.fields else ctypes.c_void_p(x.ctypes.data)
    return {"f": {4: ctypes.c_float, 8: ctypes.c_double}, "i": {4: ctypes.c_int},
            "u": {8: ctypes.c_uint64}}[x.dtype.kind][x.dtype.itemsize](x.item())  # fmt: skip


def _address(cell):
    return cell.ctypes.data if isinstance(cell, np.ndarray) else ctypes.addressof(cell)
