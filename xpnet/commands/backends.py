"""``xpnet backends``."""

import click


@click.command()
def backends() -> int:
    """List the array libraries and devices that are here, and why others are not.

    \b
    xpnet backends
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from xpnet.backends import backend_class, backend_names, resolve
    from xpnet.errors import BackendError

    table = Table()
    table.add_column("backend", no_wrap=True)
    table.add_column("version", no_wrap=True)
    table.add_column("devices")
    table.add_column("note", overflow="fold")
    for name in backend_names():
        try:
            version, devices, note = backend_class(name).probe()
        except BackendError as error:  # another package's backend that does not load
            version, devices, note = None, (), str(error)
        table.add_row(name, version or "-", ", ".join(devices) or "-", escape(note))
    Console(highlight=False).print(table)
    backend, reason = resolve()
    click.echo(f"auto is {backend.name} on {backend.device_name} ({reason})")
    return 0
