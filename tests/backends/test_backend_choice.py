"""Which library and device is chosen, and what is said where there is none."""

import importlib.util
import os
import subprocess
import sys
from importlib.abc import MetaPathFinder
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import array_api_strict
import numpy as np
import pytest
from array_api_compat import device

from xpnet.backends import backend_class, backend_names, backend_of, get_backend, resolve
from xpnet.backends.backend import Backend, Probe
from xpnet.backends.cupy import CupyBackend
from xpnet.backends.numpy import NumpyBackend
from xpnet.errors import BackendError, DataError, how_to_install
from xpnet.nn import Dense, ReLU
from xpnet.training.loader import Loader
from xpnet.training.trainer import Trainer

NO_CUPY = f"device 'cuda' needs CuPy, which is not installed: {how_to_install('cupy')}"
NO_GPU = (
    "device 'cuda' needs an NVIDIA GPU with its driver; CuPy sees none (driver version 0): "
    "run nvidia-smi, or use --device cpu"
)


@pytest.fixture
def no_cupy(monkeypatch):
    """CuPy is not installed, which is the truth on most machines that run this."""
    find_spec = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "cupy" else find_spec(name, *a),
    )


def stub_of_cupy(gpus):
    """What the backend asks of CuPy before it computes anything."""

    def Device(index):
        return SimpleNamespace(id=index)

    cupy = ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    cupy.ndarray = type("ndarray", (), {})
    cupy.cuda = SimpleNamespace(
        is_available=lambda: gpus > 0,
        Device=Device,
        nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
        runtime=SimpleNamespace(
            driverGetVersion=lambda: 13000 if gpus else 0, getDeviceCount=lambda: gpus
        ),
    )
    return cupy


@pytest.fixture
def cupy_without_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", stub_of_cupy(0))


@pytest.fixture
def cupy_with_two_gpus(monkeypatch):
    stub = stub_of_cupy(2)
    monkeypatch.setitem(sys.modules, "cupy", stub)
    return stub


