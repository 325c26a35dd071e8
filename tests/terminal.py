"""A program in a terminal of its own, which is typed into and read."""

import os
import re
import select
import subprocess
import sys
import time

# Another process: this one may have threads, and is not to be forked.
SPAWN = "import pty, sys; pty.spawn(sys.argv[1:])"
CONTROL = re.compile(r"\x1b(\[[0-9;?<>=]*[A-Za-z~]|\][^\x07]*\x07|[=>()][AB0]?)|[\r\x07\x08]")


class Terminal:
    """Runs `command` in `folder`; `typed` sends keys, and waits for what they bring up."""

    def __init__(self, command, folder, environment):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SPAWN, *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def typed(self, keys, expected, seconds=30):
        """Return what is shown from now on, once it matches; fails if it never does."""
        self.process.stdin.write(keys.encode())
        self.process.stdin.flush()
        screen, shown, end = self.process.stdout.fileno(), "", time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([screen], [], [], 0.2)[0]:
                block = os.read(screen, 65536)
                if not block:
                    break
                shown += block.decode(errors="replace")
            if re.search(expected, CONTROL.sub("", shown)):
                return CONTROL.sub("", shown)
        msg = f"no {expected!r} in {CONTROL.sub('', shown)!r}"
        raise AssertionError(msg)

    def close(self):
        """End the program, which sees its terminal close."""
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
