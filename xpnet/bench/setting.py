"""The device and precision of a benchmark, the same for every library."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xpnet.backends import Backend, get_backend
from xpnet.errors import ConfigError
from xpnet.step.mixed_precision import Mixed

if TYPE_CHECKING:
    from xpnet.kernels.cuda.executor import CupyExecutor

__all__ = ["PRECISIONS", "Setting"]

PRECISIONS = ("float32", "float64", "tf32", "bfloat16", "float16")


@dataclass(frozen=True)
class Setting:
    """A device, ``cpu``, ``cuda`` or ``cuda:N``, and a precision.

    float32 and float64 are exactly that; tf32 is float32 with the factors of matrix products
    rounded to 10 bits of mantissa; with bfloat16 and float16 the layers compute in that dtype, and
    weights, loss and update are in float32. Defaults differ between libraries, so each is told.

    >>> Setting("cuda", "bfloat16").dtype
    'float32'
    """

    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.device != "cpu" and self.device.partition(":")[0] != "cuda":
            msg = f"--device must be cpu, cuda or cuda:N; got {self.device!r}"
            raise ConfigError(msg)
        if self.precision not in PRECISIONS:
            msg = f"--precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}"
            raise ConfigError(msg)
        if self.precision == "tf32" and not self.on_gpu:
            msg = "--precision tf32 needs an NVIDIA GPU: use --device cuda or --precision float32"
            raise ConfigError(msg)

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def dtype(self) -> str:
        """Return the dtype of weights, loss and update."""
        return "float64" if self.precision == "float64" else "float32"

    @property
    def narrow(self) -> str | None:
        """Return the layers' 16-bit dtype; None for the other precisions."""
        return self.precision if self.precision in ("bfloat16", "float16") else None

    @property
    def mixed(self) -> Mixed | None:
        """Return xpnet's mixed precision for ``narrow``; None for the other precisions."""
        return None if self.narrow is None else Mixed(self.narrow)  # type: ignore[arg-type]

    def backend(self, name: str) -> Backend:
        """Return a library's backend on the device, with TF32 set; raises BackendError."""
        backend = get_backend(name, self.device, self.dtype)
        backend.allow_tf32(self.precision == "tf32")
        return backend

    def executor(self) -> "CupyExecutor":
        """Return what runs the kernels and products of xpnet's step on the GPU."""
        from xpnet.kernels.cuda import executor  # looked up here: a rehearsal has its own

        device, tf32 = self.backend("cupy").device, self.precision == "tf32"
        return executor.CupyExecutor(device, self.dtype, tf32=tf32, narrow=self.narrow)

    def __str__(self) -> str:
        return f"{self.precision} on {self.device}"