def refusal(call):
    with pytest.raises(BackendError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- resolve --------------------------------------------------------------------------------------


def test_cpu_is_numpy():
    backend, reason = resolve(device="cpu")
    assert repr(backend) == "NumpyBackend(device='cpu', dtype='float32')"
    assert reason == "device cpu was requested"


def test_auto_without_cupy_is_numpy_and_says_why(no_cupy):
    backend, reason = resolve()
    assert (backend.name, backend.device_name) == ("numpy", "cpu")
    assert reason == "auto: CuPy is not installed"


def test_auto_with_cupy_but_no_gpu_is_numpy_and_says_why(cupy_without_gpu):
    backend, reason = resolve()
    assert (backend.name, backend.device_name) == ("numpy", "cpu")
    assert reason == "auto: CuPy sees no GPU"


@pytest.mark.parametrize("error", [ImportError("libcuda\nmore"), OSError(2, "No such file")])
def test_a_cupy_that_cannot_be_imported_is_a_reason_and_no_error(error, monkeypatch):
    """It makes a folder for its cache when it is imported, which may fail."""

    class Failing(MetaPathFinder):
        def find_spec(self, name, *given):
            if name == "cupy":
                raise error

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr("xpnet.backends.cupy.installed_version", lambda *given: "14.2.0")
    monkeypatch.setattr(sys, "meta_path", [Failing(), *sys.meta_path])
    said = str(error).partition("\n")[0]
    assert CupyBackend.probe().note == f"CuPy 14.2.0 cannot be imported: {said}"


def cuda_error(name):
    """CUDA's errors as CuPy raises them."""

    def fail(*given):
        raise type("CUDARuntimeError", (RuntimeError,), {})(name)

    return fail


TOO_OLD = "cudaErrorInsufficientDriver: CUDA driver version is insufficient"
BUSY = "cudaErrorInitializationError: initialization error"


def test_a_driver_that_is_too_old_for_cupy_is_said_so(monkeypatch):
    cupy = stub_of_cupy(0)
    cupy.cuda.runtime = SimpleNamespace(
        driverGetVersion=lambda: 12040, runtimeGetVersion=lambda: 13020,
        getDeviceCount=cuda_error(TOO_OLD),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    expected = (
        "device 'cuda' needs a newer NVIDIA driver: this one is for CUDA 12.4, CuPy for CUDA 13.2: "
        "update the driver, or install the CuPy of an older CUDA"
    )
    assert refusal(lambda: resolve(device="cuda")) == expected
    assert resolve().reason == f"auto: {expected}"  # there may be a GPU: that is worth a look
    cupy.cuda.runtime.driverGetVersion = lambda: 0
    assert refusal(lambda: resolve(device="cuda")) == NO_GPU
    cupy.cuda.runtime.driverGetVersion = lambda: 13000
    cupy.cuda.runtime.getDeviceCount = cuda_error(BUSY)
    told = NO_GPU.replace("version 0", f"version 13000; {BUSY}")
    assert refusal(lambda: resolve(device="cuda")) == told


def test_cupy_without_cudas_own_wheels_is_said_so(cupy_with_two_gpus):
    """`pip install cupy-cuda13x` alone has no compiler: its extra [ctk] has."""
    cupy_with_two_gpus.cuda.nvrtc.getVersion = cuda_error("Failure finding libnvrtc.so.13\nmore")
    expected = "CuPy 14.2.0 cannot compile kernels: Failure finding libnvrtc.so.13: "
    expected += how_to_install("cupy")
    assert "[ctk]" in expected
    assert refusal(lambda: resolve(device="cuda")) == expected
    assert resolve().reason == f"auto: {expected}"


def test_cupy_compiles_with_precompiled_headers_unless_it_is_told_not_to(
    cupy_with_two_gpus, monkeypatch
):
    monkeypatch.delenv("CUPY_NVRTC_USE_PCH", raising=False)
    get_backend("cupy", "cuda:0")
    assert os.environ["CUPY_NVRTC_USE_PCH"] == "1"
    monkeypatch.setenv("CUPY_NVRTC_USE_PCH", "0")
    get_backend("cupy", "cuda:0")
    assert os.environ["CUPY_NVRTC_USE_PCH"] == "0"


def test_memory_that_cupy_keeps_is_free_and_cuda_too_can_run_out(cupy_with_two_gpus):
    cuda = cupy_with_two_gpus.cuda

    class Device:
        mem_info = (1000, 9000)
        current: ClassVar = []

        def __init__(self, index):
            self.id = index

        def __enter__(self):
            self.current.append(self.id)

        def __exit__(self, *error):
            self.current.pop()

    cuda.Device = Device
    pool = SimpleNamespace(free_bytes=lambda: 500 if Device.current == [1] else 0)
    cupy_with_two_gpus.get_default_memory_pool = lambda: pool
    backend = get_backend("cupy", "cuda:1")
    assert backend.free_memory() == 1500
    assert backend.out_of_memory(MemoryError())
    for name, runs_out in {"cudaErrorMemoryAllocation: out of memory": True, BUSY: False}.items():
        with pytest.raises(RuntimeError) as raised:
            cuda_error(name)()
        assert backend.out_of_memory(raised.value) == runs_out


def test_auto_with_a_gpu_is_cupy_on_the_first(cupy_with_two_gpus):
    backend, reason = resolve(dtype="float64")
    assert (backend.name, backend.device_name, backend.dtype_name) == ("cupy", "cuda:0", "float64")
    assert reason == "auto: CuPy sees a GPU"


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_cuda_is_an_error_that_says_cupy_is_missing(no_cupy, name):
    assert refusal(lambda: resolve(device=name)) == NO_CUPY


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_cuda_is_an_error_that_says_the_gpu_is_missing(cupy_without_gpu, name):
    assert refusal(lambda: resolve(device=name)) == NO_GPU
    assert refusal(lambda: get_backend("cupy", name)) == NO_GPU


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_cuda_is_cupy_on_the_device_asked_for(cupy_with_two_gpus, name, index):
    backend, reason = resolve(device=name)
    assert (backend.name, backend.device_name) == ("cupy", f"cuda:{index}")
    assert backend.device.id == index
    assert backend.device.id == index  # where it computes: test_two_gpus.py
    assert reason == f"device {name} was requested"


@pytest.fixture
def cupy_linalg(monkeypatch, cupy_with_two_gpus):
    """The switch of CuPy's own products, as CuPy 14.2 has it."""
    set_to = {}
    linalg = SimpleNamespace(
        COMPUTE_TYPE_DEFAULT=1, COMPUTE_TYPE_TF32=7, set_compute_type=set_to.__setitem__
    )
    core = ModuleType("cupy._core")
    core._routines_linalg = linalg
    monkeypatch.setitem(sys.modules, "cupy._core", core)
    return set_to


def test_tf32_of_cupy_is_off_until_it_is_allowed(cupy_linalg, monkeypatch):
    monkeypatch.delenv("CUPY_TF32", raising=False)
    backend = get_backend("cupy", "cuda:0")
    assert backend.tf32() == "off"
    backend.allow_tf32(True)
    assert (backend.tf32(), cupy_linalg) == ("on", {"float32": 7})
    backend.allow_tf32(False)
    assert (backend.tf32(), cupy_linalg) == ("off", {"float32": 1})
    for setting, said in {"1": "on", "3": "on", "0": "off", "-1": "off", "yes": "off"}.items():
        monkeypatch.setenv("CUPY_TF32", setting)
        assert get_backend("cupy", "cuda:0").tf32() == said
    assert get_backend("cupy", "cuda:0", "float64").tf32() == "does not apply"


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_tf32_is_switched_where_it_applies(name):
    if not backend_class(name).probe().devices:
        pytest.skip(f"{name} is not installed")
    backend = get_backend(name, "cpu")
    backend.allow_tf32(True)
    assert backend.tf32() == backend.describe()["tf32"] == "does not apply"
    if name == "torch":
        from torch.backends.cuda import matmul as switch

        attribute = "allow_tf32"
    else:
        from jax import config as switch

        attribute = "jax_default_matmul_precision"
    before = getattr(switch, attribute)
    assert before in (False, None)  # the CPU had no say
    backend.device_name = "cuda:0"
    try:
        for allowed, said in {True: "on", False: "off"}.items():
            backend.allow_tf32(allowed)
            assert backend.tf32().startswith(f"{said} (")
        backend.dtype_name = "float64"
        assert backend.tf32() == "does not apply"
    finally:
        if name == "torch":
            switch.allow_tf32 = before
        else:
            switch.update(attribute, before)


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(cupy_with_two_gpus):
    expected = "backend 'cupy' has no device 'cuda:2'; its devices: cuda:0, cuda:1"
    assert refusal(lambda: resolve(device="cuda:2")) == expected
    assert "has no device 'cpu'" in refusal(lambda: get_backend("cupy", "cpu"))


def test_cupy_names_the_gpu_and_the_versions_of_cuda(cupy_with_two_gpus):
    runtime = cupy_with_two_gpus.cuda.runtime
    runtime.getDeviceProperties = lambda index: {"name": f"GPU {index}".encode()}
    runtime.runtimeGetVersion = lambda: 12090
    described = get_backend("cupy", "cuda:1").describe()
    assert (described["gpu"], described["cuda"], described["driver_cuda"]) == (
        *("GPU 1", "12.9", "13.0"),
    )


def test_cupy_that_cannot_be_imported_is_said_so(monkeypatch):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: object())

    class Broken:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "cupy":
                raise ImportError("libcudart.so: cannot open\nshared object file")  # noqa: EM101

    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    message = refusal(lambda: resolve(device="cuda"))
    assert message.endswith("cannot be imported: libcudart.so: cannot open")
    assert resolve().backend.name == "numpy"


@pytest.mark.parametrize(
    ("name", "at", "reason"),
    [
        ("torch", "auto", "named"),
        ("numpy", "cpu", "both named"),
        ("array-api-strict", "device1", "both named"),
    ],
)
def test_a_named_backend_is_taken(name, at, reason):
    if backend_class(name).probe().version is None:
        pytest.skip(f"{name} is not installed")
    backend, why = resolve(name, at)
    assert (backend.name, why) == (name, reason)


def test_an_unknown_device_names_the_known_ones():
    expected = "unknown device 'gpu'; use auto, cpu, cuda or cuda:N, or name a backend"
    assert refusal(lambda: resolve(device="gpu")) == expected


# -- get_backend ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [("nunpy", "numpy"), ("pytorch", "torch"), ("array_api_strict", "array-api-strict")],
)
def test_an_unknown_backend_is_refused_with_the_nearest(name, meant):
    expected = f"unknown backend {name!r}; did you mean {meant!r}?"
    assert refusal(lambda: get_backend(name)) == expected
    assert refusal(lambda: resolve(name)) == expected


