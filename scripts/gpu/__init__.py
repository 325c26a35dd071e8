"""The stages of scripts/gpu-report; ``plan.py`` lists them.

Each is a module that runs as ``python -m gpu.NAME``. In a rehearsal XPNET_GPU_REHEARSAL names a
folder, and NumPy and the emulated kernels take the place of CuPy before anything else is imported.
"""

import os

if os.environ.get("XPNET_GPU_REHEARSAL"):
    from gpu.standin import register

    register()
