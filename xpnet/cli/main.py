"""The command line: ``xpnet COMMAND`` or ``python -m xpnet COMMAND``.

A command's module is imported when it is called, so that ``xpnet --help`` stays instant. To add a
command, write ``xpnet/cli/commands/NAME.py`` with a click command ``NAME``, and a row in
``COMMANDS``.
"""

import contextlib
import importlib
import keyword
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from xpnet import __version__
from xpnet.cli.streams import ensure_streams
from xpnet.errors import XpnetError
from xpnet.escape import escape

if TYPE_CHECKING:
    from xpnet.parallel.launcher import Launch

__all__ = ["cli", "main", "several"]

COMMANDS = {
    "train": "Train on a recipe, a TOML file or a data file.",
    "evaluate": "Measure a trained run on its test data, or on a file.",
    "predict": "Predict classes and probabilities for a file.",
    "show": "Show a run, a folder of runs, or the columns of a table.",
    "compare": "Compare runs: scores, what differs, and whether it is luck.",
    "report": "Write the page of a run: its curves, mistakes and settings.",
    "init": "Write a commented config to start from.",
    "schema": "Write what an editor completes and checks a config by.",
    "import": "Read a network of ONNX or PyTorch as a model.",
    "export": "Write a run as ONNX, its training step too, or for PyTorch.",
    "adopt": "Take back weights that an exported step has trained.",
    "completion": "Complete commands, files and settings at the TAB key.",
    "backends": "List the available array libraries and devices.",
    "explain": "Explain a training step: formulas, code, shapes and numbers.",
    "gradcheck": "Check gradients against finite differences, PyTorch and JAX.",
    "parity": "Compare backends with NumPy, step by step.",
    "bench": "Time a step against its matrix products and other libraries.",
}


COMPLETE = "_XPNET_COMPLETE"  # set by the shell at the TAB key: click does not run the command
# What CuPy raises where the GPU, its driver or CUDA's libraries are at fault.
OF_CUDA = ("CUDARuntimeError", "CUDADriverError", "CompileException", "NVRTCError", "CUBLASError")
OFF = ("", "0", "false", "no", "off")  # values of XPNET_DEBUG that do not turn it on
BY_RANKS = ("train",)  # commands that several processes run together


class LazyGroup(click.Group):
    """A group whose commands are modules, imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command = getattr(importlib.import_module(f"xpnet.cli.commands.{name}"), name)
        if COMPLETE in os.environ:
            from xpnet.cli.completion import completing

            return completing(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from xpnet.settings import did_you_mean

            ctx.fail(f"no command {args[0]!r}; {did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="xpnet")
@click.option("--debug", is_flag=True, help="Show tracebacks; may stand anywhere on the line.")
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=click.Path(),
    envvar="XPNET_PLUGINS",
    metavar="FILE",
    help="Run a Python file that registers layers, losses or update rules (repeatable).",
)
@click.pass_context
def cli(context: click.Context, debug: bool, plugins: tuple[str, ...]) -> None:
    """Train dense neural networks on any Array API library.

    \b
    xpnet train                            the built-in digits, on the best device
    xpnet train mnist --device cuda        on a GPU, with CuPy
    xpnet train my.toml --out runs/first   your own config and run folder
    xpnet --plugin mish.py train my.toml   with a formula of your own
    """
    from xpnet.registry import load_plugin

    name = context.invoked_subcommand
    if name not in BY_RANKS and several() is not None:
        from xpnet.parallel.launcher import refuse_several

        refuse_several(f"xpnet {name}")
    for path in plugins:
        load_plugin(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with 0, 1 for a failed check, 2 for an error or 130 for ^C."""
    args = list(sys.argv[1:] if argv is None else argv)
    ensure_streams()
    if COMPLETE in os.environ:
        importlib.import_module("xpnet.cli.completion").completing(cli)
    debug = "--debug" in args or os.environ.get("XPNET_DEBUG", "").strip().lower() not in OFF
    try:
        words = [a for a in args if a != "--debug"]
        code = cli(words, prog_name="xpnet", standalone_mode=False, obj={"debug": debug})
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 0
    except (KeyboardInterrupt, click.Abort):
        code = _told("interrupted", 130)
    except Exception as error:
        if debug and several() is None:
            raise
        trace = "".join(traceback.format_exception(error)) if debug else ""
        code = _told(f"error: {escape(' '.join(_explanation(error).split()))}", 2, trace)
    sys.exit(code if isinstance(code, int) else 0)


def several() -> "Launch | None":
    """Return how this process was started together with others, None if it was not."""
    if not any(name.endswith("_RANK") or name == "SLURM_PROCID" for name in os.environ):
        return None  # and no library is loaded to find that out
    from xpnet.parallel.launcher import launched

    return launched()


def _told(message: str, code: int, trace: str = "") -> int:
    """Print how the program ends, once if all ranks end so; return its exit code."""

    def tell(who: str) -> None:
        with contextlib.suppress(OSError):  # standard error is gone
            click.echo(f"{trace}{who}{message}", err=True)

    if several() is None:
        tell("")
    else:
        from xpnet.parallel.failure import end_together

        end_together(message, tell, code)
    return code


def _explanation(error: Exception) -> str:
    """Return what went wrong in one line; an error that nobody foresaw is a bug in xpnet."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, MemoryError):
        return f"out of memory: {error or 'try a smaller batch or data set'}"
    if isinstance(error, XpnetError):
        return error.at_command_line
    if isinstance(error, OSError):
        return str(error)
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "no thread can be started: raise the limit on processes (ulimit -u)"
    name = type(error).__name__
    if name in OF_CUDA and "Illegal" not in str(error):
        return f"the GPU cannot be used: {name}: {error}: run nvidia-smi, or use --device cpu"
    return f"{name}: {error} (a bug in xpnet; --debug shows the traceback)"
