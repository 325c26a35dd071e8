"""Whether a library may round float32 products to TF32 (10 bits), which parity has to know."""

import os

from xpnet.backends.base import Backend

__all__ = ["tf32"]


def tf32(backend: Backend) -> str:
    """Return "on", "off" or "does not apply", with the setting that decides it."""
    if not backend.device_name.startswith("cuda") or backend.dtype_name != "float32":
        return "does not apply"
    if backend.name == "torch":
        import torch

        allowed = torch.backends.cuda.matmul.allow_tf32
        return f"{'on' if allowed else 'off'} (torch.backends.cuda.matmul.allow_tf32)"
    if backend.name == "jax":
        import jax

        precision = jax.config.jax_default_matmul_precision
        allowed = precision not in ("float32", "highest")
        return f"{'on' if allowed else 'off'} (jax_default_matmul_precision={precision})"
    if backend.name == "cupy":
        value = os.environ.get("CUPY_TF32", "0")
        return f"{'on' if value == '1' else 'off'} (CUPY_TF32={value})"
    return "unknown"