def test_a_backend_like_none_is_refused_with_all(monkeypatch):
    assert refusal(lambda: get_backend("zzz")).endswith(f"known: {', '.join(backend_names())}")


def test_the_built_in_backends_come_first():
    builtin = ["numpy", "cupy", "torch", "jax", "array-api-strict"]
    assert backend_names()[:5] == builtin
    assert [backend_class(name).name for name in builtin] == builtin


@pytest.mark.parametrize("dtype", ["float16", "int32", "double", ""])
def test_an_unknown_dtype_is_refused(dtype):
    expected = f"dtype must be one of float32, float64; got {dtype!r}"
    assert refusal(lambda: get_backend("numpy", dtype=dtype)) == expected


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "array-api-strict"])
def test_a_device_that_is_not_there_is_refused(name):
    probe = backend_class(name).probe()
    if probe.version is None:
        pytest.skip(f"{name} is not installed")
    message = refusal(lambda: get_backend(name, "cuda:99"))
    assert message.startswith(f"backend {name!r} has no device 'cuda:99'")
    assert message.endswith(f"its devices: {', '.join(probe.devices)}")
    assert probe.note in message


@pytest.mark.parametrize(
    ("name", "extra", "module"),
    [("torch", "torch", "torch"), ("jax", "jax", "jax"), ("array-api-strict", "strict", None)],
)
def test_a_library_that_is_not_installed_is_named_with_a_remedy(monkeypatch, name, extra, module):
    module = module or "array_api_strict"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *a: None)
    expected = f"backend {name!r} is not installed: {how_to_install(extra)}"
    assert backend_class(name).probe() == Probe(None, (), expected)
    assert refusal(lambda: get_backend(name)) == expected


