"""A stand-in for CuPy on NumPy, beneath the namespace that array-api-compat has for CuPy.

It refuses what CuPy refuses: an array of NumPy among its own, a conversion that nobody asked for,
and an array of another device than the current one, from which a kernel of CuPy would read what it
may not. Within `no_waiting()` it raises where CuPy makes the host wait for the device: where a
number is asked for, and where a shape depends on what is in an array. Those places are the ones of
CuPy 14.2: cupy/_core/{core,_routines_indexing,_routines_sorting}.pyx.
"""

import contextlib
import operator
import sys
import threading
import types

import numpy as np


class WaitedError(Exception):
    """The host waited for the device."""


class RefusedError(TypeError):
    """CuPy does not take this."""


class _State(threading.local):
    waiting = True  # whether the host may wait
    waited = 0  # how often it has
    device = 0  # the current one, which each thread has for itself
    gpus = 2


State = _State()


def _wait(what):
    State.waited += 1
    if not State.waiting:
        raise WaitedError(what)


class Device:
    def __init__(self, device=None):
        self.id = State.device if device is None else int(device)
        self.outer = []

    def __int__(self):
        return self.id

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return hash(self.id)

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def use(self):
        State.device = self.id

    def __enter__(self):
        self.outer.append(State.device)
        State.device = self.id
        return self

    def __exit__(self, *error):
        State.device = self.outer.pop()

    def synchronize(self):
        _wait("Device.synchronize")

    mem_info = property(lambda self: (2**33, 2**34))


class ndarray:  # noqa: N801 - its name in CuPy
    """An array on a device; all operations that `_operators` gives it return such arrays."""

    __module__ = "cupy"
    __array_priority__ = 100

    def __init__(self, host, device=None):
        self.host, self.device = host, Device(device)

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    flags = property(lambda self: self.host.flags)
    T = property(lambda self: ndarray(self.host.T, self.device))
    mT = property(lambda self: ndarray(np.swapaxes(self.host, -1, -2), self.device))  # noqa: N815

    def __len__(self):
        return len(self.host)

    def get(self, stream=None, order="C", out=None, blocking=True):
        _wait("get")
        if out is None:
            return self.host.copy()
        assert (out.dtype, out.shape) == (self.dtype, self.shape)
        out[...] = self.host
        return out

    def set(self, arr, stream=None):
        assert type(arr) is np.ndarray
        assert (arr.dtype, arr.shape) == (self.dtype, self.shape)
        _unwrapped(self)[...] = arr

    def __array__(self, *given, **options):
        msg = "Implicit conversion to a NumPy array is not allowed"
        raise RefusedError(msg)

    __dlpack__ = __array__

    def __array_ufunc__(self, ufunc, method, *given, **options):
        if method != "__call__":
            return NotImplemented
        return _wrapped(ufunc, ufunc.__name__)(*given, **options)

    def __getitem__(self, key):
        keys = key if isinstance(key, tuple) else (key,)
        gathers = any(isinstance(k, ndarray | list) for k in keys)  # else it is a view
        return _result(self, (_unwrapped(self) if gathers else self.host)[_key(key)])

    def __setitem__(self, key, value):
        _unwrapped(self)[_key(key)] = _unwrapped(value)


def _key(key):
    """An index as NumPy takes it; of a mask, CuPy counts the entries on the host."""
    keys = key if isinstance(key, tuple) else (key,)
    if any(getattr(k, "dtype", None) == np.bool_ or isinstance(k, bool) for k in keys):
        _wait("a mask")
    keys = tuple(map(_unwrapped, keys))
    return keys if any(k is Ellipsis for k in keys) else (*keys, ...)  # a view, also of one entry


def _unwrapped(x):
    if isinstance(x, ndarray):
        if x.device.id != State.device:
            msg = f"an array of cuda:{x.device.id} while cuda:{State.device} is the current device"
            raise RefusedError(msg)
        return x.host
    if isinstance(x, np.ndarray):
        msg = f"Unsupported type {type(x)}"
        raise RefusedError(msg)
    if isinstance(x, list | tuple):
        return type(x)(map(_unwrapped, x))
    return x


def _result(like, x):
    return ndarray(np.asarray(x), like.device)


def _made(x):
    if isinstance(x, np.ndarray | np.generic):
        return ndarray(np.asarray(x))
    return type(x)(map(_made, x)) if isinstance(x, list | tuple) else x


def _wrapped(function, name):
    """A function of NumPy for these arrays; its result is on the current device."""

    def call(*given, **options):
        if name == "reshape" and isinstance(given[0], ndarray):
            return given[0].reshape(*given[1:], **options)
        given = [_unwrapped(x) for x in given]
        options = {k: _unwrapped(v) for k, v in options.items()}
        if name in WAITING:
            _wait(name)
        return _made(function(*given, **options))

    return call


