"""The tests of PyTorch and JAX on the GPU, where they see one.

python -m gpu.libraries FILE PYTEST-ARGUMENT...
"""

import os
import subprocess
import sys

from xpnet.backends import backend_class


def seen(name: str, device: str) -> str | None:
    """Return the first device of a kind that a library sees, or None."""
    devices = backend_class(name).probe().devices
    return next((d for d in devices if d.partition(":")[0] == device), None)


def main(file: str, *arguments: str) -> int:
    """Run them; in a rehearsal on the CPU."""
    device = "cpu" if os.environ.get("XPNET_GPU_REHEARSAL") else "cuda"
    suffix = "" if device == "cpu" else f"-{device}"
    names = [name + suffix for name in ("torch", "jax") if seen(name, device)]
    if not names:
        print(f"neither PyTorch nor JAX sees {device}: no tests to run")
        return 0
    os.environ["XPNET_TEST_BACKENDS"] = ",".join(names)
    required = [f"--require-backend={name}" for name in names]
    chosen = ["-k", f"({' or '.join(names)}) and not cupy", "--record", file]
    command = [sys.executable, "-m", "pytest", *chosen, *arguments, *required]
    return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
