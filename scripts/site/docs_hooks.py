"""What the builder of the site does beside MkDocs: formulas, and pages made from the program."""

import re
from pathlib import Path
from typing import Any

import docs_formulas
import docs_reference
from markdown.extensions import Extension
from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Where a page of the site is from, if not from xpnet/docs: pages link to these, as GitHub needs.
BESIDE = {
    "assets/site.css": HERE / "site.css",
    "assets/site.js": HERE / "site.js",
    "assets/iframe-worker.js": HERE / "iframe-worker.js",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "changelog.md": ROOT / "CHANGELOG.md",
    **{
        f"reports/{path.name}": path
        for path in sorted((ROOT / "scripts/reports").iterdir())
        if path.suffix in (".md", ".png", ".svg")
    },
}
PLACES = {path.relative_to(ROOT).as_posix(): place for place, path in BESIDE.items()}
LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)#\s]*)(#[^)\s]*)?\)")


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
    """Add the files that are elsewhere: the style, a script, and what pages link to."""
    for place, path in BESIDE.items():
        files.append(File.generated(config, place, content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in what is made from the program, and lead links to where the site has their files.

    A link to source leads there on GitHub and in a checkout; in the site, it names the file.
    """
    if page.file.src_uri not in BESIDE:
        markdown = docs_formulas.marked_page(markdown)
    return LINK.sub(_here, docs_reference.filled(markdown))


def _here(link: re.Match) -> str:
    text, up, path, anchor = link.groups()
    place = PLACES.get(path) if up == "../../" else None
    return f"[{text}]({place}{anchor or ''})" if place else text
