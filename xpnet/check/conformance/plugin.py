"""Gives pytest the suite's options where the command line names the suite, and nothing elsewhere.

pytest does not read the conftest.py of a package given by ``--pyargs`` before it parses options, so
this is an entry point. Every session of pytest loads it, and array-api-tests has options of the
same names: it looks at the arguments first. Without an installed xpnet, say
``-p xpnet.check.conformance.plugin``.
"""

from typing import Any

SUITE = "xpnet.check.conformance"


def pytest_load_initial_conftests(early_config: Any, args: list[str]) -> None:
    """Load the options before they are parsed."""
    named = (word.partition("::")[0].partition(".test_")[0] for word in args)
    if SUITE in named:
        early_config.pluginmanager.import_plugin(f"{SUITE}.options")
