"""``xpnet adopt``."""

import click

from xpnet.cli.options import json_option
from xpnet.cli.output import say_written


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("file", metavar="FILE")
@click.option("--out", required=True, metavar="DIR", help="The new run folder.")
@json_option
def adopt(run: str, file: str, out: str, as_json: bool) -> int:
    """Take back weights that RUN's exported step has trained, such as those that a page wrote.

    The result is a run of its own, with RUN's config and preprocessing: it is evaluated, predicts,
    and is trained further with --resume.

    \b
    xpnet adopt runs/first first-step-600.safetensors --out runs/second
    xpnet evaluate runs/second
    """
    from xpnet.interop.onnx.adopt import adopt as adopted

    say_written(out, adopted(run, file, out), as_json)
    return 0
