"""Whole trainings by the GPU's step, on a backend that is NumPy with that step.

Also CuPy's executor, on a stub of CuPy that records its calls: no GPU is needed.
"""

import contextlib
import copy
import gc
import json
import re
import sys
import types
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from cublas_on_cpu import Cublas, CublasLt
from cuda_on_cpu import CpuExecutor

from xpnet.backends.numpy import NumpyBackend
from xpnet.errors import BackendError, CheckpointError, TrainingError, UnsupportedError
from xpnet.kernels.cuda import executor as executor_module
from xpnet.kernels.cuda.choices import Choices
from xpnet.kernels.cuda.executor import CaptureError, CupyExecutor
from xpnet.kernels.cuda.graphed_step import FusedStep
from xpnet.kernels.cuda.lanes import LANES, Recorded, Span
from xpnet.kernels.cuda.sources import WRITTEN
from xpnet.nn import BatchNorm, Dense, Dropout, ReLU, Sequential, Softmax
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.optimizers import SGD, Adam
from xpnet.step.mixed_precision import Mixed
from xpnet.training.step_choice import FUSED, StepRequest, choose_step
from xpnet.training.trainer import Trainer


class PortableNumpy(NumpyBackend):
    """NumPy without a fused step."""

    name = "portable-numpy"


class FusedNumpy(NumpyBackend):
    """NumPy, whose fused step is the GPU's."""

    name = "fused-numpy"

    def __init__(self, folder, dtype="float64", **products):
        super().__init__("cpu", dtype)
        self.folder, self.products = folder, products


def fused_on_cpu(r):
    narrow = None if r.mixed is None else r.mixed.dtype
    backend = r.backend
    executor = CpuExecutor(backend.dtype_name, backend.folder, narrow=narrow, **backend.products)
    given = (r.model, r.loss, r.optimizer, r.clip, r.mixed, r.accumulate, r.across)
    return FusedStep(executor, *given, threads=64)


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setitem(FUSED, "fused-numpy", fused_on_cpu)


@pytest.fixture
def data(rng):
    y = rng.integers(0, 3, size=70)
    return rng.normal(size=(70, 5)) + y[:, None], y


def trainer(backend, **settings):
    # The gradient of a bias before a batch norm is nothing but rounding, which Adam magnifies.
    layers = [Dense(8, bias=False), BatchNorm(), ReLU(), Dropout(0.2), Dense(3)]
    return Trainer(layers, optimizer=Adam(0.01), backend=backend, batch_size=16, **settings)


def curve(history):
    return [(r["loss"], r["accuracy"], r["val_loss"]) for r in history]


def test_a_training_has_the_portable_curve(folder, data):
    ours, plain = trainer(FusedNumpy(folder)), trainer(PortableNumpy(dtype="float64"))
    for t in (ours, plain):
        t.fit(data, epochs=5, validation=data)
    np.testing.assert_allclose(curve(ours.history), curve(plain.history), rtol=1e-11)
    assert ours.engine.step.note.startswith("CUDA graph of ")
    assert plain.engine.step.note == "portable"


def test_a_resumed_training_is_bitwise_the_whole_one(folder, data):
    whole, first, second = (trainer(FusedNumpy(folder)) for _ in range(3))
    whole.fit(data, epochs=4)
    first.fit(data, epochs=2)
    second.restore(*first.snapshot())
    second.fit(data, epochs=4)
    for name, tensor in whole.params.items():
        assert tensor.tobytes() == second.params[name].tobytes()