def test_jax_without_a_device_says_what_was_asked_of_it():
    if backend_class("jax").probe().version is None:
        pytest.skip("jax is not installed")
    program = "from xpnet.backends import get_backend; get_backend('jax')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"JAX_PLATFORMS": "cuda_of_nowhere", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert "BackendError: JAX has no device (JAX_PLATFORMS='cuda_of_nowhere')" in last


def test_a_class_without_a_method_says_which():
    class Half(Backend):
        name = "half"

        @classmethod
        def probe(cls):
            return Probe("1", ("cpu",))

    message = refusal(Half)
    assert message.startswith("backend class Half must define ")
    for method in ("xp", "device", "owns", "place", "to_host"):
        assert f"'{method}'" in message
    assert "'probe'" not in message


def test_a_class_without_probe_says_so_before_it_is_instantiated():
    class Blind(Backend):
        name = "blind"
        xp, device, owns = NumpyBackend.xp, NumpyBackend.device, NumpyBackend.owns
        place, to_host = NumpyBackend.place, NumpyBackend.to_host

    assert refusal(Blind) == refusal(Blind.probe) == "backend class Blind must define 'probe'"


# -- arrays ---------------------------------------------------------------------------------------


def strict_array(x, where="device1"):
    return array_api_strict.asarray(x, device=array_api_strict.Device(where))


