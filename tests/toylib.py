"""A small array library of the Array API: NumPy behind a class of its own.

``library(exp=...)`` plants a fault in a function of it, ``without=("log1p",)`` leaves one out,
and ``calls`` records what was used.
"""

import operator

import array_api_compat.numpy as base
import numpy as np

OPERATORS = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "truediv",
    "@": "matmul",
    "&": "and",
    "|": "or",
    "^": "xor",
    ">>": "rshift",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "==": "eq",
    "!=": "ne",
}


class Library:
    """A namespace, as a module would be."""

    __version__ = "0.0"

    def __init__(self, faults, without, part=base, prefix="", calls=None, array=None):
        self._faults, self._without, self._part, self._prefix = faults, without, part, prefix
        self.calls = set() if calls is None else calls
        self.Array = array or array_class(self)
        self.__name__ = "toylib"

    def __getattr__(self, name):
        full = self._prefix + name
        if name.startswith("__") or full in self._without:
            raise AttributeError(name)
        value = getattr(self._part, name)
        if name == "linalg":
            return Library(self._faults, self._without, value, "linalg.", self.calls, self.Array)
        self.calls.add(full)
        if isinstance(value, type) or not callable(value):
            return value
        function = self._faults.get(full, value)
        return lambda *args, **kwargs: self.wrap(
            function(*map(bare, args), **{k: bare(v) for k, v in kwargs.items() if k != "device"})
        )

    def wrap(self, x):
        return self.Array(np.asarray(x)) if isinstance(x, np.ndarray | np.generic) else x


def bare(x):
    if isinstance(x, list | tuple):
        return type(x)(bare(v) for v in x)
    return x.values if hasattr(x, "values") and hasattr(x, "__array_namespace__") else x


def array_class(library):
    def binary(sign, name):
        function = getattr(operator, f"{name}_" if name in ("and", "or") else name)

        def forward(self, other):
            library.calls.add(sign)
            return library.wrap(function(self.values, bare(other)))

        def backward(self, other):
            library.calls.add(sign)
            return library.wrap(function(bare(other), self.values))

        def in_place(self, other):
            library.calls.add(f"{sign}=")
            self.values[...] = function(self.values, bare(other))
            return self

        methods = {f"__{name}__": forward}
        if sign[0] not in "<>=!":
            methods |= {f"__r{name}__": backward}
        if sign in ("+", "-", "*", "/"):
            methods |= {f"__i{name}__": in_place}
        return methods

    class Array:
        __hash__ = None
        __array_priority__ = 100

        def __init__(self, values):
            self.values = values

        def __array_namespace__(self, *, api_version=None):
            return library

        def __array__(self, dtype=None, copy=None):
            return np.array(self.values, dtype=dtype)

        def __getitem__(self, key):
            kind = "x[:, None]" if isinstance(key, tuple) and None in key else "x[i:j]"
            library.calls.add(kind)
            return library.wrap(self.values[key])

        def __neg__(self):
            library.calls.add("-")
            return library.wrap(-self.values)

        def __invert__(self):
            library.calls.add("~")
            return library.wrap(~self.values)

        def __len__(self):
            return len(self.values)

        @property
        def T(self):
            library.calls.add("x.T")
            return library.wrap(self.values.T)

        shape = property(lambda self: self.values.shape)
        dtype = property(lambda self: self.values.dtype)
        device = property(lambda self: "toy")

    for sign, name in OPERATORS.items():
        for method, function in binary(sign, name).items():
            setattr(Array, method, function)
    return Array


def library(*, without=(), **faults):
    return Library(faults, without)