@pytest.mark.parametrize("already", [False, True])
def test_a_training_is_resumed_with_the_algorithms_that_it_had(
    already, folder, data, tmp_path, monkeypatch
):
    """In another cache, where the second of the algorithms is the fastest, not the third.

    So it is where the trainer has steps behind it, and a graph with the second.
    """
    monkeypatch.setattr("xpnet.kernels.cuda.matmul.ALIGNED", 16)  # as all arrays of NumPy are

    def made(name, fastest):
        def times(count):
            return [0.1 if i == fastest else 1.0 for i in range(count)]

        choices = Choices(tmp_path / name, "GPU", 1)
        return trainer(FusedNumpy(folder, "float32", choices=choices, times=times))

    whole, first, second, other = made("a", 2), made("a", 2), made("b", 1), made("c", 1)
    for t, epochs in ((whole, 2), (first, 1), (other, 2)):
        t.fit(data, epochs=epochs)
    if already:
        second.fit(data, epochs=1)
    tensors, meta = first.snapshot()
    assert len(meta["algorithms"]) == 5 * 2  # of two batch sizes
    second.restore(tensors, json.loads(json.dumps(meta)))
    second.fit(data, epochs=2)
    assert "CUDA graph" in second.engine.step.note
    for t in (second, copy.copy(second)):
        assert t.snapshot()[1]["algorithms"] == meta["algorithms"]
    for name, tensor in whole.params.items():
        assert tensor.tobytes() == second.params[name].tobytes()
    assert any(
        whole.params[name].tobytes() != other.params[name].tobytes() for name in whole.params
    )
    with pytest.raises(CheckpointError, match="invalid algorithms"):
        made("d", 1).restore(tensors, {**meta, "algorithms": {"a product": 3}})


def test_a_loss_that_is_not_finite_is_found_and_named(folder, data):
    x, y = data
    x = x.copy()
    x[40] = np.inf
    messages = []
    for backend in (FusedNumpy(folder), PortableNumpy(dtype="float64")):
        with pytest.raises(TrainingError, match="not finite") as raised:
            trainer(backend).fit((x, y), epochs=1)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_a_model_without_a_kernel_trains_by_the_portable_step(folder, data):
    layers = [Dense(8), Softmax(axis=0), ReLU(), Dense(3)]
    t = Trainer(layers, optimizer=SGD(0.1), backend=FusedNumpy(folder), batch_size=16)
    t.fit(data, epochs=1)
    why = "it calls max, which is not a function of one element"
    assert t.engine.step.note == f"portable: softmax has no kernel: {why}"


def test_cupys_step_says_why_it_is_the_portable_one(monkeypatch, caplog):
    monkeypatch.setitem(FUSED, "fused-numpy", FUSED["cupy"])
    backend, model = FusedNumpy(None), Sequential([Dense(3)]).build((5,))
    backend.device_name = "cuda:0"
    request = StepRequest(backend, model, SoftmaxCrossEntropy(), SGD(), mixed=Mixed("float16"))
    why = "mixed precision beside float64 has no kernel"
    assert choose_step("auto", request).note == f"portable: {why}"
    assert "the portable step on the GPU: mixed" in caplog.text
    refused = rf"no fused step for this training \({why}\): use step='auto'"
    with pytest.raises(BackendError, match=refused):
        choose_step("fused", request)


def test_the_portable_step_is_taken_if_asked_for(folder, data):
    t = trainer(FusedNumpy(folder), step="portable")
    t.fit(data, epochs=1)
    assert t.engine.step.note == "portable"


def test_an_accumulated_gradient_has_the_portable_curve(folder, data):
    trainers = [
        trainer(b, accumulate=3) for b in (FusedNumpy(folder), PortableNumpy("cpu", "float64"))
    ]
    for t in trainers:
        t.fit(data, epochs=5)
    losses = [[r["loss"] for r in t.history] for t in trainers]
    np.testing.assert_allclose(*losses, rtol=1e-11)
    assert " over 3 micro-batches, equal to the eager" in trainers[0].engine.step.note


# -- CuPy's executor on a stub --------------------------------------------------------------------


