"""SIMD vectors as Numba types, and the instructions of each level under names of their own."""
