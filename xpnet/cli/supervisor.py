"""``xpnet train --ranks N --max-restarts M``: processes that are started, and restarted, here.

The supervisor is no rank: it chooses the run folder, starts the launcher of an MPI (or one process,
without ``--ranks``), hands signals on, and resumes from the last checkpoint what has crashed. An
error that would come again (exit code 2) and a stop that was asked for are no crash.
"""

import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import click

from xpnet.cli.launching import launching, this_python
from xpnet.errors import BackendError, ConfigError
from xpnet.parallel.launcher import launched
from xpnet.run import RunFolder
from xpnet.run.train_run import new_folder
from xpnet.storage import CheckpointFolder
from xpnet.training.signals import SIGNALS

__all__ = ["supervise"]

OPTIONS = ("ranks", "launcher", "max_restarts")  # of the command, which are the supervisor's
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
AN_ERROR = 2  # exit code of what would come again
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a restart: twice as long if nothing was saved


def supervise(context: click.Context, max_restarts: int, warn: Callable[[str], None]) -> int:
    """Run the command of ``context`` in the processes that it asks for; return the exit code.

    After a crash it is resumed, at most ``max_restarts`` times. Raises ConfigError, BackendError
    where nothing can be started.
    """
    asked = context.params
    ranks, launcher, folder = asked["ranks"], asked["launcher"], asked["out"]
    _check(asked)
    start = [] if ranks is None else [*launching(launcher, "--ranks"), "-n", str(ranks)]
    options, positional = _arguments(context)
    folder = folder or new_folder(asked["source"])
    command = [*start, *this_python(), "-m", "xpnet", *options, "--out", folder]
    wait, before = FIRST_WAIT, None
    for attempt in range(max_restarts + 1):
        resume = ["--resume"] if attempt or asked["resume"] else []
        code, stopped = _run([*command, *resume, *positional], ranks=ranks is not None)
        if stopped or code in (0, AN_ERROR, *STOPPED):
            return code if code in (0, AN_ERROR, *STOPPED) else STOPPED[0]
        ended = f"the training has crashed: {_meaning(code)}"
        if attempt == max_restarts:
            left = f", after {_times(max_restarts)}" if max_restarts else ""
            warn(f"{ended}{left}; resume with: {_resuming(folder, ranks)}")
            return code
        warn(f"{ended}; restart {attempt + 1} of {max_restarts}, from its last checkpoint")
        now = max(CheckpointFolder(RunFolder(folder).checkpoint_path).steps(), default=None)
        wait = FIRST_WAIT if now != before else min(2 * wait, LONGEST_WAIT)
        before = now
        if _interrupted(wait):
            break
    return STOPPED[0]


def _check(asked: Mapping[str, Any]) -> None:
    """Raise ConfigError for what does not go together."""
    launch = launched()
    if launch is not None:
        msg = f"--ranks and --max-restarts start processes, and {launch.said}"
        raise ConfigError(msg, command="leave one of the two out")
    if asked["launcher"] is not None and asked["ranks"] is None:
        msg = "--launcher starts the processes of --ranks"
        raise ConfigError(msg, command="add --ranks N, or leave it out")
    if asked["search"] is not None:
        msg = "a sweep has its processes by sweep.parallel, and resumes by itself: leave out "
        raise ConfigError(msg + "--ranks, --launcher and --max-restarts")
    if asked["resume"] and asked["out"] is None:
        msg = "to resume, name the run folder"
        raise ConfigError(msg, command="add --out DIR")


def _arguments(context: click.Context) -> tuple[list[str], list[str]]:
    """The options and arguments of ``context``, but for the folder and what is the supervisor's."""
    root = context.find_root()
    words = [word for path in root.params["plugins"] for word in ("--plugin", path)]
    words += ["--debug"] if (root.obj or {}).get("debug") else []
    words.append(context.info_name or "train")
    positional: list[str] = []
    for parameter in context.command.params:
        name, value = parameter.name or "", context.params.get(parameter.name or "")
        source = context.get_parameter_source(name)
        if source != click.core.ParameterSource.COMMANDLINE or name in (*OPTIONS, "out", "resume"):
            continue
        if isinstance(parameter, click.Argument):
            positional.append(str(value))
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[-1])
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"{parameter.opts[-1]}={v}" for v in values]
    return words, ["--", *positional] if positional else []


def _run(command: Sequence[str], *, ranks: bool = False) -> tuple[int, bool]:
    """Run a command to its end; return its exit code, and whether it was asked to stop.

    With ``ranks`` it is a launcher, which hands the first request on to them.
    """
    received: list[int] = []
    process: subprocess.Popen | None = None

    def hand_on(number: int, frame: FrameType | None = None) -> None:
        received.append(number)
        if process is not None:
            first = len(received) == 1 and ranks and hasattr(signal, "SIGUSR1")
            # A launcher ends at a hang-up at once, and some end their ranks soon after the others.
            ask = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
            process.send_signal(signal.SIGUSR1 if first else ask)

    watched = [s for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN]  # as nohup has it
    before = {s: signal.signal(s, hand_on) for s in watched}
    try:
        # A session of its own: what the terminal sends, it gets from here, once.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        if received:  # before there was anything to hand it on to
            hand_on(received.pop(0))
        code = process.wait()
    except OSError as error:
        msg = f"cannot start {command[0]}: {error.strerror or error}"
        raise BackendError(msg) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return (code if code >= 0 else 128 - code), bool(received)


def _interrupted(seconds: float) -> bool:
    """Wait; return whether Ctrl-C came meanwhile."""
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        return True
    return False


def _meaning(code: int) -> str:
    """What an exit code says: where a signal ended a process, a launcher may say its number."""
    number = code - 128 if code > 128 else code
    names = {s.value: s.name for s in signal.Signals}
    if code <= 128 and names.get(number) not in ("SIGABRT", "SIGBUS", "SIGKILL", "SIGSEGV"):
        return f"exit code {code}"
    name = names.get(number, "a signal")
    more = ", which is what happens where memory runs out" if name == "SIGKILL" else ""
    return f"exit code {code} ({name}{more})"


def _times(n: int) -> str:
    return "1 restart" if n == 1 else f"{n} restarts"


def _resuming(folder: str, ranks: int | None) -> str:
    """The command that goes on with a run."""
    more = "" if ranks is None else f" --ranks {ranks}"
    return f"xpnet train --out {shlex.quote(folder)} --resume{more}"
