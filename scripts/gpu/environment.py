"""What the report was made on: machine, versions, and the libraries that were really loaded.

python -m gpu.environment FILE
"""

import contextlib
import platform
import subprocess
import sys

from gpu.card import card, clocks, loaded
from gpu.keeping import Kept
from gpu.subject import of_network, taken
from gpu.tools import find_tool
from xpnet.backends import BACKENDS, backend_class
from xpnet.bench import Setting
from xpnet.bench.results import machine

TOOLS = ("compute-sanitizer", "ncu", "nvcc", "cuobjdump")


def versions() -> dict[str, str]:
    """Return the paths that cuda.pathfinder finds, in CuPy's and our order."""
    found = {}
    for name in ("nvrtc", "cublas", "cublasLt", "nvJitLink", "cudart"):
        try:
            from cuda.pathfinder import load_nvidia_dynamic_lib

            found[name] = str(load_nvidia_dynamic_lib(name).abs_path)
        except Exception as error:  # it is another CuPy's, or the library is not here
            found[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return found


def main(file: str) -> int:
    """Write the environment, and print it."""
    kept = Kept(file)
    kept.put(system=f"{platform.system()} {platform.release()}", **machine(Setting("cuda")))
    kept.put(clocks=clocks(), tools={name: find_tool(name) for name in TOOLS})
    kept.put(backends={name: backend_class(name).probe()._asdict() for name in BACKENDS})
    with contextlib.suppress(OSError):
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
        kept.put(nvidia_smi=done.stdout.splitlines())
    ready = taken(of_network("64-32-10:32:sgd", "float32"))
    for _ in range(4):
        ready.take()
    ready.executor.to_host(ready.take().params)
    kept.put(first_step=ready.step.note, loaded=loaded(), pathfinder=versions())
    try:
        kept.put(**card().facts())
    except Exception as error:  # it is only for people
        print(f"CuPy does not show its configuration: {type(error).__name__}: {error}")
    shown = dict(kept.found)
    for name in ("nvidia_smi", "CuPy"):
        print("\n".join(shown.pop(name, [])))
    print("\n".join(f"{key}: {value}" for key, value in shown.items() if value))
    if not ready.step.note.startswith("CUDA graph"):
        kept.miss(f"the first step is no graph: {ready.step.note}")
    return kept.code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
