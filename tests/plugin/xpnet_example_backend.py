"""The smallest backend of a third party: NumPy that counts what it places."""

from xpnet.backends.numpy import NumpyBackend

__all__ = ["ExampleBackend"]


class ExampleBackend(NumpyBackend):
    """NumPy under another name."""

    name = "example"
    placed = 0

    def place(self, host):
        """Count, and place."""
        ExampleBackend.placed += 1
        return super().place(host)
