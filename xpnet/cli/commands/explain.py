"""``xpnet explain``."""

import os.path  # its `exists` takes any text
from typing import Any

import click

from xpnet.cli.options import json_option

FORMATS = ("terminal", "markdown", "latex", "html")


@click.command()
@click.argument("source", nargs=-1, metavar="[SIZES... | RECIPE | FILE.toml | RUN [FILE]]")
@click.option("--batch", type=int, help="Number of rows; by default 1.")
@click.option(
    "--sample",
    metavar="worst|unsure|N",
    help="Row of the data: with the largest loss, with the likeliest two classes closest, or number"
    " N. Of a run, by default the worst, or unsure if it gets all right; else 0.",
)
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
@json_option
def explain(
    source: tuple[str, ...],
    batch: int | None,
    sample: Any,
    label: int | None,
    loss: str | None,
    activation: str | None,
    convention: Any,
    form: str | None,
    output: str | None,
    backend: str,
    seed: int | None,
    as_json: bool,
) -> int:
    """Explain one training step: where does the gradient come from?

    Goes forward and backward one operation at a time: its formula, the code that runs, the shapes
    and the numbers; through the Jacobian and fused. Then derives dC/dz and dC/dW in five ways, and
    shows the element-wise product that is wrong.

    \b
    xpnet explain                                  one example, small enough to read
    xpnet explain 784 128 10 --batch 32            a network of these widths
    xpnet explain digits --sample 3                a recipe or a TOML file
    xpnet explain runs/first                       a trained run, on its worst mistake
    xpnet explain runs/first more.csv              the same of the rows of another file
    xpnet explain runs/first --sample 17 -o explain.html   for a browser
    """
    from xpnet.backends import resolve
    from xpnet.cli.output import check_places, print_json
    from xpnet.explanation import explain as explanation_of

    check_places(output, as_json=as_json)
    words, rows = _source(source)
    explanation = explanation_of(
        words,
        resolve(backend, "auto", "float64").backend,
        convention,
        batch=batch,
        sample=sample,
        label=label,
        loss=loss,
        activation=activation,
        seed=seed,
        x=rows,
    )
    if as_json:
        from xpnet.explanation.document import document

        print_json(document(explanation))
    endings = {".md": "markdown", ".tex": "latex", ".html": "html"}
    if form is None:
        form = next((v for k, v in endings.items() if (output or "").endswith(k)), "terminal")
    if output is not None or not as_json:
        _write(explanation, form, output)
    return 0


def _source(words: tuple[str, ...]) -> tuple[list[int] | str | None, str | None]:
    """The words as widths, or as the one recipe, file or run that they must be; and its rows."""
    import re

    from xpnet.errors import ConfigError

    if all(re.fullmatch("[0-9]{1,19}", word) for word in words):
        return [int(word) for word in words] or None, None
    if len(words) > 2 or (len(words) == 2 and not os.path.exists(words[0])):
        msg = "give sizes such as 784 128 10, or one recipe, file or run, and for a run a file of "
        msg += f"rows; got {' '.join(words)}"
        raise ConfigError(msg)
    return words[0], words[1] if len(words) == 2 else None


def _write(explanation: Any, form: str, output: str | None) -> None:
    from xpnet.cli.output import say, write_output

    if output is not None:
        write_output(output, explanation.render(form))
        say(f"wrote {output}", err=True)
    elif form != "terminal":
        write_output("-", explanation.render(form))
    else:  # in the colours and the width of this one
        from rich.console import Console

        from xpnet.explanation import terminal

        terminal.show(explanation, Console(highlight=False))
