"""``xpnet export``."""

import click

from xpnet.cli.output import say


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
def export(
    run: str,
    output: str,
    train: bool,
    form: str | None,
    epochs: int | None,
    rows: int | None,
    lr_input: bool,
    trained: bool,
    runtime: str | None,
) -> int:
    """Write the training step of RUN as an ONNX model, or as a page that trains it in a browser.

    --format torch writes the weights in PyTorch's names, as safetensors, and prints the source that
    loads them.

    \b
    xpnet export runs/first step.onnx --train
    xpnet export runs/first page.html --train
    xpnet export runs/first page.html --train --runtime package/dist
    xpnet export runs/first weights.safetensors --format torch
    """
    from xpnet.errors import ConfigError
    from xpnet.interop.onnx.export_step import export_step

    if form == "torch":
        from xpnet.interop.pytorch.export import write_torch
        from xpnet.run import load

        if train or epochs or rows or lr_input or trained or runtime:
            msg = "--format torch writes the weights alone: omit the other options"
            raise ConfigError(msg)
        for line in write_torch(load(run), output).splitlines():
            say(line)
        return 0
    if not train:
        msg = "this exports the training step: add --train"
        raise ConfigError(msg)
    for line in export_step(
        run,
        output,
        form,
        epochs=epochs,
        rows=rows,
        lr_input=lr_input,
        trained=trained,
        runtime=runtime,
    ):
        say(line)
    return 0
