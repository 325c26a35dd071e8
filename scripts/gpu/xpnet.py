"""The command line of xpnet as the stages call it: ``python -m gpu.xpnet COMMAND``.

In a rehearsal the package has put its stand-ins in place of CuPy by then, and ``bench`` times a
small network for xpnet alone. Nothing is fast on a CPU, so that all it expects is to be timed.
"""

import os
import sys

from xpnet.cli.main import main

__all__ = ["rehearsed"]

SMALL = ["--rows", "16-8-4:8:sgd", "--rounds", "1", "--only", "xpnet cupy"]
SMALL += ["--expect", "ratio<1000000"]


def rehearsed(given: list[str]) -> list[str]:
    """Return what a rehearsal makes of a command line.

    >>> rehearsed(["bench", "--expect", "ratio<1", "--device", "cuda"])[:3]
    ['bench', '--device', 'cuda']
    """
    if given[:1] != ["bench"]:
        return given
    expected = {i + n for i, word in enumerate(given) if word == "--expect" for n in (0, 1)}
    return [word for i, word in enumerate(given) if i not in expected] + SMALL


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(rehearsed(arguments) if os.environ.get("XPNET_GPU_REHEARSAL") else arguments)
