"""The entry point of pytest: the options of the conformance suite, where that is asked for.

pytest reads a conftest of a package that --pyargs names too late for its options. Other runs of
pytest are left alone.
"""

from typing import Any

SUITE = "xpnet.check.conformance"


def pytest_load_initial_conftests(early_config: Any, args: list[str]) -> None:
    """Load the suite's options before the command line is parsed."""
    if any(argument.startswith(SUITE) for argument in args):
        early_config.pluginmanager.import_plugin(f"{SUITE}.options")