def test_arrays_of_another_library_are_refused(backend):
    other = strict_array(np.ones(2)) if backend.name != "array-api-strict" else torch_tensor()
    message = refusal(lambda: backend.asarray(other))
    assert message.startswith(f"backend {backend.name!r} was given an array of ")
    assert refusal(lambda: Loader(backend, other)) == message


def torch_tensor(**options):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return torch.ones(2, **options)


def test_arrays_of_another_device_are_refused():
    backend = get_backend("array-api-strict", "device1")
    expected = "the array is on array_api_strict.Device('device2'), but the backend is on device1; "
    message = refusal(lambda: backend.asarray(strict_array(np.ones(2), "device2")))
    assert message == expected + "move one of them"
    elsewhere = strict_array(np.ones((4, 2)), "device2")
    trainer = Trainer([Dense(2)], backend=backend)
    assert refusal(lambda: trainer.fit((elsewhere, np.zeros(4, int)), epochs=1)) == message
    x = strict_array(np.ones((4, 2)))
    y = strict_array(np.zeros(4, np.int32), "device2")
    assert refusal(lambda: trainer.fit((x, y), epochs=1)) == message


@pytest.mark.parametrize(
    "x", [["a", "b"], [1j], [None, 1.0], np.zeros(2, "datetime64[s]")], ids=str
)
def test_what_holds_no_real_numbers_is_refused(backend, x):
    with pytest.raises(DataError, match="must hold real numbers; got dtype"):
        backend.asarray(x)


@pytest.mark.parametrize("label", [2**32 + 1, 2**31, -(2**31) - 1])
def test_integers_that_int32_would_wrap_are_refused(backend, label):
    with pytest.raises(DataError, match=f"int32, which cannot hold {label}"):
        backend.asarray([0, label])


@pytest.mark.parametrize("name", ["numpy", "torch", "array-api-strict"])
def test_a_label_is_not_wrapped_into_a_class(name):
    backend = placed_examples(name, "float32")[0]
    labels = [0, 2**32 + 1]  # which int32 would take for 0 and 1
    y = backend.xp.asarray(labels, dtype=backend.xp.int64, device=backend.device)
    trainer = Trainer([Dense(2)])
    trainer.fit((backend.asarray(np.eye(2)), y), epochs=1)
    assert list(trainer.classes) == labels
    other = backend.xp.asarray([0, 1], dtype=backend.xp.int64, device=backend.device)
    with pytest.raises(DataError, match="label 1 is not among the 2 classes"):
        trainer.evaluate((backend.asarray(np.eye(2)), other))


@pytest.mark.parametrize(
    ("dtype", "placed"),
    [
        ("float16", "float"),
        ("float64", "float"),
        ("int64", "int32"),
        ("uint8", "int32"),
        ("bool", "bool"),
    ],
)
def test_host_dtypes_are_placed_as_the_backends(backend32, dtype, placed):
    array = backend32.asarray(np.array([0, 1], dtype=dtype))
    wanted = backend32.dtype if placed == "float" else getattr(backend32.xp, placed)
    assert array.dtype == wanted


# -- following the data ---------------------------------------------------------------------------


def placed_examples(name, dtype):
    """x and y as arrays of a library, where a user would have put them."""
    if backend_class(name).probe().version is None:
        pytest.skip(f"{name} is not installed")
    where = {"array-api-strict": "device1"}.get(name, "cpu")
    backend = get_backend(name, where, dtype)
    x = np.random.default_rng(5).normal(size=(12, 4))
    return backend, backend.asarray(x), backend.asarray(np.arange(12) % 3)


