"""What takes CuPy's place in a rehearsal: NumPy arrays, and kernels that g++ has compiled.

Everything else is as on a GPU: the backend is called ``cupy`` and its device ``cuda:0``.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from cuda_on_cpu import CpuExecutor

from xpnet import backends
from xpnet.backends import Probe
from xpnet.backends.numpy import NumpyBackend
from xpnet.kernels.cuda import executor
from xpnet.kernels.cuda.sources import Kernel

__all__ = ["Graph", "StandInBackend", "StandInExecutor", "register"]


def register() -> None:
    """Let the name ``cupy`` mean the stand-ins, in this process."""
    backends.BACKENDS["cupy"] = f"{__name__}:StandInBackend"
    executor.CupyExecutor = StandInExecutor  # type: ignore[assignment,misc]


class StandInBackend(NumpyBackend):
    """NumPy under CuPy's name, with its device and its fused step."""

    name = "cupy"

    @classmethod
    def probe(cls) -> Probe:
        return Probe(f"a stand-in, NumPy {np.__version__}", ("cuda:0",))

    def describe(self) -> dict[str, str]:
        versions = {"cuda": "none", "driver_cuda": "none"}
        return {**super().describe(), "gpu": "a stand-in for a GPU", **versions}

    def tf32(self) -> str:
        return "off"


class Graph:
    """What ``Stream.end_capture`` returns, as far as it is used."""

    def __init__(self, replay: Callable[[], None], nodes: list[str]) -> None:
        self._replay, self._nodes = replay, nodes

    def launch(self) -> None:
        self._replay()

    def debug_dot_str(self, flags: int = 0) -> str:
        """The text of cudaGraphDebugDotPrint: nodes, then edges."""
        lines = ["digraph dot {", "subgraph cluster_1 {", 'label="graph_1" graph[style="dashed"];']
        for i, name in enumerate(self._nodes):
            at = f'"graph_1_node_{i}"'
            lines.append(f'{at}[style="bold" shape="octagon" label="{i}\n{name}\n"];')
            if i:
                lines.append(f'"graph_1_node_{i - 1}" -> {at};')
        return "\n".join([*lines, "}", "}"]) + "\n"


@contextmanager
def _alone() -> Iterator[Path]:
    """The folder of compiled kernels, which the stages share and one process at a time writes."""
    folder = Path(os.environ["XPNET_GPU_REHEARSAL"])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


class StandInExecutor(CpuExecutor):
    """CupyExecutor's arguments and graphs; the kernels are compiled for the CPU."""

    def __init__(
        self, device: Any, dtype: str, *, tf32: bool = False, narrow: str | None = None
    ) -> None:
        with _alone() as folder:
            super().__init__(dtype, folder, narrow=narrow)

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        with _alone():
            super().prepare(kernels)

    def _call(self, what: str, run: Callable[[], None]) -> Callable[[], None]:
        call = super()._call(what, run)

        def listed() -> None:
            if self.recording is not None:
                self.nodes.append(what)
            call()

        return listed

    def capture(self, work: Any) -> Callable[[], None]:
        self.nodes: list[str] = []
        return Graph(super().capture(work), self.nodes).launch
