"""``xpnet init``."""

import click


@click.command()
@click.argument("path", default="xpnet.toml", metavar="[FILE]")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option(
    "--schema", is_flag=True, help="Also write what an editor completes and checks FILE by."
)
def init(path: str, force: bool, schema: bool) -> int:
    """Write a config with every setting explained, ready for ``xpnet train FILE``.

    \b
    xpnet init my.toml
    xpnet init my.toml --schema
    xpnet train my.toml
    """
    from pathlib import Path

    from xpnet.cli.output import say, write_output
    from xpnet.errors import ConfigError
    from xpnet.run.config_sources import template_text

    if not path:
        msg = "the name of the file is empty: give one, such as my.toml"
        raise ConfigError(msg)
    if Path(path).exists() and not force:
        msg = f"{path} already exists: choose another name, or add --force to overwrite it"
        raise ConfigError(msg)
    if schema:
        from xpnet.cli.commands.schema import text
        from xpnet.run.schema import FILE_NAME

        beside = Path(path).with_name(FILE_NAME)
        write_output(str(beside), text())
        write_output(path, template_text(f"./{FILE_NAME}"))
        say(f"wrote {beside}, which the first line of {path} names for editors")
    else:
        write_output(path, template_text())
    say(f"wrote {path}; train with: xpnet train {path}")
    return 0