class Stub:
    """The part of CuPy that the executor uses, with its refusals; `events` records what it did.

    The rules are those of 14.2: cupy/_core/raw.pyx, cupy/cuda/{function,stream,graph,memory}.pyx.
    """

    def __init__(self):
        self.events = events = []
        self.fails = None
        self.allocate = None
        self.inside = 0  # of `with device`
        self.libraries = {"cublas": Cublas}  # a test may add cuBLASLt, or take all away
        stub, others = self, []

        class Device:
            id = 0

            def __enter__(self):
                stub.inside += 1

            def __exit__(self, *error):
                stub.inside -= 1

        self.device = Device()

        class Stream:
            null = current = None

            def __init__(self, non_blocking=False):
                self.ptr, self.capturing = (11 + len(others) if non_blocking else 0), False
                self.unjoined = self.last = None  # work of a capture, and the event behind it
                others.extend([self] * non_blocking)

            def __enter__(self):
                assert stub.inside, "the stream's device is not the current one"
                self.outer, Stream.current = Stream.current, self

            def __exit__(self, *error):
                Stream.current = self.outer

            def begin_capture(self, mode=None):
                if self.ptr == 0:
                    msg = "cannot capture on the default (legacy) stream"
                    raise RuntimeError(msg)
                events.append("begin")
                self.capturing = True

            def is_capturing(self):
                return self.capturing

            def end_capture(self):
                if not self.capturing:
                    msg = "cudaErrorIllegalState"
                    raise RuntimeError(msg)
                events.append("end")
                self.capturing = False
                if stub.fails == "end":
                    msg = "cudaErrorStreamCaptureInvalidated"
                    raise RuntimeError(msg)
                if any(stream.unjoined for stream in others):
                    msg = "cudaErrorStreamCaptureUnjoined"
                    raise RuntimeError(msg)
                return Graph()

            def wait_event(self, event):
                events.append(f"{self.ptr} waits for {event.stream.ptr}")
                if event.stream.last is event:
                    event.stream.unjoined = False
                if not self.capturing:  # it joins
                    assert event.captured
                    self.unjoined, self.last = True, None

        class Event:
            def __init__(self, disable_timing=False):
                assert disable_timing
                assert not any(stream.capturing for stream in others)

            def record(self, stream):
                assert stream.capturing or stream.unjoined
                self.stream, self.captured, stream.last = stream, True, self

        class Graph:
            def upload(self, stream=None):
                assert not Stream.current.capturing
                if stub.fails == "upload":
                    msg = "cudaErrorMemoryAllocation"
                    raise RuntimeError(msg)
                events.append(f"upload on {Stream.current.ptr}")

            def launch(self, stream=None):
                events.append(f"replay on {Stream.current.ptr}")

        Stream.null = Stream.current = Stream()

        def passed(x):
            """function.pyx, _pointer: a Python int would be an int64, a float a float64."""
            assert isinstance(x, (Array, np.generic, np.ndarray)), type(x)
            assert isinstance(x, (Array, np.generic)) or x.size == 1  # by value
            return x

        class RawModule:
            def __init__(self, *, code, options=()):
                assert code.count("typedef float real;") == 1
                self.names = re.findall(r"^KERNEL\S* (\w+)", code, re.MULTILINE)
                assert type(options) is tuple

            def compile(self, log_stream=None):
                assert stub.inside, "a module is compiled for the current device"
                if stub.fails == "compile":
                    msg = "kern.cu(3): error: no such thing\nand more"
                    raise RuntimeError(msg)
                events.append("compile")

            def get_function(self, name):
                assert name in self.names
                events.append(f"load {name}")

                def kernel(grid, block, args, *, shared_mem=0):
                    assert type(grid) is type(block) is tuple
                    assert all(type(n) is int and n > 0 for n in (*grid, *block))
                    assert len(grid) < 2 or grid[1] < 2**16
                    events.append((name, grid, block, tuple(map(passed, args))))

                return kernel

        @contextlib.contextmanager
        def using_allocator(allocator=None):
            stub.allocate, outer = allocator, stub.allocate
            try:
                yield
            finally:
                stub.allocate = outer

        class Pointer:
            def __init__(self, array):
                self.array, self.ptr = array, array.ctypes.data

            def copy_from_device_async(self, src, size, stream=None):
                assert type(src) is Pointer
                assert size <= self.array.nbytes
                events.append(("async copy", size))

        class Array(np.ndarray):
            data = property(Pointer)

        def empty(shape, dtype):
            if stub.allocate is not None:
                stub.allocate(int(np.prod(shape)))
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            space = np.zeros(size + 256, np.uint8)  # CUDA aligns what it allocates
            at = -space.ctypes.data % 256
            return space[at : at + size].view(dtype).reshape(shape).view(Array)

        def copyto(dst, src, casting="same_kind", where=None):
            assert np.can_cast(src.dtype, dst.dtype, casting)
            events.append("copyto")

        properties = {"name": b"NVIDIA H200"}
        self.module = types.ModuleType("cupy")
        self.module.__dict__.update(
            ndarray=Array, empty=empty, uint8=np.uint8, RawModule=RawModule, copyto=copyto,
            matmul=lambda a, b, out=None: events.append("cupy.matmul"),
            add=lambda a, b, out: events.append("cupy.add"),
            cuda=SimpleNamespace(
                Stream=Stream, Event=Event, using_allocator=using_allocator,
                get_current_stream=lambda: Stream.current,
                runtime=SimpleNamespace(getDeviceProperties=lambda index: properties),
            ),
        )  # fmt: skip

    def find_library(self, name):
        if name not in self.libraries:
            msg = f"{name} cannot be loaded by itself"
            raise BackendError(msg)
        return self.libraries[name]()


