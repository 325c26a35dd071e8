"""What completes a parameter: that follows from its metavar, such as ``[RECIPE | FILE]``."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from xpnet.cli.completion.columns import column_names
from xpnet.cli.completion.places import paths, runs
from xpnet.cli.completion.settings import Settings

__all__ = ["completing"]

Words = Callable[[click.Context, str], Iterable[CompletionItem]]


def completing(command: click.Command) -> click.Command:
    """Give the parameters of a command their completion; those that have choices keep theirs."""
    for parameter in command.params:
        if not isinstance(parameter.type, click.Choice) and not getattr(
            parameter, "is_flag", False
        ):
            parameter.type = _Completed(parameter.type, _of(parameter))
    return command


class _Completed(click.ParamType):
    """A type that converts as ``inner`` does, and is completed from ``words``."""

    def __init__(self, inner: click.ParamType, words: list[Words]) -> None:
        self.inner, self.words, self.name = inner, words, inner.name

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return self.inner.convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        found: dict[str, CompletionItem] = {}
        for words in self.words:
            try:
                for item in words(ctx, incomplete):
                    if item.value.startswith(incomplete):
                        found.setdefault(item.value, item)
            except Exception:  # at a TAB there is nobody to tell
                continue
        return [*found.values()]


def _of(parameter: click.Parameter) -> list[Words]:
    """Return what a parameter is completed from: by its name, else by the words of its metavar."""
    option = max(parameter.opts, key=len) if isinstance(parameter, click.Option) else ""
    if option in BY_OPTION:
        return [BY_OPTION[option]]
    metavar = parameter.metavar or ""
    literal = [word for word in re.findall(r"[\w.-]+", metavar) if word.islower()]
    kinds = [BY_METAVAR[w] for w in re.findall(r"[A-Z=]+(?:\.\w+)?", metavar) if w in BY_METAVAR]
    if isinstance(parameter.type, click.Path) and not kinds:
        kinds = [_files]
    return [lambda ctx, typed: map(CompletionItem, literal), *kinds] if literal else kinds


def _setting(key: str) -> Words:
    """The values of a setting, also where an option of its own sets it."""
    return lambda ctx, typed: Settings().values(key)


def _files(ctx: click.Context, typed: str) -> Iterable[CompletionItem]:
    return paths(typed)


def _columns(ctx: click.Context, typed: str) -> Iterable[CompletionItem]:
    return map(CompletionItem, column_names(_table(ctx) or ""))


def _settings(ctx: click.Context, typed: str) -> Iterable[CompletionItem]:
    chosen = [text for text in ctx.params.get("overrides") or () if isinstance(text, str)]
    return Settings(chosen, _table(ctx)).complete(typed)


def _backends(ctx: click.Context, typed: str) -> Iterator[CompletionItem]:
    """Names, separated by commas."""
    before = typed[: typed.rfind(",") + 1]
    for item in Settings().values("backend"):
        if item.value != "auto" and item.value not in before.split(","):
            yield CompletionItem(before + item.value)


def _table(ctx: click.Context) -> str | None:
    """The file that the line names; an option without its value keeps it in the rest."""
    names = [p.name for p in ctx.command.params if isinstance(p, click.Argument)]
    given = [ctx.params.get(name) for name in names if name]
    texts = [text for text in [*given, *ctx.args] if isinstance(text, str)]
    return next((text for text in texts if os.path.isfile(os.path.expanduser(text))), None)


BY_METAVAR: dict[str, Words] = {
    "RECIPE": lambda ctx, typed: Settings().named_data(),
    "FILE": _files,
    "FILE.toml": lambda ctx, typed: paths(typed, ends=(".toml",)),
    "OUT": _files,
    "FOLDER": lambda ctx, typed: paths(typed, only_folders=True),
    "DIR": lambda ctx, typed: paths(typed, only_folders=True),
    "RUN": lambda ctx, typed: runs(typed),
    "COLUMN": _columns,
    "KEY=VALUE": _settings,
}
BY_OPTION: dict[str, Words] = {
    "--activation": _setting("model.activation"),
    "--backend": _setting("backend"),
    "--backends": _backends,
    "--device": _setting("device"),
    "--loss": _setting("loss"),
    "--recipe": _setting("recipe"),
    "--step": _setting("step"),
}
