"""A library whose arrays lack what every formula asks first, tested for all the rest.

A formula begins with the namespace of its operands and makes new arrays on their device. Where a
library's arrays have no ``device``, name another namespace or none, or no function takes the
keyword, nothing else of it would be seen. So its arrays are held in ones that do, and its own
functions and operators compute; the operations, which ask for these by themselves, are never
wrapped. A training that stops at a function can go on around that too: see
:meth:`AroundBackend.standing_in`.
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import device as array_device

from xpnet.check.parity.causes import METHODS
from xpnet.check.parity.module import ModuleBackend
from xpnet.check.parity.operations import Row, reference, said
from xpnet.typing import Array

__all__ = ["AroundBackend", "HeldArray", "around", "recorder"]

DTYPES = ("bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)))
DTYPES = (*DTYPES, "float32", "float64", "complex64", "complex128")
BINARY = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and", "or", "xor", "lshift", "rshift"),
)
SIGNS = {"__neg__": "-"} | {method: sign for sign, method in reversed(METHODS.items())}
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
UNARY = ("neg", "pos", "abs", "invert", "index")


def around(backend: ModuleBackend) -> ModuleBackend:
    """Return ``backend``, or where its arrays lack what formulas ask first, one around that."""
    if isinstance(backend, AroundBackend):
        return backend
    try:
        x = backend.place(np.zeros(1, dtype=backend.dtype_name))
    except Exception:  # a library under test may raise anything; there is nothing to hold
        return backend
    lacks = _lacking(backend, x)
    return AroundBackend(backend, lacks) if lacks else backend


def recorder(dtype: str = "float64") -> "AroundBackend":
    """Return NumPy as a library under test; ``called`` will name what it was asked for."""
    return AroundBackend(ModuleBackend(reference(), dtype))


def _lacking(backend: ModuleBackend, x: Array) -> list[str]:
    """What the array or the namespace lacks of that which every formula asks first."""
    lacks, xp, options = [], backend.xp, {"dtype": getattr(x, "dtype", None)}
    try:
        named = array_namespace(x) is xp
    except Exception:  # a library under test may raise anything
        named = False
    if not named:
        lacks.append("an __array_namespace__ that returns this one")
    try:
        options["device"] = array_device(x)
    except Exception:
        lacks.append("device")
    if hasattr(xp, "zeros"):
        try:
            xp.zeros((1,), **{"device": None, **options})
        except Exception:
            lacks.append("functions with the keyword device")
    return lacks


class AroundBackend(ModuleBackend):
    """The library of ``tested``, its arrays each in a :class:`HeldArray`."""

    def __init__(self, tested: ModuleBackend, lacks: Iterable[str] = ()) -> None:
        vars(self).update(vars(tested))
        self.tested = tested
        self.lacks = tuple(lacks)  # what it goes around from the beginning
        self.stood_in: dict[str, str] = {}  # function or operator -> what the library said
        self.wrong: dict[str, str] = {}  # function or operator -> what its results are
        self.called: set[str] = set()  # functions and operators
        self.stands_in = False
        self._xp = _Namespace(self, tested.xp, reference())

    @classmethod
    def of(cls, backend: ModuleBackend) -> "AroundBackend":
        """Return a new one around ``backend``, or around what that is around."""
        if isinstance(backend, cls):
            return cls(backend.tested, backend.lacks)
        return cls(backend)

    @property
    def xp(self) -> Any:
        return self._xp

    @property
    def computes(self) -> str:
        return self.tested.computes

    @property
    def lazy(self) -> bool:
        return self.tested.lazy

    def place(self, host: np.ndarray) -> Array:
        return HeldArray(self, self.tested.place(host))

    def to_host(self, x: Array) -> np.ndarray:
        return self.tested.to_host(_bare(x))

    def owns(self, x: Any) -> bool:
        return isinstance(x, HeldArray)

    def leave_out(self, rows: Iterable[Row]) -> None:
        """Note which functions give wrong results: those NumPy stands in for at once."""
        bad = (row for row in rows if row.bad and row.status not in ("raises", "missing"))
        self.wrong = {row.function: f"{row.status}: {row.detail}" for row in bad}

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Let NumPy compute in the stead of each function that raises, is missing or ``wrong``.

        ``stood_in`` notes them.
        """
        self.stands_in = True
        try:
            yield
        finally:
            self.stands_in = False

    def run(self, name: str, own: Callable, numpys: Callable, *args: Any, **options: Any) -> Any:
        """Call a function of the library on what it is to see, and hold what it returns."""
        self.called.add(name)
        why = self.wrong.get(name) if self.stands_in else None
        if why is None:
            try:
                return self.hold(_called(own, args, options))
            except Exception as error:  # a library under test may raise anything
                if not self.stands_in:
                    raise
                why = said(error)
        return self._stand_in(name, why, numpys, args, options)

    def _stand_in(
        self, name: str, why: str, numpys: Callable, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        host = {k: self._numpys(v) for k, v in options.items() if k != "device"}
        result = self._placed(numpys(*map(self._numpys, args), **host))
        self.stood_in.setdefault(name, why)
        return result

    def hold(self, result: Any) -> Any:
        """Hold the arrays among what a function returned."""
        if isinstance(result, tuple | list):
            return [*map(self.hold, result)]
        is_array = hasattr(result, "dtype") and not isinstance(result, type)
        return HeldArray(self, result) if is_array else result

    def _numpys(self, x: Any) -> Any:
        """What NumPy is to see: a copy of an array, a dtype of its own."""
        if isinstance(x, tuple | list):
            return type(x)(map(self._numpys, x))
        if isinstance(x, HeldArray):
            return self.to_host(x)
        if x is None or isinstance(x, bool | int | float | str | slice):
            return x
        named = (n for n in DTYPES if _same(getattr(self.tested.xp, n, None), x))
        return next((np.dtype(n) for n in named), x)

    def _placed(self, result: Any) -> Any:
        if isinstance(result, np.dtype):
            return getattr(self.tested.xp, result.name)
        if isinstance(result, np.ndarray | np.generic):
            return self.place(np.array(result))
        return result


class _Namespace:
    """The functions of a library, for arrays that are held."""

    def __init__(self, owner: AroundBackend, own: Any, numpys: Any, extension: str = "") -> None:
        self._owner, self._own, self._numpys, self._extension = owner, own, numpys, extension
        self.__name__ = owner.name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and name != "__array_namespace_info__":
            raise AttributeError(name)
        try:
            found = getattr(self._own, name)
        except AttributeError:
            numpys = getattr(self._numpys, name, None)
            stands_in = self._owner.stands_in and not self._extension and name not in DTYPES
            if not stands_in or not callable(numpys):
                raise
            found = self._missing(name)
        if name in ("linalg", "fft"):
            extension = getattr(self._numpys, name)
            return _Namespace(self._owner, found, extension, f"{name}.")
        if name in DTYPES or not callable(found):
            return found

        def function(*args: Any, **options: Any) -> Any:
            numpys = getattr(self._numpys, name, found)
            return self._owner.run(self._extension + name, found, numpys, *args, **options)

        return function

    def _missing(self, name: str) -> Callable:
        def missing(*args: Any, **options: Any) -> Any:
            return getattr(self._own, name)  # the library's own complaint

        return missing


class HeldArray:
    """An array of a library with a device and a namespace of its own."""

    __slots__ = ("_owner", "array")
    __hash__ = None  # type: ignore[assignment]  # as arrays have it
    __array_ufunc__ = None  # NumPy's scalars leave operators to this class

    def __init__(self, owner: AroundBackend, array: Any) -> None:
        self._owner, self.array = owner, array

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return self._owner.xp

    @property
    def device(self) -> Any:
        """The array's own device; None, which means the default one, where it has none."""
        try:
            return array_device(self.array)
        except AttributeError:
            return None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        get = operator.attrgetter(name)
        if name in ("dtype", "shape", "ndim", "size"):
            return get(self.array)
        return self._owner.run(f"x.{name}", get, get, self)

    def __getitem__(self, key: Any) -> Any:
        return self._owner.run("x[i:j]", operator.getitem, operator.getitem, self, key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._owner.to_host(self), dtype=dtype)

    def __repr__(self) -> str:
        return repr(self.array)


def _bare(x: Any) -> Any:
    if isinstance(x, tuple | list):
        return type(x)(map(_bare, x))
    return x.array if isinstance(x, HeldArray) else x


def _same(dtype: Any, x: Any) -> bool:
    try:
        return dtype is not None and bool(dtype == x)
    except Exception:  # a dtype of a library under test may be compared with its like alone
        return False


def _called(own: Callable, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    bare = {k: _bare(v) for k, v in options.items()}
    if "device" not in bare:
        return own(*map(_bare, args), **bare)
    rest = {k: v for k, v in bare.items() if k != "device"}
    if bare["device"] is not None:  # which is the default, so that leaving it out says the same
        try:
            return own(*map(_bare, args), **bare)
        except TypeError:  # as of a keyword that is not known
            pass
    return own(*map(_bare, args), **rest)


def _operators() -> None:
    """Give the class its operators, each the library's own."""

    def add(method: str, function: Callable, sign: str, *, reflected: bool = False) -> None:
        def call(self: HeldArray, *others: Any) -> Any:
            operands = (*others, self) if reflected else (self, *others)
            return self._owner.run(sign, function, function, *operands)

        setattr(HeldArray, f"__{method}__", call)

    for name in (*BINARY, *COMPARISONS, *UNARY):
        function, sign = getattr(operator, f"__{name}__"), SIGNS.get(f"__{name}__", name)
        add(name, function, sign)
        if name in BINARY:
            add(f"r{name}", function, sign, reflected=True)
            add(f"i{name}", getattr(operator, f"__i{name}__"), f"{sign}=")
    for kind in (bool, int, float, len):
        add(kind.__name__, kind, f"{kind.__name__}()")


_operators()