@pytest.fixture
def stub(monkeypatch):
    made = Stub()
    monkeypatch.setitem(sys.modules, "cupy", made.module)
    monkeypatch.setattr(executor_module, "find_library", made.find_library)
    monkeypatch.setenv("XPNET_TIME_PRODUCTS", "0")
    return made


@pytest.fixture
def make(stub):
    """An executor, inside its device as a step is."""

    with stub.device:
        yield partial(CupyExecutor, stub.device)


def cublas(executor):
    return executor._blas[0]._library.raw


def matrices(executor):
    return [executor.empty((2, 2), "float32") for _ in range(3)]


def test_a_launch_passes_typed_arguments_and_loads_a_kernel_once(stub, make):
    executor, kernel = make("float32"), WRITTEN["column_sums"]
    x = executor.empty((3, 2), "float32")
    call = executor.launch(kernel, (5, 1), 64, x, None, 3, 2, 0)
    executor.launch(kernel, (5, 1), 64, x, None, 3, 2, 0)
    assert stub.events == ["compile", "load column_sums"]
    call()
    name, grid, block, given = stub.events[-1]
    assert (name, grid, block) == ("column_sums", (5, 1), (64,))
    assert [type(g) for g in given[1:]] == [np.uint64, np.int32, np.int32, np.int32]


def test_a_capture_is_on_its_own_stream_with_the_workspace_set_before_it_begins(stub, make):
    executor = make("float32")
    call = executor.product(*matrices(executor))
    call()
    library, streams = cublas(executor), []
    set_stream, library.cublasSetStream_v2 = library.cublasSetStream_v2, lambda handle, stream: (
        streams.append((stream, "begin" in stub.events)), set_stream(handle, stream)
    )[1]  # fmt: skip
    work = [call, lambda: stub.events.append("work")]
    executor.capture(list(map(Recorded, work)))()
    assert stub.events == ["begin", "work", "end", "upload on 0", "replay on 0"]
    # Set before the work, for cublasSetStream is not to be captured, and by each lane.
    assert streams == [(11, False), (12, False)]
    call()
    assert streams[2:] == [(0, True)]  # back on the current stream
    assert all(library.workspaces.values())


def test_a_lane_is_forked_from_the_capture_waits_and_is_joined(stub, make):
    def call(name, reads, writes, lane=0):
        def run():
            current = stub.module.cuda.get_current_stream()
            current.last = None
            stub.events.append(f"{name} on {current.ptr}")

        return Recorded(
            run, *(tuple(Span(i, i + 1) for i in spans) for spans in (reads, writes)), lane
        )

    make("float32").capture([
        call("a", [], [0]), call("b", [0], [1], 1), call("c", [0], [2]), call("d", [2], [0]),
        call("e", [1, 0], [3], 1),
    ])  # fmt: skip
    assert stub.events == [
        "begin", "a on 11", "12 waits for 11", "b on 12", "c on 11", "11 waits for 12", "d on 11",
        "12 waits for 11", "e on 12", "11 waits for 12", "end", "upload on 0",
    ]  # fmt: skip


