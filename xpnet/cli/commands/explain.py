"""``xpnet explain``."""

from typing import Any

import click

FORMATS = ("terminal", "markdown", "latex", "html")
MOST_ROWS = 10**6


@click.command()
@click.argument("source", nargs=-1, metavar="[SIZES... | RECIPE | FILE.toml | RUN]")
@click.option("--batch", default=1, show_default=True, help="Number of rows.")
@click.option("--sample", default=0, show_default=True, help="First row of the data to use.")
@click.option("--label", type=int, help="Class of the first row.")
@click.option("--loss", metavar="L", help="Loss, e.g. softmax_cross_entropy, mean_squared_error.")
@click.option("--activation", metavar="A", help="Activation of the hidden layers, e.g. relu.")
@click.option(
    "--convention",
    type=click.Choice(["column", "rows", "both"]),
    default="both",
    show_default=True,
    help="Samples as columns (z = W x + b), as rows (z = x W + b), or both.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), help="By default from --output.")
@click.option("--output", "-o", metavar="FILE", help="File to write: .md, .tex, .html or text.")
@click.option("--backend", default="numpy", show_default=True, metavar="B", help="Array library.")
@click.option("--seed", type=int, help="Seed of the weights and the synthetic rows.")
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
    """Explain one training step: where does the gradient come from?

    Goes forward and backward one operation at a time: its formula, the code that runs, the shapes
    and the numbers. Then derives dC/dz and dC/dW in five ways, and shows the element-wise product
    that is wrong.

    \b
    xpnet explain                                  one example, small enough to read
    xpnet explain 784 128 10 --batch 32            a network of these widths
    xpnet explain digits --sample 3                a recipe or a TOML file
    xpnet explain runs/first --sample 17 -o explain.html   a trained run, for a browser
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
    import re
    from pathlib import Path

    from xpnet.errors import ConfigError
    from xpnet.explanation import of_config, of_run, of_sizes, tiny

    if not (1 <= batch <= MOST_ROWS and sample >= 0 and 0 <= (seed or 0) < 2**63):
        msg = f"explain needs --batch 1 to {MOST_ROWS}, --sample >= 0 and --seed 0 to 2^63 - 1; "
        msg += f"got {batch}, {sample} and {seed or 0}"
        raise ConfigError(msg)
    if not source and batch == 1:
        return tiny(loss, activation, label, seed)
    if not source or all(re.fullmatch("[0-9]{1,19}", s) for s in source):
        sizes = [int(s) for s in source] or [3, 3]
        return of_sizes(sizes, batch, loss, activation, label, seed)
    if len(source) > 1:
        msg = f"give sizes such as 784 128 10, or one recipe, file or run; got {' '.join(source)}"
        raise ConfigError(msg)
    if not Path(source[0]).is_dir():
        return of_config(source[0], batch, sample, loss, activation, label, seed)
    if (loss, activation, seed) != (None, None, None):
        msg = "a run has its own loss, activation and seed: omit --loss, --activation and --seed"
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
    """Return 80 columns for a file, None (its own width) for a terminal."""
    return 80 if output is not None else None
