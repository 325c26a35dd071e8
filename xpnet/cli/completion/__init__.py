"""Completion at the prompt: commands, options, files, runs, settings with their values, columns.

The script that ``xpnet completion SHELL`` prints calls xpnet at each TAB with ``_XPNET_COMPLETE``
set. A parameter is completed by what its metavar names (words.py), so a new command needs nothing.
No TAB imports NumPy: settings come from the JSON Schema of a config, which is kept in the cache.
"""

from xpnet.cli.completion.shells import SHELLS, script
from xpnet.cli.completion.words import completing

__all__ = ["SHELLS", "completing", "script"]
