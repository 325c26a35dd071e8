"""Matrix products by cuBLASLt, with the fastest algorithm for each: measured once, remembered.

cuBLASLt names several algorithms for a product, in the order that it expects of their times. At the
first run of a product, which comes before any capture, each is timed on the arrays of that run.
Other algorithms give other bits, so the choice is kept: :mod:`xpnet.kernels.cuda.choices`. Only
algorithms that give the same bits in each run are asked for.

The epilogue of a product can add a bias and apply ReLU. Some algorithms turn NaN into 0 then, by
which a training that diverged would go on: each is first tried on a bias of NaN.
"""

import ctypes
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from xpnet.errors import BackendError
from xpnet.kernels.cuda.blas import Library, Numbers, Products, Rest, Run
from xpnet.kernels.cuda.choices import Choices
from xpnet.kernels.cuda.lanes import Call
from xpnet.kernels.cuda.matmul import SIGNATURES, Algorithm, Matmul, Problem
from xpnet.typing import Array

__all__ = ["BlasLt", "CublasLt", "Device", "fastest"]

MARGIN = 1.03  # how much slower than the fastest an algorithm may be that comes before it
APART = b""  # in place of an algorithm: the bias is added by a launch of its own
# How an algorithm was chosen: it comes first, was timed in this process, or in an earlier one.
HOW = FIRST, MEASURED, REMEMBERED = "first", "measured", "remembered"
NAN = {"uint16": np.uint16(0x7FC0)}  # bfloat16 is stored as its bits


