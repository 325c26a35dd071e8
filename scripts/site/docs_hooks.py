"""What the builder of the site does beside MkDocs: formulas, and pages made from the program."""

import re
from pathlib import Path
from typing import Any

import docs_formulas
import docs_reference
from markdown.extensions import Extension
from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
ASSETS = ("site.css", "iframe-worker.js")


class Formulas(Extension):
    """Markdown in which marked formulas are MathML."""

    def extendMarkdown(self, md: Any) -> None:  # noqa: N802
        docs_formulas.register(md)


def on_config(config: Any) -> Any:
    """Add the formulas, and the script without which the search needs a server."""
    config.markdown_extensions.append(Formulas())
    config.extra["polyfills"] = ["assets/iframe-worker.js"]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the style sheet and the script, which are beside this file."""
    for name in ASSETS:
        text = (HERE / name).read_text("utf-8")
        files.append(File.generated(config, f"assets/{name}", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in what is made from the program; a link out of the pages names the file instead.

    Such a link leads somewhere on GitHub, and in a checkout; the site stands alone.
    """
    markdown = docs_reference.filled(markdown)
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)\s]*\)", r"\1", markdown)