@pytest.mark.long_where(name=["jax"], dtype=["float64"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["torch", "jax", "array-api-strict"])
def test_the_trainer_follows_arrays_to_their_library_device_and_dtype(name, dtype):
    home, x, y = placed_examples(name, dtype)
    trainer = Trainer([Dense(5), ReLU(), Dense(3)], batch_size=5)
    history = trainer.fit((x, y), epochs=2, validation=(x, y))
    assert repr(trainer.backend) == repr(home)
    assert np.isfinite(history[-1]["val_loss"])
    state = trainer.engine.state
    for array in (state.params, *state.slots, *state.totals[:-1]):
        assert home.owns(array)
        assert device(array) == home.device
        assert array.dtype == home.dtype


def test_an_asked_dtype_comes_before_that_of_the_arrays():
    _, x, y = placed_examples("array-api-strict", "float32")
    trainer = Trainer([Dense(3)], dtype="float64")
    trainer.fit((x, y), epochs=1)
    assert repr(trainer.backend) == "StrictBackend(device='device1', dtype='float64')"


def test_host_data_is_trained_on_in_float32(no_cupy):
    trainer = Trainer([Dense(3)])
    trainer.fit((np.eye(3), [0, 1, 2]), epochs=1)
    assert repr(trainer.backend) == "NumpyBackend(device='cpu', dtype='float32')"


def test_a_named_backend_refuses_the_arrays_of_another():
    _, x, y = placed_examples("array-api-strict", "float32")
    message = refusal(lambda: Trainer([Dense(3)], backend="numpy").fit((x, y), epochs=1))
    assert message.startswith("backend 'numpy' was given an array of array_api_strict")


def test_the_trainer_takes_the_backend_of_a_feed():
    loader = Loader(get_backend("array-api-strict", "device2", "float64"), np.eye(3), [0, 1, 2])
    trainer = Trainer([Dense(3)])
    trainer.fit(loader, epochs=1)
    assert trainer.backend is loader.backend


@pytest.mark.parametrize(
    "options", [{"backend": "numpy"}, {"device": "cpu"}, {"backend": get_backend("numpy")}], ids=str
)
def test_a_feed_of_another_backend_is_refused(options):
    loader = Loader(get_backend("array-api-strict", "device2"), np.eye(3), [0, 1, 2])
    expected = "the loader is for StrictBackend(device='device2', dtype='float32'), "
    expected += "but the training is on NumpyBackend(device='cpu', dtype='float32')"
    assert refusal(lambda: Trainer([Dense(3)], **options).fit(loader, epochs=1)) == expected


def test_backend_of_host_data_is_none():
    for x in (np.ones(2), np.float64(1), [1.0], None):
        assert backend_of(x) is None


def test_an_array_of_an_unknown_library_is_refused():
    class Tensor:
        __module__ = "nolib.core"
        __dlpack__ = None

    expected = f"no backend for an array of nolib; known: {', '.join(backend_names())}"
    assert refusal(lambda: backend_of(Tensor())) == expected


def test_an_array_on_a_device_that_training_cannot_use_is_refused():
    message = refusal(lambda: backend_of(torch_tensor(device="meta")))
    assert message.startswith("backend 'torch' has no device 'meta'")


# -- importing ------------------------------------------------------------------------------------

LIBRARIES = {"cupy", "torch", "jax", "array_api_strict", "numba"}
HEAVY = LIBRARIES | {"rich", "click", "pooch", "pyarrow", "safetensors", "pandas", "scipy"}


def loaded_by(statement):
    """The root modules that a fresh interpreter has after a statement, beyond its start."""
    program = "import sys; before = set(sys.modules); "
    program += f"{statement}; print(*{{m.partition('.')[0] for m in set(sys.modules) - before}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_import_xpnet_loads_nothing_but_the_standard_library():
    loaded = loaded_by("import xpnet") - set(sys.stdlib_module_names)
    assert loaded == {"xpnet", "lazy_loader"}  # which loads nothing itself


@pytest.mark.parametrize(
    "statement",
    [
        "import xpnet.backends",
        "import xpnet.step, xpnet.optim.optimizers",
        "from xpnet import Trainer",
        "from xpnet.backends import resolve; resolve('numpy')",
    ],
)
def test_training_on_numpy_loads_no_other_library(statement):
    loaded = loaded_by(statement)
    assert {"xpnet", "numpy"} <= loaded
    assert not loaded & HEAVY
