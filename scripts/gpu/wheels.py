"""What the stages need of Python, and the wheels that bring it where there is no registry."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["COMMIT", "NEEDED", "absent", "install"]

COMMIT = "COMMIT"  # a file beside the wheels, which says of which commit the checkout is
NEEDED = {  # module -> the package that provides it
    "numpy": "numpy",
    "array_api_compat": "array-api-compat",
    "array_api_strict": "array-api-strict",
    "click": "click",
    "jinja2": "jinja2",
    "lazy_loader": "lazy-loader",
    "matplotlib": "matplotlib",
    "platformdirs": "platformdirs",
    "pooch": "pooch",
    "pyarrow": "pyarrow",
    "rich": "rich",
    "safetensors": "safetensors",
    "threadpoolctl": "threadpoolctl",
    "tomli_w": "tomli-w",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
    "sklearn": "scikit-learn",
    "mpmath": "mpmath",
    "ml_dtypes": "ml-dtypes",
}


def absent() -> list[str]:
    """Return the packages that this Python lacks."""
    return [name for module, name in NEEDED.items() if find_spec(module) is None]


def normal(name: str) -> str:
    """Return a package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def install(wheels: Path, site: Path) -> str:
    """Install from ``wheels`` what this Python lacks into ``site``, and import from there.

    Returns what pip said if it failed. Nothing else is installed: a wheel of what is here stays
    where it is.
    """
    lacking = set(map(normal, absent()))
    chosen = [w for w in sorted(wheels.glob("*.whl")) if normal(w.name.split("-")[0]) in lacking]
    if not chosen:
        return ""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-compile", "--disable-pip-version-check", "--target", str(site)]
    done = subprocess.run(
        [*command, *map(str, chosen)], capture_output=True, text=True, check=False
    )
    sys.path.insert(0, str(site))
    return done.stderr.strip() if done.returncode else ""
