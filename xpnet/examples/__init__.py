"""Two programs to read: softmax's derivative by hand, and a training through the Python API."""
