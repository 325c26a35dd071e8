"""Where xpnet keeps what it can make or fetch again: data sets, compiled kernels, words."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return the folder in ``XPNET_CACHE_DIR``, or else the user's own for caches."""
    if os.environ.get("XPNET_CACHE_DIR"):
        return Path(os.environ["XPNET_CACHE_DIR"])
    import platformdirs

    return platformdirs.user_cache_path("xpnet")
