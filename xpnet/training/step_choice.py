"""Who takes the training step: one table.

    step         what takes it
    "portable"   the formulas as they are written, an operation at a time, on any backend
    "fused"      kernels for the whole step: FUSED has a row for each backend that has them
    "jit"        the formulas, through the compiler of the library: JAX and PyTorch
    "auto"       fused where there are kernels for everything in the training; else jit where that
                 is the default of the backend (JAX); else portable

What "auto" cannot have it does without, and says why; what is asked for by name is an error.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from xpnet.backends import Backend
from xpnet.backends.backend import installed_version
from xpnet.errors import BackendError, UnsupportedError, how_to_install, import_failure
from xpnet.nn import BatchNorm, Sequential
from xpnet.nn.losses import Loss
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import Optimizer
from xpnet.parallel.across import Across
from xpnet.registry import name_of
from xpnet.step import make_gradient, make_train_step
from xpnet.step.data_parallel import make_shared_gradient, meetings
from xpnet.step.microbatch import accumulated
from xpnet.step.mixed_precision import Mixed, make_mixed_step

__all__ = ["FUSED", "STEPS", "ChosenStep", "Step", "StepRequest", "choose_step"]

Step = Literal["auto", "portable", "fused", "jit"]
STEPS: tuple[Step, ...] = get_args(Step)


@dataclass(frozen=True)
class StepRequest:
    """What a step has to do, and where; ``model`` is built."""

    backend: Backend
    model: Sequential
    loss: Loss
    optimizer: Optimizer
    clip: Clip = Clip()
    mixed: Mixed | None = None
    accumulate: int = 1  # micro-batches that the gradient of a batch is accumulated over
    alpha: float = 0.0  # the penalty of make_gradient
    across: Across | None = None  # the ranks that share each batch


class ChosenStep(NamedTuple):
    """A train step, called as :func:`xpnet.step.make_train_step`'s, and what it is."""

    kind: Literal["portable", "fused", "jit"]
    train: Callable
    why: str = ""  # why "auto" came to the portable step where there is another

    @property
    def gathers(self) -> bool:
        """Whether it takes :class:`xpnet.step.Rows` of a data set, too."""
        return getattr(self.train, "gathers", False)

    def at_once(self, rows: int) -> int:
        """Return how many steps of so many rows it is best given at once."""
        best = getattr(self.train, "at_once", None)
        return 1 if best is None else best(rows)

    @property
    def until_steady(self) -> int:
        """How many steps of a batch size may each take more memory than the one before."""
        return getattr(self.train, "until_steady", 1)

    @property
    def note(self) -> str:
        """What takes the steps and why, for a run's record; a graph is known after some steps."""
        own = getattr(self.train, "note", self.why)
        if self.kind == "fused":
            return own
        return f"{self.kind}: {own}" if own else self.kind

    @property
    def algorithms(self) -> Mapping[str, str]:
        """What the step found to be the fastest, and would have to find again for the same bits."""
        return getattr(self.train, "algorithms", {})

    def prefer(self, algorithms: Mapping[str, str]) -> None:
        """Take these algorithms, if the step has a choice of its own."""
        if hasattr(self.train, "prefer"):
            self.train.prefer(algorithms)


def choose_step(step: Step, request: StepRequest) -> ChosenStep:
    """Return the step that ``step`` names.

    Raises BackendError where it is named and cannot be had.
    """
    backend, why = request.backend, ""
    if step not in STEPS:
        msg = f"step must be one of {', '.join(map(repr, STEPS))}; got {step!r}"
        raise BackendError(msg)
    if step in ("auto", "fused"):
        try:
            return ChosenStep("fused", _fused(request))
        except UnsupportedError as error:
            if step == "fused":
                msg = f"there is no fused step for this training ({error})"
                raise BackendError(msg, **_instead("auto")) from error
            if backend.name in FUSED:
                why = str(error)
                on_gpu = backend.device_name.startswith("cuda")
                level, where = (logging.WARNING, "GPU") if on_gpu else (logging.INFO, "CPU")
                logging.getLogger("xpnet").log(level, "the portable step on the %s: %s", where, why)
    if step == "jit" and not backend.has_jit:
        msg = f"backend {backend.name!r} has no jit compiler; torch and jax have one"
        raise BackendError(msg, **_instead("auto"))
    if step == "jit" or (step == "auto" and backend.jit_by_default):
        why = _why_not_compiled(request)
        if not why:
            return ChosenStep("jit", _compiled(request))
        if step == "jit":
            msg = f"the step cannot be compiled: {why}"
            raise BackendError(msg, **_instead("auto"))
        logging.getLogger("xpnet").info("the portable step: %s", why)
    return ChosenStep("portable", backend.bound(_portable(request)), why)


def _instead(step: Step) -> dict[str, str]:
    return {"python": f"use step={step!r}", "command": f"use --set step={step}"}


