"""Numba kernels: what `quant` defines and the forward pass needs, fast. `backend` is the door."""
