"""``xpnet backends``."""

import click


@click.command()
def backends() -> int:
    """List the available array libraries and devices, and why others are not available.

    \b
    xpnet backends
    """
    from xpnet.backends import backend_class, backend_names, resolve
    from xpnet.cli.output import say
    from xpnet.errors import BackendError

    for name in backend_names():
        try:
            version, devices, note = backend_class(name).probe()
        except BackendError as error:  # a backend of another package that fails to load
            version, devices, note = None, (), str(error)
        say(f"{name:<18}{version or '-':<14}{', '.join(devices) or '-'}")
        if note:
            say(f"{'':<18}{note}")
    backend, reason = resolve()
    say(f"auto is {backend.name} on {backend.device_name} ({reason})")
    return 0
