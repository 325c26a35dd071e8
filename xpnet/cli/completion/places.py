"""Files, folders and run folders that begin as the typed text does."""

import os
from collections.abc import Iterator

from click.shell_completion import CompletionItem

__all__ = ["is_run", "paths", "runs"]

MOST = 1000  # of a folder; nobody reads more


def paths(typed: str, *, only_folders: bool = False, ends: tuple[str, ...] = ()) -> Iterator:
    """Yield what is in the folder that ``typed`` names so far; of files those with such ends."""
    head, tail = os.path.split(typed)
    try:
        with os.scandir(os.path.expanduser(head) or ".") as folder:
            entries = sorted(
                (entry for entry in folder if entry.name.startswith(tail)), key=lambda e: e.name
            )
    except OSError:
        return
    for entry in entries[:MOST]:
        if entry.name.startswith(".") and not tail.startswith("."):
            continue
        path = os.path.join(head, entry.name)
        if entry.is_dir():
            # A run is complete as it stands; any other folder has something in it.
            yield CompletionItem(path if is_run(entry.path) else f"{path}/")
        elif not only_folders and (not ends or entry.name.endswith(ends)):
            yield CompletionItem(path)


def runs(typed: str) -> Iterator:
    """Yield the run folders of the usual place, the newest first, then what else could be one."""
    found = [item for item in paths("runs/") if is_run(item.value)]
    for item in sorted(found, key=lambda item: -os.stat(item.value).st_mtime):
        if item.value.startswith(typed):
            yield item
    seen = {item.value for item in found}
    for item in paths(typed, ends=(".safetensors",)):
        if item.value not in seen:
            yield item


def is_run(folder: str) -> bool:
    """Whether a folder has the config of a run."""
    return os.path.isfile(os.path.join(os.path.expanduser(folder), "config.toml"))