# What asks for a number, or returns as many entries as the data say; Thrust sorts and waits.
WAITING = {
    *("nonzero", "argwhere", "flatnonzero", "unique", "extract", "compress", "place", "bincount"),
    *("histogram", "intersect1d", "union1d", "setdiff1d", "isin", "in1d", "delete", "trim_zeros"),
    *("sort", "argsort", "lexsort", "partition", "argpartition", "median", "percentile"),
}
# The host's numbers.
NUMBERS = ("__bool__", "__int__", "__float__", "__index__", "__complex__", "item", "tolist")
# Methods that are functions of NumPy's arrays.
METHODS = (
    *("astype", "reshape", "ravel", "copy", "view", "fill", "sum", "max", "min", "mean", "all"),
    *("any", "argmax", "argmin", "transpose", "take", "squeeze", "conj", "nonzero"),
)
OPERATORS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and", "or", "xor", "lshift", "rshift"),
)
VIEWS = ("reshape", "ravel", "view")
ABSENT = ("unstack", "vecdot", "matvec", "vecmat", "geomspace", "insert", "errstate")


def _operators():
    def unary(name):
        return lambda self, *given, **options: _made_like(self, name, given, options)

    def number(name):
        def refuse(self, *given):
            _wait(name)
            return getattr(self.host, name)(*given)

        return refuse

    def inplace(function):
        def change(self, other):
            function(_unwrapped(self), _unwrapped(other))
            return self

        return change

    def _made_like(self, name, given, options):
        if name in WAITING:
            _wait(name)
        if not (name in VIEWS and self.flags.c_contiguous):  # a view is no kernel
            _unwrapped(self)
        found = getattr(self.host, name)(*map(_unwrapped, given), **options)
        return found if found is None else _result(self, found)

    def binary(function, *, reflected):
        def compute(self, other):
            a, b = _unwrapped(self), _unwrapped(other)
            return _made(function(b, a) if reflected else function(a, b))

        return compute

    for name in METHODS:
        setattr(ndarray, name, unary(name))
    for name in NUMBERS:
        setattr(ndarray, name, number(name))
    for name in OPERATORS:
        function = getattr(operator, f"__{name}__")
        setattr(ndarray, f"__{name}__", binary(function, reflected=False))
        setattr(ndarray, f"__r{name}__", binary(function, reflected=True))
        setattr(ndarray, f"__i{name}__", inplace(getattr(operator, f"__i{name}__")))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        function = getattr(operator, f"__{name}__")
        setattr(ndarray, f"__{name}__", binary(function, reflected=False))
    for name in ("__neg__", "__pos__", "__abs__", "__invert__"):
        setattr(ndarray, name, unary(name))
    ndarray.__hash__ = object.__hash__


_operators()


def _array(obj, dtype=None, copy=None, **ignored):
    """``array`` and ``asarray``: the one way in from the host."""
    whole = obj if isinstance(obj, np.ndarray) else _unwrapped(obj)
    return ndarray(np.array(whole, dtype=dtype, copy=copy))


def _modules():
    """The modules by name, as far as array-api-compat and xpnet look for them."""
    names = ["cupy", "cupy.linalg", "cupy.fft", "cupy.cuda", "cupy.cuda.device", "cupy.cuda.memory"]
    names += ["cupyx"]
    made = {name: types.ModuleType(name) for name in names}
    for library, module in ((np, made["cupy"]), (np.linalg, made["cupy.linalg"])):
        for name in dir(library):
            found = getattr(library, name)
            if name.startswith("_") or name in ABSENT or isinstance(found, types.ModuleType):
                continue
            function = callable(found) and not isinstance(found, type)
            setattr(module, name, _wrapped(found, name) if function else found)
    del made["cupy.linalg"].vector_norm  # which CuPy leaves to array-api-compat
    for name, module in made.items():
        package, _, last = name.rpartition(".")
        if package:
            setattr(made[package], last, module)
    cupy, cuda = made["cupy"], made["cupy.cuda"]
    cupy.__version__, cupy.ndarray, cupy.dtype = "14.2.0", ndarray, np.dtype
    cupy.array = cupy.asarray = _array
    cuda.Device = made["cupy.cuda.device"].Device = Device
    cuda.is_available = lambda: True
    made["cupyx"].empty_pinned = np.empty
    cuda.nvrtc = types.SimpleNamespace(getVersion=lambda: (13, 0))
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 0)
    made["cupy.cuda.memory"].OutOfMemoryError = type("OutOfMemoryError", (MemoryError,), {})
    cuda.runtime = types.SimpleNamespace(
        getDeviceCount=lambda: State.gpus,
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        getDeviceProperties=lambda index: {"name": b"a GPU of NumPy"},
    )
    return made


_MINE = _modules()


@contextlib.contextmanager
def installed():
    """Let it be CuPy; afterwards what was there is CuPy again, array-api-compat's part included."""
    import array_api_compat

    def swap(mine):
        theirs = {}
        for name in list(sys.modules):
            if name.partition(".")[0] in ("cupy", "cupyx") or name.startswith(
                "array_api_compat.cupy"
            ):
                theirs[name] = sys.modules.pop(name)
        vars(array_api_compat).pop("cupy", None)
        sys.modules.update(mine)
        if "array_api_compat.cupy" in mine:
            array_api_compat.cupy = mine["array_api_compat.cupy"]
        return theirs

    theirs, device = swap(_MINE), State.device
    try:
        import array_api_compat.cupy

        yield _MINE["cupy"]
    finally:
        State.device = device
        _MINE.update(swap(theirs))


@contextlib.contextmanager
def no_waiting():
    """Raise WaitedError where the host would wait for the device."""
    State.waiting = False
    try:
        yield
    finally:
        State.waiting = True
