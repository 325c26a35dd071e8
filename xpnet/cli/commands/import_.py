"""``xpnet import``."""

import click

from xpnet.cli.options import json_option
from xpnet.cli.output import say_written


@click.command(name="import")
@click.argument("file", metavar="FILE")
@click.argument("output", metavar="OUT", type=click.Path())
@click.option(
    "--like", metavar="RUN", help="A run or a saved model with the layers of a PyTorch state dict."
)
@click.option("--loss", metavar="NAME", help="By default what the last layer suggests.")
@json_option
def import_(file: str, output: str, like: str | None, loss: str | None, as_json: bool) -> int:
    """Write the network in FILE, ONNX or PyTorch's weights, as a model of xpnet.

    FILE is *.onnx, or a state dict, *.pt, *.pth or *.safetensors, which says nothing of what is
    between its layers: --like names a model that has them. OUT is explained, checked, predicted
    with, and trained further as any saved model.

    \b
    xpnet import net.onnx net.safetensors
    xpnet import weights.pt net.safetensors --like runs/first
    xpnet train new.csv --from net.safetensors
    """
    from xpnet.interop.importing import import_file
    from xpnet.training.saved import file_at

    lines = import_file(file, output, like=like, loss=loss)
    say_written(file_at(output), lines, as_json)
    return 0