class Device(Protocol):
    """What products need of an executor."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array: ...
    def place(self, host: np.ndarray) -> Array: ...
    def to_host(self, x: Array) -> np.ndarray: ...
    def address(self, x: Array) -> int: ...

    def can_measure(self) -> bool:
        """Return whether work may be timed now: not while it is captured."""
        ...

    def measured(self, runs: Sequence[Run]) -> list[float]:
        """Return the seconds that each takes; infinite for one that fails."""
        ...


def fastest(times: Sequence[float]) -> int:
    """Return the first that is at most 3 % slower than the fastest: a tie is not left to noise.

    >>> fastest([1.02, 1.0, 1.5]), fastest([1.04, 1.0, 1.02])
    (0, 1)
    """
    most = MARGIN * min(times)
    return next(i for i, time in enumerate(times) if time <= most)


class Chosen:
    """The algorithm of a product; ``options`` are to be timed before its first run."""

    def __init__(self, algorithm: bytes, how: str, options: Sequence[bytes] = ()) -> None:
        self.algorithm, self.options = Algorithm(), options
        self.take(algorithm, how)

    def take(self, algorithm: bytes, how: str) -> None:
        """Replace the algorithm where it is, for calls have its address."""
        ctypes.memmove(self.algorithm, algorithm, len(algorithm))
        self.value, self.apart, self.how = algorithm, algorithm == APART, how


class CublasLt:
    """A handle of cuBLASLt, and the algorithms that were chosen with it.

    ``library`` is cuBLASLt in ctypes; ``choices`` are those of earlier processes. With ``timed``
    false a product takes the algorithm that is expected to be the fastest, and a bias is added
    apart, unless :meth:`prefer` says otherwise.
    """

    def __init__(
        self,
        library: Any,
        device: Device,
        numbers: Numbers,
        choices: Choices,
        *,
        timed: bool = True,
    ) -> None:
        self.library, self.device, self.numbers = Library(library, SIGNATURES), device, numbers
        self.handle = self.library.made(self, "cublasLtCreate", "cublasLtDestroy")
        self._choices, self._timed, self._why_not = choices, timed, ""
        self._preferred: Mapping[str, str] = {}
        self._chosen: dict[Problem, Chosen] = {}

    @property
    def note(self) -> str:
        """How many algorithms were chosen, and how."""
        how = [chosen.how for chosen in self._chosen.values()]
        counts = [f"{how.count(kind)} {kind}" for kind in HOW if kind in how]
        text = f"products by cuBLASLt (algorithms: {', '.join(counts) or 'none'})"
        return f"{text}; {self._why_not}" if self._why_not else text

    def matmul(self, *arrays: Array, relu: bool = False) -> Matmul:
        return Matmul(self.library, self.device.address, self.numbers, *arrays, relu=relu)

    def choice(self, matmul: Matmul) -> Chosen | None:
        """Return what was chosen for a product, or is to be; None if there is no algorithm."""
        problem = matmul.problem
        if problem not in self._chosen:
            algorithms = matmul.algorithms(self.handle)
            if not algorithms:
                return None
            options = [APART, *algorithms] if problem.epilogue else algorithms
            self._chosen[problem] = self._remembered(matmul, options)
        return self._chosen[problem]

    @property
    def algorithms(self) -> dict[str, str]:
        """The algorithms of the products so far, in hexadecimal, by their names."""
        return {
            self._choices.name(str(problem)): chosen.value.hex()
            for problem, chosen in self._chosen.items()
            if not chosen.options  # else it is not settled
        }

    def prefer(self, algorithms: Mapping[str, str]) -> bool:
        """Take these from now on, in other processes, too; return whether any so far was another.

        Only what cuBLASLt would run is taken of them: they may come from a file of anyone.
        """
        self._preferred, mine = algorithms, self.algorithms
        names = {self._choices.name(str(problem)): problem for problem in self._chosen}
        differ = [name for name in mine if algorithms.get(name, mine[name]) != mine[name]]
        for name in differ:
            del self._chosen[names[name]]
        return bool(differ)

    def _remembered(self, matmul: Matmul, options: list[bytes]) -> Chosen:
        """What is preferred or kept for a product; else its first option, until all are timed."""
        name, choices = str(matmul.problem), self._choices
        preferred = self._preferred.get(choices.name(name))
        if preferred is not None:
            if (algorithm := self._of_hex(matmul, options, preferred)) is not None:
                return Chosen(algorithm, REMEMBERED)
            self._give_up("the checkpoint has an algorithm that cuBLASLt does not take here")
        if not self._timed or len(options) == 1:
            return Chosen(options[0], FIRST)
        try:
            kept = choices.find(name)
            if kept is None:
                choices.prepare()
                return Chosen(options[0], FIRST, options)
            if not self._takes(matmul, options, kept):
                raise choices.refused(name, "has an algorithm that cuBLASLt does not take here")
        except BackendError as error:
            self._give_up(f"not all are timed: {error}")
            return Chosen(options[0], FIRST)
        return Chosen(kept, REMEMBERED)

    def _of_hex(self, matmul: Matmul, options: list[bytes], text: str) -> bytes | None:
        """An algorithm of a checkpoint, if a product can take it."""
        try:
            algorithm = bytes.fromhex(text)
        except ValueError:
            return None
        return algorithm if self._takes(matmul, options, algorithm) else None

    def _takes(self, matmul: Matmul, options: list[bytes], algorithm: bytes) -> bool:
        """Whether a product can take an algorithm that was kept.

        That it is no option proves nothing: cuBLASLt may name others the next time.
        """
        whole = len(algorithm) == ctypes.sizeof(Algorithm)
        return algorithm in options or (whole and matmul.takes(self.handle, algorithm))

    def is_open(self, chosen: Chosen) -> bool:
        """Whether the options are to be timed; in a capture the first one is settled for."""
        if chosen.options and not self.device.can_measure():
            chosen.options = ()
        return bool(chosen.options)

    def choose(self, matmul: Matmul, chosen: Chosen, run: Callable[[bytes], Run]) -> None:
        """Time the options, each of which ``run`` makes a function of, and keep the best."""
        options, chosen.options = chosen.options, ()
        times = self.device.measured([run(option) for option in options])
        try:
            best = options[fastest(times)]
            chosen.take(self._choices.keep(str(matmul.problem), best, times), MEASURED)
        except BackendError as error:
            self._give_up(f"not all are timed: {error}")

    def _give_up(self, why: str) -> None:
        """Leave a product its first option: one that is not kept may differ on resuming."""
        if not self._why_not:
            self._why_not = why
            logging.getLogger("xpnet").warning("products on the GPU: %s", self._why_not)


class BlasLt:
    """:class:`~xpnet.kernels.cuda.blas.Products` by cuBLASLt.

    ``workspace`` is a device buffer of ``WORKSPACE_BYTES``; ``others`` makes what computes the
    products that cuBLASLt has no algorithm for.
    """

    def __init__(self, lt: CublasLt, workspace: Array, others: Callable[[], Products]) -> None:
        self._lt, self._workspace, self._make_others = lt, workspace, others

    @cached_property
    def _others(self) -> Products:
        return self._make_others()

    @property
    def note(self) -> str:
        return self._lt.note

    def product(self, a: Array, b: Array, out: Array, *, add: bool = False) -> Run:
        lt, workspace = self._lt, self._workspace
        matmul = lt.matmul(a, b, out)
        if (chosen := lt.choice(matmul)) is None:
            return self._others.product(a, b, out, add=add)
        compute = matmul.run(lt.handle, chosen.algorithm, workspace, add=add)

        def choose() -> None:
            to = lt.device.empty(out.shape, str(out.dtype)) if add else None  # out is added to once
            lt.choose(matmul, chosen, lambda option: self._run(matmul, option, add=add, to=to))

        def run(stream: int) -> None:
            if lt.is_open(chosen):
                choose()
            compute(stream)

        return run

    def affine(
        self, a: Array, b: Array, bias: Array, out: Array, *, relu: bool, apart: Call
    ) -> tuple[Run, Rest]:
        product, lt = self.product(a, b, out), self._lt
        matmul = lt.matmul(a, b, out, bias, relu=relu)
        if (chosen := lt.choice(matmul)) is None:
            return product, Rest(apart)
        with_bias = matmul.run(lt.handle, chosen.algorithm, self._workspace)

        def in_two(stream: int) -> None:
            product(stream)
            apart()

        def choose(stream: int) -> None:
            in_two(stream)  # chooses for the product alone
            chosen.options = self._keep_nan(chosen.options, (a, b, out, bias), relu, stream)
            lt.choose(matmul, chosen, lambda o: in_two if o == APART else self._run(matmul, o))

        def run(stream: int) -> None:
            if lt.is_open(chosen):
                choose(stream)
            (product if chosen.apart else with_bias)(stream)

        return run, Rest(apart, lambda: not chosen.apart)

    def _keep_nan(
        self, options: Sequence[bytes], arrays: Sequence[Array], relu: bool, stream: int
    ) -> list[bytes]:
        """The options that give NaN where the bias is NaN; the first and last rows show it."""
        *matrices, bias = arrays
        nan = np.full(bias.shape, NAN.get(str(bias.dtype), np.nan), str(bias.dtype))
        tried = self._lt.matmul(*matrices, self._lt.device.place(nan), relu=relu)
        out, kept = matrices[2], []
        for option in options:
            if option != APART:
                try:
                    self._run(tried, option)(stream)
                except BackendError:
                    continue
                rows = [self._lt.device.to_host(row) for row in (out[0], out[-1])]
                if not all(map(_all_nan, rows)):
                    continue
            kept.append(option)
        return kept

    def _run(self, matmul: Matmul, option: bytes, **given: Any) -> Run:
        algorithm = Algorithm.from_buffer_copy(option)
        return matmul.run(self._lt.handle, algorithm, self._workspace, **given)

    def use(self, stream: int) -> None:
        if "_others" in vars(self):
            self._others.use(stream)


def _all_nan(x: np.ndarray) -> bool:
    if x.dtype == np.uint16:  # bfloat16: the upper half of a float32
        x = (x.astype(np.uint32) << 16).view(np.float32)
    return bool(np.isnan(x).all())
