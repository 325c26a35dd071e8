"""``xpnet export``."""

from typing import Any

import click

from xpnet.cli.options import json_option
from xpnet.cli.output import say_written


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("output", metavar="FILE", type=click.Path(dir_okay=False))
@click.option("--train", is_flag=True, help="The training step, or a page that trains.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["onnx", "html", "torch"]),
    help="By default from FILE's name.",
)
@click.option("--epochs", type=click.IntRange(1), help="Length of the schedule; the run's.")
@click.option("--rows", type=click.IntRange(1), help="With html: rows to train on, the first.")
@click.option("--lr-input", is_flag=True, help="With onnx: the learning rate is an input.")
@click.option("--trained", is_flag=True, help="With html: begin with the run's weights.")
@click.option(
    "--runtime",
    metavar="DIR|URL",
    help="With html: folder dist of the npm package onnxruntime-web, put into the page, or an "
    "https address; by default a CDN.",
)
@click.option(
    "--opset",
    type=int,
    metavar="N",
    help="With onnx: 15 to 21, for older runtimes; by default 21.",
)
@json_option
def export(
    run: str,
    output: str,
    train: bool,
    form: Any,
    epochs: int | None,
    rows: int | None,
    lr_input: bool,
    trained: bool,
    runtime: str | None,
    opset: int | None,
    as_json: bool,
) -> int:
    """Write RUN as a file for other programs: ONNX, or the weights in PyTorch's names.

    The ONNX model takes raw rows, an input for each column of a table, and gives labels and
    probabilities, or values; with --train it is the training step, or a page that trains it in a
    browser. --format torch (*.safetensors) prints the source that loads the weights.

    \b
    xpnet export runs/first model.onnx
    xpnet export runs/first model.onnx --opset 17
    xpnet export runs/first weights.safetensors
    xpnet export runs/first step.onnx --train
    xpnet export runs/first page.html --train
    xpnet export runs/first page.html --train --runtime package/dist
    """
    from xpnet.interop.export import export as write

    lines = write(
        run,
        output,
        train=train,
        form=form,
        epochs=epochs,
        rows=rows,
        lr_input=lr_input,
        trained=trained,
        runtime=runtime,
        opset=opset,
    )
    say_written(output, lines, as_json)
    return 0
