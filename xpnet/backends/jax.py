"""JAX, on the device it is given; the whole step is one compiled program."""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from xpnet.backends.backend import Backend, Probe
from xpnet.errors import BackendError, first_line
from xpnet.split_vector import SplitVector
from xpnet.typing import Array

__all__ = ["JaxBackend"]


class JaxBackend(Backend):
    """JAX arrays, committed to one device.

    JAX has 64-bit types only in a process-wide mode; asking for ``dtype="float64"`` turns it on.
    """

    name = "jax"
    jit_by_default = True
    splits = True

    def __init__(self, device: str = "auto", dtype: str = "float32") -> None:
        super().__init__(device, dtype)
        self._set_up()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._set_up()

    def _set_up(self) -> None:
        """Tell JAX what it must know in each process."""
        _register_split_vectors()
        if self.dtype_name == "float64":
            import jax

            jax.config.update("jax_enable_x64", True)

    @classmethod
    def probe(cls) -> Probe:
        found = cls._library("jax", "jax", "jax")
        if found.note:
            return found
        version = found.version
        import jax

        try:
            devices = jax.devices()
        except (RuntimeError, AssertionError) as error:  # JAX_PLATFORMS asks for what is not here
            reason = first_line(error) or "the platform is unknown"
            asked = os.environ.get("JAX_PLATFORMS", "")
            return Probe(version, (), f"JAX has no device (JAX_PLATFORMS={asked!r}): {reason}")
        names = []
        for device in devices:
            platform = "cuda" if device.platform in ("gpu", "cuda") else device.platform
            names.append(f"{platform}:{device.id}" if platform != "cpu" else "cpu")
        names = list(dict.fromkeys([*names, "cpu"]))
        note = "" if "cuda:0" in names else "JAX sees no GPU: it needs one, and jax[cuda13]"
        return Probe(version, tuple(names), note)

    @property
    def xp(self) -> Any:
        import jax.numpy

        return jax.numpy

    @property
    def device(self) -> Any:
        import jax

        platform, _, index = self.device_name.partition(":")
        try:
            return jax.devices(platform)[int(index or 0)]
        except RuntimeError as error:
            msg = f"JAX cannot use device {self.device_name!r}: {first_line(error)}"
            raise BackendError(msg) from None

    def place(self, host: np.ndarray) -> Array:
        import jax

        # A donated buffer must be JAX's own; unlike jax.numpy.array this compiles nothing.
        return jax.device_put(host, self.device, may_alias=False)

    def to_host(self, x: Array) -> np.ndarray:
        if isinstance(x, SplitVector):
            return np.concatenate([np.ravel(t) for t in x.tensors])
        return np.array(x)

    def owns(self, x: Any) -> bool:
        import jax

        return isinstance(x, jax.Array | SplitVector)

    def out_of_memory(self, error: BaseException) -> bool:
        # XLA has one error class for everything; its text begins with the status.
        return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)

    def synchronize(self, x: Array) -> None:
        import jax

        jax.block_until_ready(x)

    def tf32(self) -> str:
        import jax

        if not self._has_tf32:
            return super().tf32()
        precision = jax.config.jax_default_matmul_precision
        allowed = precision not in ("float32", "highest")
        return f"{'on' if allowed else 'off'} (jax_default_matmul_precision={precision})"

    def allow_tf32(self, allowed: bool) -> None:
        import jax

        if self._has_tf32:
            precision = "tensorfloat32" if allowed else "highest"
            jax.config.update("jax_default_matmul_precision", precision)

    def jit(self, function: Callable, *, donate: bool = False) -> Callable:
        import jax

        return jax.jit(function, donate_argnums=(0,) if donate else ())


@functools.cache
def _register_split_vectors() -> None:
    """Tell JAX, once, what a split vector is made of."""
    import jax

    jax.tree_util.register_dataclass(SplitVector, data_fields=["tensors"], meta_fields=[])
