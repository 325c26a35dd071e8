"""Does another array library compute what NumPy computes? A config run side by side with it."""

from xpnet.check.parity.compare import TOLERANCES
from xpnet.check.parity.module import ModuleBackend, load_module
from xpnet.check.parity.operations import OPERATIONS, check_operations
from xpnet.check.parity.report import Report, Result, to_json, to_markdown
from xpnet.check.parity.side_by_side import parity

__all__ = [
    "OPERATIONS",
    "TOLERANCES",
    "ModuleBackend",
    "Report",
    "Result",
    "check_operations",
    "load_module",
    "parity",
    "to_json",
    "to_markdown",
]