def test_nothing_may_be_allocated_in_a_capture(stub, make):
    executor = make("float32")
    with pytest.raises(CaptureError, match="24 bytes were allocated during capture"):
        executor.capture([Recorded(lambda: executor.empty((24,), "uint8"))])
    assert stub.events == ["begin", "end"]  # the stream is free again
    executor.empty((24,), "uint8")


def test_a_capture_that_cuda_aborts_is_explained(stub, make):
    executor, stub.fails = make("float32"), "end"
    with pytest.raises(CaptureError, match="RuntimeError: cudaErrorStreamCaptureInvalidated"):
        executor.capture([])
    assert executor._cupy.cuda.get_current_stream().ptr == 0


def test_a_graph_that_cannot_be_uploaded_beforehand_is_replayed_all_the_same(stub, make):
    executor, stub.fails = make("float32"), "upload"
    executor.capture([])()
    assert stub.events == ["begin", "end", "replay on 0"]


def test_garbage_is_collected_before_a_capture_and_not_during_it(make):
    """An executor that is freed destroys its handle, which may wait: no capture survives that."""

    class Garbage:
        def __del__(self):
            freed.append(gc.isenabled())

    executor, seen, freed = make("float32"), [], []
    garbage = Garbage()
    garbage.itself = garbage
    del garbage
    executor.capture([Recorded(lambda: seen.append((gc.isenabled(), len(freed))))])
    assert seen == [(False, 1)]
    assert gc.isenabled()
    with pytest.raises(CaptureError):
        executor.capture([Recorded(lambda: 1 / 0)])
    assert gc.isenabled()


def test_cublas_that_fails_before_a_capture_is_a_reason_to_stay_eager(make):
    executor = make("float32")
    cublas(executor).cublasSetStream_v2 = lambda *given: 14
    with pytest.raises(CaptureError, match="cublasSetStream_v2 returned status 14"):
        executor.capture([])


def test_kernels_that_do_not_compile_leave_the_portable_step_with_the_reason(stub):
    stub.fails, executor = "compile", CupyExecutor(stub.device, "float32")
    with pytest.raises(UnsupportedError, match=r"\(RuntimeError: kern.*: error: no such thing\)$"):
        FusedStep(executor, Sequential([Dense(3)]).build((5,)), SoftmaxCrossEntropy(), SGD())


def test_a_cublas_handle_sums_16_bit_products_in_32_bits_and_is_destroyed(make):
    executor = make("float32")
    library = cublas(executor)
    assert library.mode == 16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
    del executor
    gc.collect()
    assert library.destroyed == len(library.workspaces) == LANES


def test_without_cublas_products_are_cupys_and_nothing_is_captured(stub, make):
    stub.libraries = {}
    executor = make("float32")
    executor.product(*matrices(executor))()
    executor.product(*matrices(executor), add=True)()
    assert stub.events == ["cupy.matmul", "cupy.matmul", "cupy.add"]
    with pytest.raises(CaptureError, match="cublas cannot be loaded by itself"):
        executor.capture([])


def test_mixed_precision_needs_cublas(stub, make):
    executor = make("float32", narrow="bfloat16", tf32=True)
    x, y = (executor.empty((2, 2), "uint16") for _ in range(2))
    executor.product(x, y, executor.empty((2, 2), "float32"))()
    assert cublas(executor).computed_in == 68  # TF32 is for float32 alone

    stub.libraries = {}
    with pytest.raises(UnsupportedError, match="cublas cannot be loaded"):
        make("float32", narrow="bfloat16")


