"""``xpnet train --sweep``: what is typed, and what is shown while a sweep runs and at its end."""

import shlex
import sys
from typing import TYPE_CHECKING, Any

from xpnet.cli.options import say_test, warn
from xpnet.cli.output import only_json, print_json, say, say_above
from xpnet.cli.streams import tolerant_streams
from xpnet.errors import ConfigError
from xpnet.run.overrides import parse_setting
from xpnet.search import Sweep, sweep
from xpnet.search.loop import Status
from xpnet.search.plan import Sweeping
from xpnet.settings import build
from xpnet.training.progress import clock

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["run_sweep"]


def run_sweep(
    source: str | None,
    space: str | None,
    out: str | None,
    recipe: str | None,
    settings: list[str],
    start: str | None,
    *,
    resume: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Search, and print what was found; ``sweep.*`` of the settings are those of the sweep."""
    if space == "":
        msg = "--sweep is empty; name the file, or auto for a space around the settings"
        raise ConfigError(msg)
    own = [text for text in settings if text.startswith("sweep.")]
    shared = [text for text in settings if not text.startswith("sweep.")]
    options = {key.strip().removeprefix("sweep."): v for key, v in map(parse_setting, own)}
    build(Sweeping, options, "sweep")  # a name that it does not have is an error of the settings
    live = not quiet and not as_json and sys.stdout.isatty()
    with tolerant_streams(), only_json(as_json):
        with _Bar() as bar:
            found = sweep(
                source,
                space,
                out,
                **options,
                recipe=recipe,
                settings=shared,
                start_from=start,
                resume=resume,
                progress=bar.update if live else None,
                report=(lambda line: None) if quiet else bar.say,
                warn=warn,
            )
        _say_result(found, quiet, last=not (quiet and as_json))
    if as_json:
        print_json({"folder": str(found.folder.path), **found.as_dict()})
    return 130 if found.interrupted else 0


def _say_result(found: Sweep, quiet: bool, *, last: bool) -> None:
    def report(line: str) -> None:
        if not quiet:
            say(line)

    place = found.folder.path
    report(f"sweep folder {place}")
    if found.interrupted:
        command = f"xpnet train --out {shlex.quote(str(place))} --resume"
        say(f"{found.stopped}; resume with: {command}")
        return
    if found.stopped:
        report(f"stopped: {found.stopped}; to search on, resume with a longer sweep.time")
    best, title = found.best, found.metric.title
    assert best is not None
    assert best.value is not None
    plain, compared = found.plain, ""
    if plain == best:
        compared = ", with the settings as they were"
    elif plain is not None and plain.value is not None:
        compared = f"; the settings as they were had {plain.value:.4f}"
    report(f"best trial {best.number}: {title} {best.value:.4f}{compared}")
    report(" ".join(f"--set {shlex.quote(word)}" for word in found.words(best)))
    report(f"best run {found.folder.best_path}")
    if found.folder.page_path.is_file():
        report(f"report {found.folder.page_path}")
    if found.run is not None:
        say_test(found.run.test, report, last=last)


class _Bar:
    """A bar over the trials on a terminal; elsewhere lines alone."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.task: Any = None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def update(self, status: Status) -> None:
        """Show how far the sweep is."""
        if self.progress is None:
            self.progress = _rich_progress()
            self.task = self.progress.add_task("", total=status.total, numbers="", pace="")
            self.progress.start()
        numbers = "" if status.best is None else f"best {status.title} {status.best:.4f}"
        if status.running is not None:
            number, epoch, epochs, value = status.running
            numbers += f"  trial {number}: epoch {epoch}/{epochs} {value:.4f}"
        pace = "" if status.left is None else f"{clock(status.left)} left"
        self.progress.update(
            self.task, completed=status.done, total=status.total, numbers=numbers, pace=pace
        )

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self.progress is None:
            say(line)
        else:
            say_above(self.progress, line)


def _rich_progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[numbers]}"),
        TextColumn("{task.fields[pace]}", style="dim"),
        console=Console(file=sys.stdout, highlight=False),
        transient=True,
    )
