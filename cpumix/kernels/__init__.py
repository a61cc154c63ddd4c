"""Numba kernels: what `quant` defines and the forward pass needs, fast.

`create_backend` is the door. It picks one of two backends: SIMD kernels, or plain loops for
processors without a known level, which also run with the JIT switched off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backend import Backend


def create_backend(threads: int) -> Backend:
    """Return the backend of this process's level, on `threads` threads at most."""
    from .compile.isa import active

    if active().name == "generic":
        from .generic_backend import GenericBackend

        return GenericBackend(threads)
    from .simd_backend import SimdBackend

    return SimdBackend(threads)