def test_a_copy_of_equal_dtypes_is_asynchronous_and_any_other_is_a_cast(stub, make):
    executor = make("float32")
    x, y = executor.empty((3, 2), "float32"), executor.empty((3, 2), "float32")
    executor.copy(x, y)
    executor.copy(x, y.astype("int32"))
    executor.copy(x, executor.empty((2, 3), "float32").T)
    assert stub.events == [("async copy", 24), "copyto", "copyto"]


def test_products_are_by_cublaslt_where_it_can_be_loaded(stub, make, monkeypatch, tmp_path):
    """Timed on the stream of captures, and remembered in the cache for another executor."""
    stub.libraries["cublasLt"] = CublasLt
    monkeypatch.setenv("XPNET_TIME_PRODUCTS", "1")
    monkeypatch.setenv("XPNET_CACHE_DIR", str(tmp_path))
    timed = []

    def measured(cupy, stream, runs):
        for run in runs[:2]:
            run(stream.ptr)
        timed.append(stream.ptr)
        return [2.0, 1.0, *[3.0] * (len(runs) - 2)]

    monkeypatch.setattr(executor_module, "measured", measured)
    for note in ("1 measured", "1 remembered"):
        executor = make("float32", tf32=True)
        a, b, out = (executor.empty((4, 4), "float32") for _ in range(3))
        calls = [executor.product(a, b, out, lane=lane) for lane in range(LANES)]
        calls[0]()
        library = executor._blas[0]._lt.library.raw
        assert library.stream == 0
        executor.capture([Recorded(calls[1])])
        assert library.stream == executor._streams[0].ptr != 0
        assert library.ran[-2:] == [(1, 1), (1, 1)]
        assert library.computed_in == 77
        assert executor.note == f"products by cuBLASLt (algorithms: {note})"
    assert timed == [11]
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["products"]


def test_a_product_that_first_runs_in_a_capture_is_not_timed(stub, make, monkeypatch, tmp_path):
    stub.libraries["cublasLt"] = CublasLt
    monkeypatch.setenv("XPNET_TIME_PRODUCTS", "1")
    monkeypatch.setenv("XPNET_CACHE_DIR", str(tmp_path))
    executor = make("float32")
    executor.capture([Recorded(executor.product(*matrices(executor)))])
    assert executor._blas[0]._lt.library.raw.ran == [(0, 1)]
    assert not [*tmp_path.rglob("*.json")]


def test_tf32_is_opt_in(make):
    computed_in = {("float32", False): 68, ("float32", True): 77, ("float64", True): 70}
    for (dtype, tf32), compute in computed_in.items():
        executor = make(dtype, tf32=tf32)
        executor.product(*(executor.empty((2, 2), dtype) for _ in range(3)))()
        assert cublas(executor).computed_in == compute


def test_a_status_of_cublas_is_an_error(stub, make):
    executor = make("float32")
    cublas(executor).cublasSetWorkspace_v2 = lambda *given: 13
    with pytest.raises(BackendError, match="cublasSetWorkspace_v2 returned status 13"):
        executor.product(*matrices(executor))()


CUPY_NAMES = [
    "RawModule.compile",
    "RawModule.get_function",
    "_core._routines_linalg.COMPUTE_TYPE_TF32",
    "_core._routines_linalg.set_compute_type",
    "copyto",
    "cuda.Device.synchronize",
    "cuda.Event.record",
    "cuda.Event.synchronize",
    "cuda.MemoryPointer.copy_from_device_async",
    "cuda.Stream.begin_capture",
    "cuda.Stream.end_capture",
    "cuda.Stream.is_capturing",
    "cuda.Stream.wait_event",
    "cuda.get_current_stream",
    "cuda.get_elapsed_time",
    "cuda.graph.Graph.launch",
    "cuda.graph.Graph.upload",
    "cuda.runtime.getDeviceProperties",
    "cuda.using_allocator",
    "empty",
    "matmul",
    "ndarray.get",
    "ndarray.set",
]


def test_cupy_has_every_name_that_the_stub_has():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed; its wheel needs no GPU here")
    for path in CUPY_NAMES:
        found = cupy
        for part in path.split("."):
            found = getattr(found, part)
