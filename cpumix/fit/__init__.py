"""What fits, at which precision, and how fast: everything behind `cpumix fit` but the printing.

`sources` finds the model's shape, `probe` the machine's bandwidths, `answer` plans every precision
with them and chooses. Nothing here imports Numba or touches weights.
"""
