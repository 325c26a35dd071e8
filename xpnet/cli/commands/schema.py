"""``xpnet schema``."""

import click


@click.command()
@click.option("--output", "-o", metavar="FILE", help="Write to FILE instead of standard output.")
def schema(output: str | None) -> int:
    """Write the JSON Schema of a config, by which an editor completes and checks it.

    It knows every setting, with what it means, its values and its range, plugins that are installed
    included. An editor with Taplo in it (Even Better TOML in VS Code, or the language server) takes
    it from the first line of the config, a comment: #:schema ./xpnet.schema.json (init --schema
    writes both).

    \b
    xpnet schema --output xpnet.schema.json
    """
    from xpnet.cli.output import say, write_output

    write_output(output or "-", text())
    if output not in (None, "-"):
        say(f"wrote {output}; name it in the first line of a config: #:schema {output}")
    return 0


def text() -> str:
    """Return the schema as JSON."""
    import json

    from xpnet.run.schema import config_schema

    return json.dumps(config_schema(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
