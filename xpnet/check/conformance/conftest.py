"""Leaves the suite out where pytest walks over the package without having been asked for it."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore this folder's files without the options."""
    asked = config.pluginmanager.has_plugin("xpnet.check.conformance.options")
    return None if asked else True
