"""``xpnet backends``."""

import click

from xpnet.cli.options import json_option


@click.command()
@json_option
def backends(as_json: bool) -> int:
    """List the available array libraries and devices, and why others are not available.

    Below them is what connects several processes that train together.

    \b
    xpnet backends
    """
    from xpnet.backends import backend_class, backend_names, resolve
    from xpnet.cli.output import print_json, say
    from xpnet.errors import BackendError
    from xpnet.parallel.probe import engines

    found = []
    for name in backend_names():
        try:
            version, devices, note = backend_class(name).probe()
        except BackendError as error:  # a backend of another package that fails to load
            version, devices, note = None, (), str(error)
        found.append((name, version, devices, note))
    connecting = engines()
    backend, reason = resolve()
    if as_json:
        auto = {"backend": backend.name, "device": backend.device_name, "reason": reason}
        keys = ("name", "version", "devices", "note")
        rows = [dict(zip(keys, row, strict=True)) for row in found]
        engine_rows = [engine._asdict() for engine in connecting]
        print_json({"backends": rows, "engines": engine_rows, "auto": auto})
        return 0
    for name, version, devices, note in [*found, *connecting]:
        say(f"{name:<18}{version or '-':<14}{', '.join(devices) or '-'}")
        if note:
            say(f"{'':<18}{note}")
    say(f"auto is {backend.name} on {backend.device_name} ({reason})")
    return 0