def _why_not_compiled(request: StepRequest) -> str:
    """Say why the library's compiler cannot have the step, "" where it can."""
    found = [] if request.across is None else meetings(request.model, request.across)
    return f"{name_of(found[0])} sums over the processes, outside a compiler" if found else ""


def _compiled(request: StepRequest) -> Callable:
    """The portable step through the library's compiler; what ranks sum is summed outside it."""
    backend = request.backend
    if request.across is None:
        return backend.jit(_portable(request), donate=True)

    def jit(update: Callable) -> Callable:
        # The statistics are as before, as nothing that is compiled here changes any, and may not
        # be handed over twice. A rank's number of rows and the keys would only compile it again.
        compiled = backend.jit(
            lambda state, g, inputs: update(state, g._replace(stats=state.stats), inputs),
            donate=True,
        )
        return lambda state, g, inputs: compiled(
            state, g._replace(stats=None), inputs._replace(keys=(), rows=None)
        )

    return _portable(request, backend.jit, jit)


def _same(function: Callable) -> Callable:
    return function


def _portable(
    request: StepRequest,
    jit: Callable[[Callable], Callable] = _same,
    jit_update: Callable[[Callable], Callable] = _same,
) -> Callable:
    """The step of the portable formulas; what ranks share is compiled in parts."""
    r = request
    alone = r.accumulate == 1 and r.mixed is None and r.across is None
    if r.alpha and not alone:
        msg = "the penalty alpha goes with neither accumulate nor mixed, nor with several processes"
        raise BackendError(msg, python="use the weight_decay of the optimizer instead")
    if r.across is not None:
        gradient = make_shared_gradient(r.model, r.loss, r.across, jit)
    else:
        gradient = make_gradient(r.model, r.loss, r.alpha)
        if r.accumulate > 1:
            gradient = accumulated(gradient, r.accumulate, summed=r.loss.reduction == "sum")
    if r.mixed is None:
        return make_train_step(r.model, r.loss, r.optimizer, r.clip, gradient, jit_update)
    narrow = r.backend.dtype_named(r.mixed.dtype)
    return make_mixed_step(gradient, r.optimizer, r.clip, r.mixed, narrow, jit_update)


def _fused(request: StepRequest) -> Callable:
    """The fused step of the backend; raises UnsupportedError with the reason if there is none."""
    if request.backend.name not in FUSED:
        msg = f"backend {request.backend.name!r} has no kernels; {' and '.join(FUSED)} have"
        raise UnsupportedError(msg)
    if request.across is not None and request.across.share.parts is not None:
        msg = "reduce = 'ordered' adds up the parts of a batch in their order, which has no kernels"
        raise UnsupportedError(msg)
    found = [] if request.across is None else meetings(request.model, request.across)
    own = [layer for layer in found if type(layer) is not BatchNorm]
    if own:
        msg = f"{name_of(own[0])} sums over the processes by itself, and has no kernels"
        raise UnsupportedError(msg)
    if request.alpha:
        msg = "the penalty alpha has no kernels"
        raise UnsupportedError(msg)
    return FUSED[request.backend.name](request)


def _fused_numpy(r: StepRequest) -> Callable:
    if r.accumulate > 1 or r.mixed is not None:
        msg = "accumulate and mixed have no kernels on a CPU"
        raise UnsupportedError(msg)
    if installed_version(("numba",), "numba") is None:
        msg = f"Numba is not installed: {how_to_install('fast')}"
        raise UnsupportedError(msg)
    if broken := import_failure("numba"):
        msg = f"the fused step needs {broken}"
        raise UnsupportedError(msg)
    try:
        from xpnet.kernels.cpu.fused_step import FusedStep
    except ImportError as error:  # one for another NumPy, or switched off
        msg = f"Numba cannot be used: {error}"
        raise UnsupportedError(msg) from error
    return FusedStep(r.model, r.loss, r.optimizer, r.clip, r.backend.dtype_name, r.across)


def _fused_cupy(r: StepRequest) -> Callable:
    from xpnet.kernels.cuda.executor import CupyExecutor
    from xpnet.kernels.cuda.graphed_step import FusedStep

    backend, narrow = r.backend, None if r.mixed is None else r.mixed.dtype
    if narrow and backend.dtype_name != "float32":
        msg = f"mixed precision beside {backend.dtype_name} has no kernel"
        raise UnsupportedError(msg)
    tf32 = backend.tf32() == "on"
    executor = CupyExecutor(backend.device, backend.dtype_name, tf32=tf32, narrow=narrow)
    return FusedStep(
        executor, r.model, r.loss, r.optimizer, r.clip, r.mixed, r.accumulate, r.across
    )


# Name of a backend -> what makes its fused step, or raises UnsupportedError saying why not.
FUSED: dict[str, Callable[[StepRequest], Any]] = {"numpy": _fused_numpy, "cupy": _fused_cupy}
