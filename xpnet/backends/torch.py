"""PyTorch, on the CPU or on CUDA, without its autograd: the gradients are ours."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from xpnet.backends.backend import Backend, Probe
from xpnet.backends.threads import ThreadPool
from xpnet.typing import Array

__all__ = ["TorchBackend"]


@functools.cache
def _threads() -> ThreadPool:
    import torch

    return ThreadPool([(torch.get_num_threads, torch.set_num_threads)])


class TorchBackend(Backend):
    """Torch tensors that do not require gradients."""

    name = "torch"

    @classmethod
    def probe(cls) -> Probe:
        found = cls._library("torch", "torch", "torch")
        if found.note:
            return found
        version = found.version
        import torch

        if torch.cuda.is_available():
            cuda = tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
            return Probe(version, (*cuda, "cpu"))
        note = "PyTorch sees no CUDA device: it needs an NVIDIA GPU with its driver"
        if torch.version.cuda is None:
            note = f"torch {version} is a CPU build: install a CUDA build of PyTorch"
        return Probe(version, ("cpu",), note)

    @property
    def xp(self) -> Any:
        import array_api_compat.torch

        return array_api_compat.torch

    @property
    def device(self) -> Any:
        import torch

        return torch.device(self.device_name)

    def place(self, host: np.ndarray) -> Array:
        import torch

        return torch.from_numpy(host).to(self.device)

    def _move(self, x: Array, dtype: str) -> Array:
        # A tensor that records a graph would keep every step's arrays alive.
        return super()._move(x.detach(), dtype)

    def to_host(self, x: Array) -> np.ndarray:
        return np.array(x.detach().cpu().numpy())

    def owns(self, x: Any) -> bool:
        return type(x).__module__.partition(".")[0] == "torch"

    def free_memory(self) -> int | None:
        import torch

        return torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else None

    def out_of_memory(self, error: BaseException) -> bool:
        import torch

        # On the CPU PyTorch raises a plain RuntimeError and says so in its text only.
        return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
            isinstance(error, RuntimeError) and "allocate memory" in str(error)
        )

    def synchronize(self, x: Array) -> None:
        import torch

        if x.is_cuda:
            torch.cuda.synchronize(x.device)

    def threads(self) -> ThreadPool | None:
        return _threads() if self.device_name == "cpu" else None

    def tf32(self) -> str:
        import torch

        if not self._has_tf32:
            return super().tf32()
        matmul = torch.backends.cuda.matmul
        if hasattr(matmul, "fp32_precision"):  # else the older switch may raise
            precision = matmul.fp32_precision
            return f"{'on' if precision == 'tf32' else 'off'} (cuda.matmul.fp32_precision)"
        return f"{'on' if matmul.allow_tf32 else 'off'} (cuda.matmul.allow_tf32)"

    def allow_tf32(self, allowed: bool) -> None:
        import torch

        if self._has_tf32:
            torch.backends.cuda.matmul.allow_tf32 = allowed  # sets the newer switch as well

    def jit(self, function: Callable, *, donate: bool = False) -> Callable:
        import torch

        compiled = torch.compile(function)
        if not donate or self.device.type != "cuda":
            return compiled
        from xpnet.backends.torch_graph import GraphedStep, cuda_graph

        return GraphedStep(compiled, functools.partial(cuda_graph, device=self.device))
