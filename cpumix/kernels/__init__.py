"""Numba kernels: what `quant` defines and the forward pass needs, fast. `engine` is the door."""
