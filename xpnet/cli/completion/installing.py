"""Where a shell looks for completions."""

import os
from pathlib import Path

__all__ = ["place_of"]

LOADERS = ("/usr/share/bash-completion/bash_completion", "/etc/bash_completion")


def place_of(shell: str) -> tuple[Path, list[str]]:
    """Return the file, and lines that say what is left to do."""
    home = Path.home()
    if shell == "fish":
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return config / "fish" / "completions" / "xpnet.fish", ["fish has it from now on"]
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    if shell == "bash":
        path = data / "bash-completion" / "completions" / "xpnet"
        if any(map(os.path.isfile, LOADERS)):
            return path, ["open a new shell, whose package bash-completion loads it"]
        return path, [f"add this line to ~/.bashrc, and open a new shell: . '{path}'"]
    folder = data / "zsh" / "site-functions"
    more = ["add this line to ~/.zshrc, before any other compinit, and open a new shell:"]
    more.append(f"  fpath+=('{folder}'); autoload -Uz compinit && compinit")
    return folder / "_xpnet", more
