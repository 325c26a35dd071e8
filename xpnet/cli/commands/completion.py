"""``xpnet completion``."""

import click


@click.command()
@click.argument("shell", required=False, type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--install", is_flag=True, help="Write it where the shell looks for it.")
def completion(shell: str | None, install: bool) -> int:
    """Complete commands, options, files, runs, settings and columns at the TAB key.

    Prints what the shell has to run, by default yours, or installs it.

    \b
    xpnet completion --install
    eval "$(xpnet completion bash)"                for this shell alone
    """
    import os

    from xpnet.cli.completion import SHELLS, script
    from xpnet.cli.output import say, write_output
    from xpnet.errors import ConfigError

    name = shell or os.path.basename(os.environ.get("SHELL", ""))
    if name not in SHELLS:
        msg = f"the shell {name!r} is not bash, zsh or fish" if name else "no shell is known here"
        raise ConfigError(msg, command="name one, such as xpnet completion bash")
    text = script(name)
    if not install:
        write_output("-", text)
        return 0
    from xpnet.cli.completion.installing import place_of

    path, more = place_of(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_output(str(path), text)
    say(f"wrote {path}", *more)
    return 0
