"""The command line of xpnet as the stages call it: ``python -m gpu.xpnet COMMAND``.

In a rehearsal the package has put its stand-ins in place of CuPy by then, and ``bench`` times a
small network for xpnet alone, whatever else it is asked for.
"""

import os
import sys

from xpnet.cli.main import main

SMALL = ["--rows", "16-8-4:8:sgd", "--rounds", "1", "--only", "xpnet cupy"]

if __name__ == "__main__":
    given = sys.argv[1:]
    if os.environ.get("XPNET_GPU_REHEARSAL") and given[:1] == ["bench"]:
        given += SMALL
    main(given)
