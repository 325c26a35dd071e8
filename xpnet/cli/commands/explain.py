"""``xpnet explain``."""

from typing import Any

import click

FORMATS = ("terminal", "markdown", "latex", "html")


@click.command()
@click.argument("source", nargs=-1, metavar="[SIZES... | RECIPE | FILE.toml | RUN]")
@click.option("--batch", default=1, show_default=True, help="Rows of data.")
@click.option("--sample", default=0, show_default=True, help="The first row to take of the data.")
@click.option("--label", type=int, help="The class of the first row.")
@click.option("--loss", metavar="L", help="Such as softmax_cross_entropy or mean_squared_error.")
@click.option("--activation", metavar="A", help="Of the hidden layers, such as relu or gelu.")
@click.option(
    "--convention",
    type=click.Choice(["column", "rows", "both"]),
    default="both",
    show_default=True,
    help="Samples as columns, z = W x + b, as rows, z = x W + b, or both.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), help="By default, as --output says.")
@click.option("--output", "-o", metavar="FILE", help="Write there: .md, .tex, .html or text.")
@click.option("--backend", default="numpy", show_default=True, metavar="B", help="Computes it.")
@click.option("--seed", type=int, help="Of weights and made-up rows.")
def explain(
    source: tuple[str, ...],
    batch: int,
    sample: int,
    label: int | None,
    loss: str | None,
    activation: str | None,
    convention: Any,
    form: str | None,
    output: str | None,
    backend: str,
    seed: int | None,
) -> int:
    """Take one step of training apart: where does the gradient come from?

    Forward and backward a step at a time: the formula, the code that runs, the shapes, the
    numbers. Then dC/dz and dC/dW five ways, and the element-wise product that is wrong.

    \b
    xpnet explain                                  one example, small enough to read
    xpnet explain 784 128 10 --batch 32            a network of these widths
    xpnet explain digits --sample 3                a recipe, or a TOML file
    xpnet explain runs/first --sample 17 -o explain.html   a trained run; opens in a browser
    """
    from xpnet.backends import resolve
    from xpnet.explanation import explain as explanation_of

    subject = _subject(source, batch, sample, label, loss, activation, seed)
    explanation = explanation_of(subject, resolve(backend, "auto", "float64").backend, convention)
    endings = {".md": "markdown", ".tex": "latex", ".html": "html"}
    if form is None:
        form = next((v for k, v in endings.items() if (output or "").endswith(k)), "terminal")
    _write(explanation, form, output)
    return 0


def _subject(
    source: tuple[str, ...],
    batch: int,
    sample: int,
    label: int | None,
    loss: str | None,
    activation: str | None,
    seed: int | None,
) -> Any:
    from pathlib import Path

    from xpnet.errors import ConfigError
    from xpnet.explanation import of_config, of_run, of_sizes, tiny

    if batch < 1 or sample < 0 or (seed is not None and seed < 0):
        msg = "explain needs --batch >= 1, --sample >= 0 and --seed >= 0; "
        msg += f"got {batch}, {sample} and {seed or 0}"
        raise ConfigError(msg)
    if not source and batch == 1:
        return tiny(loss, activation, label, seed)
    if not source or all(s.isdigit() for s in source):
        sizes = [int(s) for s in source] or [3, 3]
        return of_sizes(sizes, batch, loss, activation, label, seed)
    if len(source) > 1:
        msg = f"give sizes such as 784 128 10, or one recipe, file or run; got {' '.join(source)}"
        raise ConfigError(msg)
    if not Path(source[0]).is_dir():
        return of_config(source[0], batch, sample, loss, activation, label, seed)
    if (loss, activation, seed) != (None, None, None):
        msg = "a run has its own loss, activation and seed: leave out those options"
        raise ConfigError(msg)
    return of_run(source[0], batch, sample, label)


def _write(explanation: Any, form: str, output: str | None) -> None:
    import importlib

    renderer = importlib.import_module(f"xpnet.explanation.{form}")
    if form == "terminal":
        import io

        from rich.console import Console

        buffer = None if output is None else io.StringIO()
        renderer.render(explanation, Console(file=buffer, highlight=False, width=_width(output)))
        text = buffer.getvalue() if buffer else None
    else:
        text = renderer.render(explanation)
    if text is None:
        return
    if output is None:
        click.echo(text, nl=False)
        return
    from xpnet.cli.output import write_output

    write_output(output, text)
    click.echo(f"wrote {output}", err=True)


def _width(output: str | None) -> int | None:
    """80 columns in a file; on a terminal, what it has."""
    return 80 if output is not None else None
