"""What the shells are told, and what they tell: bash, zsh and fish.

click has all three; here bash completes what is behind an ``=`` too, and no shell puts a blank
behind what is to be continued: a folder, a key that waits for its value.
"""

import os
import re

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

__all__ = ["SHELLS", "script"]

BASH = """\
%(complete_func)s() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            open,*) compopt -o nospace 2>/dev/null; COMPREPLY+=("${line#*,}") ;;
            plain,*) COMPREPLY+=("${line#*,}") ;;
        esac
    done < <(COMP_LINE=$COMP_LINE COMP_POINT=$COMP_POINT COMP_WORDS=$2 COMP_CWORD=$COMP_CWORD \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a response plain open described described_open
    local kind value about
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    for kind value about in ${response}; do
        case $kind$about in
            plain_) plain+=("$value") ;;
            open_) open+=("$value") ;;
            plain*) described+=("$value:$about") ;;
            open*) described_open+=("$value:$about") ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#described_open )) && _describe -V unsorted described_open -U -S ''
    (( $#plain )) && compadd -U -V unsorted -a plain
    (( $#open )) && compadd -U -V unsorted -S '' -a open
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


def _with_ends(items: list[CompletionItem]) -> list[CompletionItem]:
    """Say which are to be continued."""
    for item in items:
        if item.value.endswith(("/", "=", ".")) and item.type == "plain":
            item.type = "open"
    return items


class Bash(BashComplete):
    """bash, which takes a word apart at each character of COMP_WORDBREAKS, such as ``=``.

    It hands over the line, and the last piece, which is what it will replace.
    """

    source_template = BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the one that it is in."""
        line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]  # characters, since 4.3
        words = split_arg_string(line)
        if not line or (line[-1].isspace() and not _is_open(line)):
            words.append("")
        self.word, self.quoted = words[-1], _is_open(line)
        piece = os.environ["COMP_WORDS"].lstrip("'\"")
        self.kept = len(self.word) - len(split_arg_string(piece)[0] if piece.strip() else piece)
        return words[1:-1], words[-1]

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        items = _with_ends(super().get_completions(args, incomplete))
        if len(items) > 1:  # there is no blank behind what several have in common
            for item in items:
                item.type = "plain"
        return items

    def format_completion(self, item: CompletionItem) -> str:
        value = (
            item.value[self.kept :] if item.value.startswith(self.word[: self.kept]) else item.value
        )
        return f"{item.type},{value if self.quoted else _escaped(value)}"


class Zsh(ZshComplete):
    """zsh, with what is said of each."""

    source_template = ZSH

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        return _with_ends(super().get_completions(args, incomplete))


class Fish(FishComplete):
    """fish, which itself puts no blank behind ``/``, ``=`` and ``.``."""

    source_template = FishComplete.source_template.replace(
        'string split ","', 'string split --max 1 ","'
    )


SHELLS = {shell.name: shell for shell in (Bash, Zsh, Fish)}
for _shell in SHELLS.values():
    add_completion_class(_shell)


def script(shell: str) -> str:
    """Return what a shell has to run to complete xpnet."""
    from xpnet.cli.main import COMPLETE, cli

    return SHELLS[shell](cli, {}, "xpnet", COMPLETE).source()


def _is_open(line: str) -> bool:
    r"""Whether the cursor is between quotes.

    >>> _is_open("show 'a b"), _is_open(r"show it\'s "), _is_open(r"show 'a\' ")
    (True, False, False)
    """
    mark, escaped = "", False
    for character in line:
        if escaped:
            escaped = False
        elif character == "\\" and mark != "'":  # between these a backslash is a character
            escaped = True
        elif mark:
            mark = "" if character == mark else mark
        elif character in "'\"":
            mark = character
    return bool(mark)


def _escaped(value: str) -> str:
    return re.sub(r"([^\w@%+=:,./~^-])", r"\\\1", value)
