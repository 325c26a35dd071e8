"""Where a step is timed and how its products are rounded: one pin for every library beside it."""

from dataclasses import dataclass

from xpnet.backends import Backend, get_backend
from xpnet.errors import ConfigError
from xpnet.step.mixed_precision import Mixed

__all__ = ["PRECISIONS", "Setting"]

PRECISIONS = ("float32", "float64", "tf32", "bfloat16", "float16")


@dataclass(frozen=True)
class Setting:
    """A device, ``cpu``, ``cuda`` or ``cuda:N``, and a precision.

    float32 and float64 are meant as they are written; tf32 is float32 whose products' factors are
    rounded to 10 bits; bfloat16 and float16 have layers in that, and weights, loss and update in
    float32. Libraries differ in what they do unasked, so each is told.

    >>> Setting("cuda", "bfloat16").dtype
    'float32'
    """

    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.device != "cpu" and self.device.partition(":")[0] != "cuda":
            msg = f"a step is timed on cpu, cuda or cuda:N; got {self.device!r}"
            raise ConfigError(msg)
        if self.precision not in PRECISIONS:
            msg = f"precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}"
            raise ConfigError(msg)
        if self.precision == "tf32" and not self.on_gpu:
            msg = "precision tf32 is one of NVIDIA's GPUs: use --device cuda, or float32"
            raise ConfigError(msg)

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def dtype(self) -> str:
        """The dtype of weights, loss and update."""
        return "float64" if self.precision == "float64" else "float32"

    @property
    def narrow(self) -> str | None:
        """The 16-bit dtype of the layers, if that is the precision."""
        return self.precision if self.precision in ("bfloat16", "float16") else None

    @property
    def mixed(self) -> Mixed | None:
        """The same for xpnet's own step."""
        return None if self.narrow is None else Mixed(self.narrow)  # type: ignore[arg-type]

    def backend(self, name: str) -> Backend:
        """Return a library's backend on the device, TF32 pinned; raises BackendError."""
        backend = get_backend(name, self.device, self.dtype)
        backend.allow_tf32(self.precision == "tf32")
        return backend

    def __str__(self) -> str:
        return f"{self.precision} on {self.device}"
